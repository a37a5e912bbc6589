"""``python -m rl_forecast.train``: train agents and check the forecasts of their failures."""

from __future__ import annotations

import sys

from rl_forecast.experiments.command_line import normalised, parse_config
from rl_forecast.experiments.config import Config, check_config
from rl_forecast.experiments.jobs import config_class, job_of_file
from rl_forecast.experiments.language_model.config import LanguageConfig
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.usage import UsageError, run_command

__all__ = ["main"]

_PROG = "python -m rl_forecast.train"
_DESCRIPTION = """Train a base agent on a risk gridworld, fine-tune it with plain PPO, ForecastPPO and a top-risk
penalty with equal steps, and compare the forecast of each agent's worst failure with what held-out tasks show."""
_LANGUAGE_DESCRIPTION = """Take a language model (the password game's own, or --model PATH_OR_HUB_ID), fine-tune it with
supervised examples alone, with supervised safety penalties and with the forecastability loss, with equal prompts and
steps, and compare the forecast of each model's worst failure with what held-out prompts show."""
_EPILOG = "Options of the other job: --job language --help. --resume RUN_FOLDER goes on with an interrupted run of it."
_LANGUAGE_EPILOG = "--resume RUN_FOLDER goes on with an interrupted run. The other job: --job gridworld --help."


def main(argv: list[str] | None = None) -> int:
    """Run a job.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0, or 2 after bad input
    """
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        resumed = _resumed(arguments)
        if resumed is not None or config_class(arguments) is LanguageConfig:
            return _language(arguments, resumed)
        config = parse_config(Config, arguments, _PROG, _DESCRIPTION, _EPILOG)
        check_config(config)
        folder = RunFolder.create(config, ["python", "-m", "rl_forecast.train", *arguments])
        # Imported last: the help and the run folder must not wait for torch.
        from rl_forecast.experiments.gridworld.job import run_gridworld_job

        run_gridworld_job(config, folder)
        return 0

    return run_command(command)


def _resumed(arguments: list[str]) -> RunFolder | None:
    """The run to go on with, if that is what is asked for.

    :raises UsageError: no run, one of the other job, or other options beside it
    """
    names = [argument.partition("=")[0] for argument in normalised(arguments)]
    if "--resume" not in names:
        return None
    first, equals, value = arguments[0].partition("=")
    path = value if equals else next(iter(arguments[1:]), "")
    if first != "--resume" or len(arguments) != (1 if equals else 2):
        raise UsageError("--resume RUN_FOLDER takes no other options: a run goes on with its own")
    folder = RunFolder.open(path)
    if job_of_file(folder.path / "config.yaml") != "language":
        raise UsageError(f"{path!r} is not a run of a language model: only those can be resumed")
    return folder


def _language(arguments: list[str], resumed: RunFolder | None) -> int:
    if resumed is not None:
        arguments = ["--config", str(resumed.path / "config.yaml")]
    config = parse_config(LanguageConfig, arguments, _PROG, _LANGUAGE_DESCRIPTION, _LANGUAGE_EPILOG)
    check_config(config)
    from rl_forecast.experiments.language_model.job import run_language_job
    from rl_forecast.experiments.language_model.processes import Processes

    processes = Processes.join(config.device)
    try:
        folder = resumed
        if folder is None:
            made = None
            if processes.is_main:
                made = RunFolder.create(config, ["python", "-m", "rl_forecast.train", *arguments])
            folder = processes.from_main(made)
        run_language_job(config, folder, processes)
    finally:
        processes.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
