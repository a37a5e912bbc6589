"""``rl-forecast report``: one page about runs and sweeps, with its figures and tables."""

from __future__ import annotations

from pathlib import Path

from rl_forecast.commands.shared import Parser

_EPILOG = """\
Run folders of train (any seeds, worlds and language models) and folders of sweeps are read; a folder that holds some
stands for all of them. Runs of the same settings are grouped over their seeds.

It writes report.html (one page that needs no network), figures/ and tables/.

examples:
  rl-forecast report runs/default-0 runs/default-1 runs/default-2
  rl-forecast report runs/rl-study --out report
"""


def main(argv: list[str]) -> int:
    description = "Write a report on runs and sweeps that people can read."
    parser = Parser("report", "RUN [RUN ...] [--out DIR]", description, _EPILOG)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder of train, folder of a sweep, or of several")
    out_help = "folder to write (default: report, inside RUN if there is only one)"
    parser.add_argument("-o", "--out", metavar="DIR", help=out_help)
    args = parser.parse_args(argv)
    out = args.out or (Path(args.runs[0]) / "report" if len(args.runs) == 1 else Path("report"))
    # Imported last: --help must answer at once.
    from rl_forecast.experiments.report.page import write_report

    print(f"report: {write_report(args.runs, out)}")
    return 0
