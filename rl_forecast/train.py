"""``python -m rl_forecast.train``: train agents and check the forecasts of their failures."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rl_forecast.errors import InputError, run_command
from rl_forecast.experiments.command_line import normalised, parse_config
from rl_forecast.experiments.jobs import config_class
from rl_forecast.experiments.language_model.config import LanguageConfig
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import Config, check_config

__all__ = ["main"]

_PROG = "python -m rl_forecast.train"
_DESCRIPTION = """Train a base agent on a risk gridworld, fine-tune it with plain PPO, a mean-risk penalty and
ForecastPPO with equal steps, and compare the forecast of each agent's worst failure with what held-out tasks show."""
_LANGUAGE_DESCRIPTION = """Take a language model (the password game's own, or --model PATH_OR_HUB_ID), fine-tune it with
supervised examples alone, with supervised safety penalties and with the forecastability loss, with equal prompts and
steps, and compare the forecast of each model's worst failure with what held-out prompts show."""
_RESUME = "--resume RUN_FOLDER goes on with an interrupted run, to the same result."
_EPILOG = f"""{_RESUME} --base-zip FILE --trust takes your own PPO, as PPO.save wrote it, for the base agent; with
--agents [base] it is forecast and checked and nothing is trained. A zip holds pickles, which run code: hence --trust.
The other job: --job language --help."""
_LANGUAGE_EPILOG = f"{_RESUME} The other job: --job gridworld --help."


def main(argv: list[str] | None = None) -> int:
    """Run a job.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0 done, 1 failed (a full disk, say), 2 bad input, 130 and 143 after Ctrl-C and SIGTERM
    """
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        resumed = _resumed(arguments)
        if resumed is not None:
            given, base_zip = ["--config", str(resumed.path / "config.yaml")], None
        else:
            given, base_zip = _base_zip(arguments)
        if config_class(given) is not LanguageConfig:
            return _gridworld(given, resumed, base_zip)
        if base_zip is not None:
            raise InputError("--base-zip is for gridworlds; a language model is given by --model")
        return _language(given, resumed)

    return run_command(command)


def _resumed(arguments: list[str]) -> RunFolder | None:
    """The run to go on with, if that is what is asked for.

    :raises InputError: no run, or other options beside it
    """
    names = [argument.partition("=")[0] for argument in normalised(arguments)]
    if "--resume" not in names:
        return None
    first, equals, value = arguments[0].partition("=")
    path = value if equals else next(iter(arguments[1:]), "")
    if first != "--resume" or len(arguments) != (1 if equals else 2):
        raise InputError("--resume RUN_FOLDER takes no other options: a run goes on with its own")
    return RunFolder.open(path)


def _base_zip(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The agent to begin with, if one is given, and the other arguments.

    Neither is a field of the configuration: no file may say what is to be trusted.

    :raises InputError: a zip that is not trusted, or trust without a zip
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base_zip", nargs="?", const="")
    parser.add_argument("--trust", action="store_true")
    given, others = parser.parse_known_args(normalised(arguments))
    if given.base_zip is None:
        if given.trust:
            raise InputError("--trust goes with --base-zip FILE: nothing else is ever unpickled")
        return arguments, None
    if not given.base_zip:
        raise InputError("--base-zip needs a file, as PPO.save writes it")
    from rl_forecast.experiments.gridworld.foreign_agent import check_trust

    check_trust(Path(given.base_zip), given.trust)
    return others, Path(given.base_zip)


def _gridworld(arguments: list[str], resumed: RunFolder | None, base_zip: Path | None) -> int:
    config = parse_config(Config, arguments, _PROG, _DESCRIPTION, _EPILOG)
    check_config(config)
    folder = resumed
    if folder is None:
        command = ["python", "-m", "rl_forecast.train", *arguments]
        if base_zip is None:
            folder = RunFolder.create(config, command)
        else:
            from rl_forecast.experiments.gridworld.agent_files import save_agent
            from rl_forecast.experiments.gridworld.foreign_agent import with_agent_of

            config, model = with_agent_of(base_zip, config)
            command += ["--base-zip", str(base_zip), "--trust"]
            folder = RunFolder.create(config, command, lambda made: save_agent(made, "base", model))
            print(f"base agent: {base_zip}, {model.num_timesteps} steps; it is not trained")
    with _working_on(folder, resumed is not None):
        # Imported last: the help and the run folder must not wait for torch.
        from rl_forecast.experiments.gridworld.job import print_outcome, run_gridworld_job

        if folder.is_finished:
            print_outcome(config, folder)
        else:
            run_gridworld_job(config, folder)
    return 0


def _language(arguments: list[str], resumed: RunFolder | None) -> int:
    config = parse_config(LanguageConfig, arguments, _PROG, _LANGUAGE_DESCRIPTION, _LANGUAGE_EPILOG)
    check_config(config)
    from rl_forecast.experiments.language_model.job import print_outcome, run_language_job
    from rl_forecast.experiments.language_model.processes import Processes

    processes = Processes.join(config.device)
    try:
        folder = resumed
        if folder is None:
            made = None
            if processes.is_main:
                made = RunFolder.create(config, ["python", "-m", "rl_forecast.train", *arguments])
            folder = processes.from_main(made)
        # One process holds the folder for all.
        with _working_on(folder, resumed is not None) if processes.is_main else nullcontext():
            if folder.is_finished:
                if processes.is_main:
                    print_outcome(config, folder)
            else:
                run_language_job(config, folder, processes)
    finally:
        processes.leave()
    return 0


@contextmanager
def _working_on(folder: RunFolder, resumed: bool) -> Iterator[None]:
    """Hold the folder; whatever ends the work before its time tells how to go on with it."""
    with folder.held():
        changed = folder.changed_versions() if resumed else []
        if changed:
            print(f"note: other versions than the run began with ({', '.join(changed)}): last digits may differ")
        try:
            yield
        except (KeyboardInterrupt, OSError) as error:
            if not folder.path.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the run folder is gone", str(folder.path)) from error
            error.add_note(f"go on with: {_PROG} --resume {shlex.quote(str(folder.path))}")
            raise


if __name__ == "__main__":
    sys.exit(main())
