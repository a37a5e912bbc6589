"""``python -m rl_forecast.evaluate``: repeat the held-out evaluation of a run with other sizes or forecasters."""

from __future__ import annotations

import sys
from pathlib import Path

from rl_forecast.errors import run_command
from rl_forecast.experiments.command_line import Parser, parse_config, parse_fields
from rl_forecast.experiments.jobs import job_of_file
from rl_forecast.experiments.language_model.config import LanguageConfig, LanguageEvaluationConfig
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import Config, EvaluationConfig, check_config

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
        # The run is named first of all: which options there are depends on its job.
        _, given = parse_fields(_parser(), _class_of(arguments), arguments)
        folder = RunFolder.open(given.run)
        file = ["--config", str(folder.path / "config.yaml")]
        if job_of_file(folder.path / "config.yaml") == "language":
            return _language(folder, file, arguments)
        config = parse_config(Config, file, _PROG, "")
        evaluation, _ = parse_fields(_parser(), EvaluationConfig, arguments, defaults=config.evaluation)
        check_config(evaluation)
        from rl_forecast.experiments.gridworld.evaluation_job import run_evaluation

        run_evaluation(folder, config, evaluation)
        return 0

    return run_command(command)


def _class_of(arguments: list[str]) -> type[EvaluationConfig] | type[LanguageEvaluationConfig]:
    """Options of the run among the arguments; those of the gridworld's job where none is found yet."""
    for argument in arguments:
        if job_of_file(Path(argument) / "config.yaml") == "language":
            return LanguageEvaluationConfig
    return EvaluationConfig


def _language(folder: RunFolder, file: list[str], arguments: list[str]) -> int:
    config = parse_config(LanguageConfig, file, _PROG, "")
    evaluation, _ = parse_fields(_parser(), LanguageEvaluationConfig, arguments, defaults=config.evaluation)
    check_config(evaluation)
    from rl_forecast.experiments.language_model.evaluation_job import run_language_evaluation

    run_language_evaluation(folder, config, evaluation)
    return 0


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
