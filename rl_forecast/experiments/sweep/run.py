"""Running a sweep: jobs in parallel, each kept when it is done and skipped when it is there."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich.console import Console

from rl_forecast.errors import InputError
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.sweep.config import read_settings, settings_text
from rl_forecast.experiments.sweep.jobs import BaseJob, FineTuneJob
from rl_forecast.experiments.sweep.selection import Choice, choose_weights
from rl_forecast.experiments.sweep.workers import Failure, run_jobs, workers_of
from rl_forecast.experiments.tensorboard import record_sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.experiments.sweep.config import SweepConfig
    from rl_forecast.experiments.sweep.workers import Workers

__all__ = ["JobsFailedError", "open_sweep", "run_sweep"]


class JobsFailedError(Exception):
    """Jobs that were given up; all others are done.

    :param failures: the jobs
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(failures)} jobs failed")
        self.failures = tuple(failures)


def open_sweep(sweep: SweepConfig) -> RunFolder:
    """The sweep's folder, made if it is not there.

    :raises InputError: the folder belongs to a sweep with other settings
    """
    folder = RunFolder(Path(sweep.log_dir) / sweep.name)
    known = folder.path / "sweep.yaml"
    if known.is_file():
        if settings_text(read_settings(known)) != settings_text(sweep):
            raise InputError(f"{folder.path} holds a sweep with other settings: give this one another --name")
        return folder
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_text("sweep.yaml", settings_text(sweep))
    except OSError as error:
        raise InputError(f"cannot make {str(folder.path)!r}: {error.strerror}") from error
    return folder


def run_sweep(sweep: SweepConfig, folder: RunFolder) -> pl.DataFrame:
    """Run what is not done yet.

    :param sweep: the sweep
    :param folder: its folder
    :return: one row per world, seed and method, also written as ``results.parquet``
    :raises InputError: another process works on the sweep, or there are no workers
    :raises JobsFailedError: jobs failed as often as they were tried; every job that does not need them is done
    """
    console = Console()
    console.print(f"sweep: {folder.path}", highlight=False, soft_wrap=True)
    with folder.held(), PhaseProgress(console) as progress:
        workers = workers_of(sweep)
        try:
            return _Sweep(sweep, folder, workers, progress).run()
        except KeyboardInterrupt as error:
            error.add_note("finished jobs are kept: the same command goes on")
            raise
        finally:
            workers.close()


class _Sweep:
    """State of a sweep under way."""

    def __init__(self, sweep: SweepConfig, folder: RunFolder, workers: Workers, progress: PhaseProgress) -> None:
        self.sweep = sweep
        self.folder = folder
        self.workers = workers
        self.progress = progress
        self.failures: list[Failure] = []

    def run(self) -> pl.DataFrame:
        sweep = self.sweep
        tuned = bool(sweep.tuning_seeds) and any(method.weights for method in sweep.methods)
        bases = [BaseJob(w, s, "held_out") for w in sweep.worlds for s in sweep.seeds]
        tuning = []
        if tuned:
            bases = [BaseJob(w, s, "validation") for w in sweep.worlds for s in sweep.tuning_seeds] + bases
            tuning = [
                FineTuneJob(world, seed, method, weight, "validation")
                for world in sweep.worlds
                for seed in sweep.tuning_seeds
                for method in sweep.methods
                for weight in (method.weights or (None,))
            ]
        self._run_all("base agents", bases)
        self._run_all("weights on validation tasks", tuning)
        # A weight is never chosen from a part of its trials: a world waits until all of them are done.
        worlds = [
            w for w in sweep.worlds if all((self.folder.path / job.key).is_file() for job in tuning if job.world == w)
        ]
        self.failures += [Failure(w, "no weights were chosen, jobs failed") for w in sweep.worlds if w not in worlds]
        choices = _choose(sweep, self.folder, [job for job in tuning if job.world in worlds], worlds)
        chosen = {(c.world, c.method): c.weight for c in choices}
        final = [
            FineTuneJob(world, seed, method, chosen[world, method.name], "held_out")
            for world in worlds
            for seed in sweep.seeds
            for method in sweep.methods
        ]
        self._run_all("comparison on held-out tasks", final)
        if self.failures:
            raise JobsFailedError(self.failures)
        results = pl.concat([pl.read_parquet(self.folder.path / job.key) for job in final], how="diagonal_relaxed")
        self.folder.write_table("results.parquet", results)
        record_sweep(self.folder, results)
        return results

    def _run_all(self, title: str, jobs: Sequence[BaseJob | FineTuneJob]) -> None:
        """Run the jobs that have no file yet."""
        open_ = [job for job in jobs if not (self.folder.path / job.key).is_file()]
        if len(open_) < len(jobs):
            self.progress.say(f"{title}: {len(jobs) - len(open_)} of {len(jobs)} are done")
        if open_:
            with self.progress.phase(title, len(open_)) as phase:
                self.failures += run_jobs(open_, self.sweep, self.folder, self.workers, phase.advance)


def _choose(sweep: SweepConfig, folder: RunFolder, tuning: list[FineTuneJob], worlds: list[str]) -> list[Choice]:
    """Weights of some worlds from their tuning jobs."""
    if not tuning:
        return [Choice(w, m.name, None, True) for w in worlds for m in sweep.methods]
    rows = pl.concat([pl.read_parquet(folder.path / job.key) for job in tuning], how="diagonal_relaxed")
    base = pl.DataFrame(
        [
            {"world": w, "mean_risk": float(np.exp(_base_scores(folder.path, w, s)["log_p"].to_numpy()).mean())}
            for w in worlds
            for s in sweep.tuning_seeds
        ]
    )
    folder.write_table("validation.parquet", rows)
    choices = choose_weights(replace(sweep, worlds=tuple(worlds)), rows, base)
    folder.write_text("weights.json", json.dumps([asdict(choice) for choice in choices], indent=2) + "\n")
    return choices


def _base_scores(folder: Path, world: str, seed: int) -> pl.DataFrame:
    return pl.read_parquet(folder / BaseJob(world, seed, "validation").key)
