"""Kill runs at random moments, resume them, and compare with the run that was left alone.

``python -m tests.kill_and_resume [--trials 50] [--seed 0]``: every trial starts a small run in a process of its
own, ends it by SIGKILL at a random moment (three in ten are killed a second time), looks at the files that are left,
resumes it with ``--resume``, and compares weights, scores, metrics and TensorBoard points with those of the whole run.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.forked import PRELOADED, start_module

__all__ = ["JOBS", "Kills", "Trial", "differences", "small_run", "start_train", "trials_of"]

#: Small runs that have every part of a large one, with a checkpoint after each rollout or update.
JOBS: dict[str, dict[str, Any]] = {
    "gridworld": {
        "preset": "kill",
        "checkpoint_every": 1,
        "agents": ["base", "ppo", "forecast_ppo"],
        "world": {"pool_size": 500},
        "base": {"total_timesteps": 12288, "success_threshold": 0.0, "n_envs": 32, "n_steps": 32, "batch_size": 256},
        "fine_tune": {"total_timesteps": 12288, "n_envs": 32, "n_steps": 32, "batch_size": 256},
        "forecast": {"n_known_tasks": 300, "n_eval": 20, "n_deploy": 80, "tail_k": 5, "n_partitions": 16},
        "validation": {"n_eval": 20, "n_eval_sets": 2, "n_deploy": 40, "every": 2048},
        "evaluation": {"n_eval": 40, "n_eval_sets": 5, "n_deploy": 200, "n_deploy_sets": 2, "tail_k": 5},
    },
    "language": {
        "job": "language",
        "checkpoint_every": 1,
        "preset": "kill",
        "game": {"n_words": 8, "password_length": 2, "n_phrases": 4, "rare_probability": 0.02},
        "base": {"steps": 60, "max_rounds": 1, "accuracy": 0.0, "batch_size": 32, "hidden_size": 32},
        "agents": ["base", "sft", "forecast"],
        "fine_tune": {
            "steps": 24,
            "warmup_steps": 2,
            "batch_size": 16,
            "pool_size": 200,
            "pool_steps": 3,
            "anchor_tasks": 32,
        },
        "forecast": {"n_partitions": 8, "n_eval": 40, "n_deploy": 160},
        "evaluation": {
            "n_eval": 100,
            "n_eval_sets": 5,
            "n_deploy": 400,
            "n_deploy_sets": 2,
            "n_legitimate": 100,
            "n_clear": 100,
        },
    },
}
_SIGKILL = -9
_RESUMED = re.compile(r": resumed at step (\d+) of \d+$", re.MULTILINE)
_DONE = re.compile(r"^(.*): done before$", re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """One run that was killed and resumed.

    :param killed_at: seconds after the start of each process that was killed
    :param steps_before: share of all training steps that were not repeated
    :param faults: what was wrong; empty for a trial that was survived
    """

    job: str
    seed: int
    killed_at: tuple[float, ...]
    steps_before: float
    faults: tuple[str, ...]


@dataclass
class Kills:
    """Runs of one job.

    :param job: name in :data:`JOBS`
    :param home: folder for runs, emptied by whoever made it
    :param steps: training steps of each agent, those of the job if ``None``
    """

    job: str
    home: Path
    steps: int | None = None
    whole: Path = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        """Make the run that is left alone, after a first one that warms the caches."""
        self.home.mkdir(parents=True, exist_ok=True)
        config = small_run(self.job, self.steps)
        if self.job == "language":
            config["base"]["cache_dir"] = str(self.home / "cache")
            # Trains the base model, which all runs share.
            self._start(config, "warm").join()
        else:
            start_train(["--resume", "nowhere"], self.home / "warm.txt").join()
        started = time.perf_counter()
        process = self._start(config, "whole")
        process.join()
        self.seconds = time.perf_counter() - started
        self.whole = self.home / "whole" / "kill-0"
        self._config = config
        if process.exitcode:
            raise RuntimeError((self.home / "whole.txt").read_text())

    def trial(self, seed: int, *, trained: bool = True) -> Trial:
        """Kill, look, go on, compare.

        :param seed: of the moments
        :param trained: kill only once there is something to go on from; else at any moment after the folder is there
        """
        rng = np.random.default_rng(seed)
        name = f"trial-{seed}"
        folder = self.home / name / "kill-0"
        faults: list[str] = []
        killed_at: list[float] = []
        process = self._start(self._config, name)
        while True:
            moment = self._wait(process, folder, rng, trained)
            process.kill()
            process.join()
            if process.exitcode != _SIGKILL:
                # Too late, it was finished: another moment.
                if (folder / "timings.json").is_file():
                    # The machine has become faster since the whole run was timed.
                    self.seconds = min(self.seconds, moment)
                    shutil.rmtree(folder.parent)
                    process = self._start(self._config, name)
                    continue
                faults.append(f"exit code {process.exitcode} before the kill")
                break
            killed_at.append(round(moment, 3))
            faults += half_written(folder)
            if len(killed_at) == 2 or rng.random() > 0.3:
                break
            process = self._start(None, name)
        process = self._start(None, name)
        process.join()
        text = (self.home / f"{name}.txt").read_text()
        if process.exitcode:
            faults.append(f"exit code {process.exitcode} after going on: {text[-300:]}")
        else:
            faults += differences(self.whole, folder)
        if not faults:
            shutil.rmtree(folder.parent)
        return Trial(self.job, seed, tuple(killed_at), round(self._share_kept(text), 3), tuple(faults))

    def _share_kept(self, text: str) -> float:
        config, done = self._config, _DONE.findall(text)
        if self.job == "gridworld":
            steps = [config["base"]["total_timesteps"], *[config["fine_tune"]["total_timesteps"]] * 2]
            names = ["base", "PPO", "ForecastPPO"]
        else:
            steps = [0, *[config["fine_tune"]["steps"]] * 2]
            names = ["base", "SFT", "forecastability"]
        before = sum(n for name, n in zip(names, steps, strict=True) if name in done)
        return (before + sum(int(step) for step in _RESUMED.findall(text))) / sum(steps)

    def _wait(self, process: Any, folder: Path, rng: np.random.Generator, trained: bool) -> float:
        """Sleep until the moment of the kill.

        :return: seconds since the process was started
        """
        started = time.perf_counter()
        # The first state of an agent in training: what is killed before it begins again, which tells little.
        wanted = "checkpoints/[!.]*.safetensors" if trained else "config.yaml"
        while process.is_alive() and not any(folder.glob(wanted)):
            time.sleep(0.005)
        left = max(self.seconds - (time.perf_counter() - started), 0.05)
        process.join(rng.uniform(0, left))
        return time.perf_counter() - started

    def _start(self, config: dict[str, Any] | None, name: str) -> Any:
        """Start a run, or resume it where there is no configuration."""
        output = self.home / f"{name}.txt"
        if config is None:
            arguments = ["--resume", str(self.home / name / "kill-0")]
        else:
            file = self.home / f"{name}.yaml"
            file.write_text(yaml.safe_dump(config))
            arguments = ["--config", str(file), "--log-dir", str(self.home / name)]
        return start_train(arguments, output)


def small_run(job: str, steps: int | None = None) -> dict[str, Any]:
    """Configuration of a run, with that many training steps of each agent if given."""
    config = copy.deepcopy(JOBS[job])
    if steps is not None and job == "gridworld":
        config["base"]["total_timesteps"] = config["fine_tune"]["total_timesteps"] = steps
    elif steps is not None:
        config["fine_tune"]["steps"] = steps
    return config


def start_train(arguments: list[str], output: Path, file_size: int | None = None) -> Any:
    """Start ``python -m rl_forecast.train`` and return the process.

    :param arguments: its arguments
    :param output: file for what it prints
    :param file_size: bytes beyond which the operating system refuses to let a file grow
    """
    return start_module("rl_forecast.train", arguments, output, output, prepare=partial(_prepare, file_size))


def _prepare(file_size: int | None) -> None:
    """Small pictures without layout, else most kills would happen while they are drawn."""
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    import matplotlib.figure

    from rl_forecast.experiments.gridworld import gridworld_experiment

    matplotlib.rcParams["figure.dpi"] = 30
    matplotlib.figure.Figure.set_layout_engine = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    gridworld_experiment._N_WORST = 1


def half_written(folder: Path) -> list[str]:
    """Files of a killed run that are there under their own name and cannot be read."""
    faults = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or ".partial-" in str(path.relative_to(folder)):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".yaml":
                assert yaml.safe_load(path.read_text())
            elif path.suffix == ".parquet":
                pl.read_parquet(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - not a mapping
        except Exception as error:
            faults.append(f"{path.name} is half-written: {error}")
    return faults


def differences(whole: Path, folder: Path) -> list[str]:
    """In what a finished run differs from another one of the same configuration."""
    faults = []
    names = {p.relative_to(whole) for p in whole.rglob("*") if not p.name.startswith("events.")}
    found = {p.relative_to(folder) for p in folder.rglob("*") if not p.name.startswith("events.")}
    if names != found:
        faults.append(f"files differ: {sorted(map(str, names ^ found))}")
    for name in sorted(names & found):
        exact = name.suffix in (".safetensors", ".parquet", ".png") or name.name in ("metrics.json", "agent.json")
        if exact and (whole / name).read_bytes() != (folder / name).read_bytes():
            faults.append(f"{name} differs")
    for agent in sorted(p.name for p in (whole / "tensorboard").iterdir()):
        one, two = (curves(run / "tensorboard" / agent) for run in (whole, folder))
        faults += [f"curve {agent}/{tag} differs" for tag in one.keys() | two.keys() if one.get(tag) != two.get(tag)]
    return faults


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of the curves of an agent, without those that tell the time."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("time/")
    }


def trials_of(n: int, seed: int, home: Path) -> Iterator[Trial]:
    """That many trials of both jobs in turn, each printed when it is done; their seeds count on from the first."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    kills = {job: Kills(job, home / job) for job in JOBS}
    for i in range(n):
        # Three in five are runs of PPO and ForecastPPO, two of the language model.
        trial = kills["gridworld" if i % 5 < 3 else "language"].trial(seed + i)
        print(
            f"{trial.job} seed {trial.seed}: killed after {trial.killed_at} s, {trial.steps_before:.0%} of the steps "
            f"kept; {'; '.join(trial.faults) or 'identical'}",
            flush=True,
        )
        yield trial


def main() -> int:
    """Run trials and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    survived = sum(not trial.faults for trial in trials_of(args.trials, args.seed, home))
    print(f"{survived} of {args.trials} identical; runs that were not are kept in {home}")
    return 0 if survived == args.trials else 1


if __name__ == "__main__":
    sys.exit(main())
