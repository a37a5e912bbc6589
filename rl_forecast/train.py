"""``python -m rl_forecast.train``: train agents and check the forecasts of their failures."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rl_forecast.errors import InputError, run_command
from rl_forecast.experiments.command_line import RUNS, parse_job, read_config, take_options
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import AnyConfig, LanguageConfig

_PROG = "python -m rl_forecast.train"
_RESUME = "--resume RUN_FOLDER resumes an interrupted run, to the same result."
#: Job to first and last lines of its help.
_TEXTS = {
    "gridworld": (
        """Train a base agent on a risk gridworld, fine-tune it with plain PPO, a mean-risk penalty and ForecastPPO
with equal steps, and compare the forecast of each agent's worst failure with what held-out tasks show.""",
        f"""{_RESUME} --base-zip FILE --trust takes your own PPO, as PPO.save wrote it, for the base agent; with
--agents [base] it is forecast and checked and nothing is trained. A zip holds pickles, which run code: hence --trust.
The other job: --job language --help.""",
    ),
    "language": (
        """Take a language model (the password game's own, or --model PATH_OR_HUB_ID), fine-tune it with supervised
examples alone, with supervised safety penalties and with the forecastability loss, with equal prompts and steps, and
compare the forecast of each model's worst failure with what held-out prompts show.""",
        f"{_RESUME} The other job: --job gridworld --help.",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run a job.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0 done, 1 failed (a full disk, say), 2 bad input, 130 and 143 after Ctrl-C and SIGTERM
    """
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _train(arguments))


def _train(arguments: list[str]) -> int:
    # None of these is a field of the configuration: no file may say what is to be trusted.
    given, others = take_options(arguments, "resume", "base_zip", "trust")
    resumed, base_zip = None, None
    config: AnyConfig
    if given["resume"]:
        if others or len(given["resume"]) > 1 or given["base_zip"] or given["trust"]:
            raise InputError("--resume RUN_FOLDER takes no other options: a run resumes with its own")
        resumed = RunFolder.open(given["resume"][0])
        config = read_config(resumed.path / "config.yaml", RUNS)
    else:
        base_zip = _trusted_zip(given["base_zip"], given["trust"])
        config = parse_job(RUNS, others, _PROG, _TEXTS)
    # Imported last: the help must not wait for torch.
    from rl_forecast.experiments.experiment import run_experiment
    from rl_forecast.experiments.processes import Processes

    processes = Processes.join(config)
    try:
        made = resumed
        if made is None and processes.is_main:
            config, made = _new_folder(config, base_zip, ["python", "-m", "rl_forecast.train", *arguments])
        folder: RunFolder = processes.from_main(made)
        # One process holds the folder for all.
        with _working_on(folder, resumed is not None) if processes.is_main else nullcontext():
            run_experiment(config, folder, processes)
    finally:
        processes.leave()
    return 0


def _trusted_zip(paths: list[str], trust: list[str]) -> Path | None:
    """The agent to begin with, if one is given.

    :raises InputError: a zip that is not trusted, or trust without a zip
    """
    if trust and trust != [""]:
        raise InputError(f"--trust takes no value, not {trust[0]!r}")
    if not paths:
        if trust:
            raise InputError("--trust goes with --base-zip FILE: nothing else is ever unpickled")
        return None
    if not paths[-1]:
        raise InputError("--base-zip needs a file, as PPO.save writes it")
    from rl_forecast.experiments.gridworld.import_agent import check_trust

    check_trust(Path(paths[-1]), bool(trust))
    return Path(paths[-1])


def _new_folder(config: AnyConfig, base_zip: Path | None, command: list[str]) -> tuple[AnyConfig, RunFolder]:
    """A run folder, which may begin with an agent of the user's, and the configuration with that agent's network."""
    if base_zip is None:
        return config, RunFolder.create(config, command)
    if isinstance(config, LanguageConfig):
        raise InputError("--base-zip is for gridworlds; a language model is given by --model")
    from rl_forecast.experiments.gridworld.agent_files import save_agent
    from rl_forecast.experiments.gridworld.import_agent import import_agent

    config, model = import_agent(base_zip, config)
    folder = RunFolder.create(config, command, lambda made: save_agent(made, "base", model))
    print(f"base agent: {base_zip}, {model.num_timesteps} steps; it is not trained")
    return config, folder


@contextmanager
def _working_on(folder: RunFolder, resumed: bool) -> Iterator[None]:
    """Hold the folder; whatever ends the work before its time tells how to resume it."""
    with folder.held():
        changed = folder.changed_versions() if resumed else []
        if changed:
            print(f"note: other versions than the run began with ({', '.join(changed)}): last digits may differ")
        try:
            yield
        except (KeyboardInterrupt, OSError) as error:
            if not folder.path.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the run folder is gone", str(folder.path)) from error
            error.add_note(f"resume with: {_PROG} --resume {shlex.quote(str(folder.path))}")
            raise


if __name__ == "__main__":
    sys.exit(main())
