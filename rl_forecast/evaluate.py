"""``python -m rl_forecast.evaluate``: repeat the held-out evaluation of a run with other sizes or forecasters."""

from __future__ import annotations

import sys
from pathlib import Path

from rl_forecast.errors import run_command
from rl_forecast.experiments.command_line import RUNS, Parser, parse_fields, read_config
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import EvaluationConfig

_PROG = "python -m rl_forecast.evaluate"
_DESCRIPTION = """Repeat the held-out evaluation of a finished run from its files, with other set sizes, another tail_k
or another forecaster. Tasks that the run has scored are read; tasks beyond them are scored with the saved weights."""


def main(argv: list[str] | None = None) -> int:
    """Evaluate a run folder again.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0, or 2 after bad input
    """
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _evaluate(arguments))


def _evaluate(arguments: list[str]) -> int:
    parser = Parser(
        prog=_PROG,
        usage="%(prog)s RUN_FOLDER [--field value ...]",
        description=_DESCRIPTION,
        epilog="The defaults are those of the run, where one is named.",
    )
    parser.add_argument("run", help="run folder of a finished run")
    # Which options there are, and their defaults, depends on the run.
    named = next((path for path in map(Path, arguments) if (path / "config.yaml").is_file()), None)
    config = None if named is None else read_config(named / "config.yaml", RUNS)
    defaults = EvaluationConfig() if config is None else config.evaluation
    evaluation, given = parse_fields(parser, type(defaults), arguments, defaults)
    folder = RunFolder.open(given.run)
    if config is None or Path(given.run) != named:
        config = read_config(folder.path / "config.yaml", RUNS)
    from rl_forecast.experiments.experiment import evaluate_run
    from rl_forecast.experiments.processes import Processes

    evaluate_run(config, evaluation, folder, Processes.join(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
