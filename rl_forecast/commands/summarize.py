"""``rl-forecast summarize``: a small mergeable summary of a large score file."""

from __future__ import annotations

from rl_forecast.commands import shared
from rl_forecast.commands.shared import Parser

_EPILOG = """\
A summary of a few kilobytes holds all that forecast needs; summaries of shards merge exactly, so any cluster's
map-reduce can make them.

examples:
  rl-forecast summarize shard-17.parquet --column log_p -o shard-17.json
  rl-forecast forecast shard-*.json -n 1e9
"""


def main(argv: list[str]) -> int:
    parser = Parser(
        "summarize",
        "FILE [FILE ...] -o FILE [options]",
        "Summarise the failure scores of an evaluation, or merge summaries.",
        _EPILOG,
    )
    shared.add_reading_options(parser)
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="summary to write (.json)")
    args = parser.parse_args(argv)
    result = shared.read(args)[""]

    from rl_forecast.io import save_summary
    from rl_forecast.scores import format_probability

    summary = result.summary
    with shared.writing(args.out, args.files):
        save_summary(summary, args.out)
    unscored = f", {summary.n_unscored} queries without a score" if summary.n_unscored else ""
    largest = format_probability(float(summary.top[0]))
    print(f"{args.out}: {summary.count} scores, the {summary.top.size} largest kept, worst p = {largest}{unscored}")
    shared.print_lines(result.notes)
    return 0
