"""``python -m rl_forecast.evaluate``: repeat the held-out evaluation of a run with other sizes or forecasters."""

from __future__ import annotations

import sys

from rl_forecast.experiments.command_line import Parser, parse_config, parse_fields
from rl_forecast.experiments.config import Config, EvaluationConfig, check_config
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.usage import run_command

__all__ = ["main"]

_PROG = "python -m rl_forecast.evaluate"
_DESCRIPTION = """Repeat the held-out evaluation of a finished run from its files, with other set sizes, another tail_k
or another forecaster. Tasks that the run has scored are read; tasks beyond them are scored with the saved weights."""


def main(argv: list[str] | None = None) -> int:
    """Evaluate a run folder again.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0, or 2 after bad input
    """
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        _, given = parse_fields(_parser(), EvaluationConfig, arguments)
        folder = RunFolder.open(given.run)
        config = parse_config(Config, ["--config", str(folder.path / "config.yaml")], _PROG, "")
        evaluation, _ = parse_fields(_parser(), EvaluationConfig, arguments, defaults=config.evaluation)
        check_config(evaluation)
        from rl_forecast.experiments.evaluation_job import run_evaluation

        run_evaluation(folder, config, evaluation)
        return 0

    return run_command(command)


def _parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        usage="%(prog)s RUN_FOLDER [--field value ...]",
        description=_DESCRIPTION,
        epilog="The defaults shown are those of the class; the run's own settings replace them.",
    )
    parser.add_argument("run", help="run folder of a finished run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
