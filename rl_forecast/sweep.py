"""``python -m rl_forecast.sweep``: compare methods over worlds and seeds, weights tuned on validation tasks."""

from __future__ import annotations

import sys

from rl_forecast.errors import run_command
from rl_forecast.experiments.command_line import parse_job
from rl_forecast.experiments.sweep.config import SWEEPS, check_sweep

_PROG = "python -m rl_forecast.sweep"
_DESCRIPTION = """Train a base agent per world and seed, fine-tune it with every method, and compare them on held-out
tasks. Each method's weight is chosen on validation tasks of other seeds, with the same budget and under the same
constraints. Finished jobs are kept: the same command resumes an interrupted sweep."""


def main(argv: list[str] | None = None) -> int:
    """Run a sweep; exit code 0, 1 if jobs failed, 2 after bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _sweep(arguments))


def _sweep(arguments: list[str]) -> int:
    if not any(argument.startswith(("--preset", "--config")) for argument in arguments):
        arguments = ["--preset", "rl-study", *arguments]
    config = parse_job(SWEEPS, arguments, _PROG, dict.fromkeys(SWEEPS, (_DESCRIPTION, "")))
    check_sweep(config)
    # Imported last: the help must not wait for torch.
    from rl_forecast.experiments.sweep.results import print_comparison
    from rl_forecast.experiments.sweep.run import open_sweep, run_sweep

    folder = open_sweep(config)
    failures = run_sweep(config, folder)
    for failure in failures:
        print(f"failed: {failure.key}: {failure.reason}", file=sys.stderr)
    if failures:
        print("all other jobs are kept: the same command tries these again", file=sys.stderr)
    else:
        print_comparison(config, folder)
    if config.report and any((folder.path / "held_out").glob("*.parquet")):
        from rl_forecast.experiments.report.page import write_report

        print(f"report: {write_report([str(folder.path)], folder.path / 'report')}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
