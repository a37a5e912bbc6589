"""``python -m rl_forecast.sweep``: compare methods over worlds and seeds, weights tuned on validation tasks."""

from __future__ import annotations

import sys

from rl_forecast.errors import run_command
from rl_forecast.experiments.command_line import parse_config
from rl_forecast.experiments.sweep.config import SweepConfig, check_sweep

__all__ = ["main"]

_DESCRIPTION = """Train a base agent per world and seed, fine-tune it with every method, and compare them on held-out
tasks. Each method's weight is chosen on validation tasks of other seeds, with the same budget and under the same
constraints. Finished jobs are kept: the same command goes on with an interrupted sweep."""


def main(argv: list[str] | None = None) -> int:
    """Run a sweep.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0; 1 if jobs failed; 2 after bad input
    """
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        if not any(argument.startswith(("--preset", "--config")) for argument in arguments):
            preset = ["--preset", "rl-study"]
        else:
            preset = []
        config = parse_config(SweepConfig, [*preset, *arguments], "python -m rl_forecast.sweep", _DESCRIPTION)
        check_sweep(config)
        from rl_forecast.experiments.sweep.report import print_comparison
        from rl_forecast.experiments.sweep.run import JobsFailedError, open_sweep, run_sweep

        folder = open_sweep(config)
        code = 0
        try:
            print_comparison(run_sweep(config, folder), config, folder)
        except JobsFailedError as failed:
            for failure in failed.failures:
                print(f"failed: {failure.key}: {failure.reason}", file=sys.stderr)
            print("all other jobs are kept: the same command tries these again", file=sys.stderr)
            code = 1
        if config.report and any((folder.path / "held_out").glob("*.parquet")):
            from rl_forecast.experiments.report.page import write_report

            print(f"report: {write_report([str(folder.path)], folder.path / 'report')}")
        return code

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
