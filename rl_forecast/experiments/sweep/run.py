"""Running a sweep: jobs in parallel, each kept when it is done and skipped when it is there."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import joblib
import numpy as np
import polars as pl
import yaml
from rich.console import Console

from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder, plain
from rl_forecast.experiments.sweep.jobs import BaseJob, FineTuneJob
from rl_forecast.experiments.sweep.selection import Choice, choose_weights
from rl_forecast.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rl_forecast.experiments.sweep.config import SweepConfig

__all__ = ["open_sweep", "run_sweep"]


def open_sweep(sweep: SweepConfig) -> RunFolder:
    """The sweep's folder, made if it is not there.

    :raises UsageError: the folder belongs to a sweep with other settings
    """
    from pathlib import Path

    folder = RunFolder(Path(sweep.log_dir) / sweep.name)
    # How many processes work on it is not part of what a sweep is.
    settings = yaml.safe_dump(plain(asdict(sweep) | {"n_jobs": None, "log_dir": None}), sort_keys=False)
    known = folder.path / "sweep.yaml"
    if known.is_file():
        if known.read_text(encoding="utf-8") != settings:
            raise UsageError(f"{folder.path} holds a sweep with other settings: give this one another --name")
        return folder
    try:
        folder.write_text("sweep.yaml", settings)
    except OSError as error:
        raise UsageError(f"cannot make {str(folder.path)!r}: {error.strerror}") from error
    return folder


def run_sweep(sweep: SweepConfig, folder: RunFolder) -> pl.DataFrame:
    """Run what is not done yet.

    :param sweep: the sweep
    :param folder: its folder
    :return: one row per world, seed and method, also written as ``results.parquet``
    """
    console = Console()
    console.print(f"sweep: {folder.path}", highlight=False, soft_wrap=True)
    with PhaseProgress(console) as progress:
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
        _run_all("base agents", bases, sweep, folder, progress)
        _run_all("weights on validation tasks", tuning, sweep, folder, progress)
        choices = _choose(sweep, folder, tuning)
        chosen = {(c.world, c.method): c.weight for c in choices}
        final = [
            FineTuneJob(world, seed, method, chosen[world, method.name], "held_out")
            for world in sweep.worlds
            for seed in sweep.seeds
            for method in sweep.methods
        ]
        _run_all("comparison on held-out tasks", final, sweep, folder, progress)
    results = pl.concat([pl.read_parquet(folder.path / job.key) for job in final], how="diagonal_relaxed")
    folder.write_table("results.parquet", results)
    return results


def _choose(sweep: SweepConfig, folder: RunFolder, tuning: list[FineTuneJob]) -> list[Choice]:
    """Weights from the tuning jobs; written once and then kept."""
    if not tuning:
        return [Choice(w, m.name, None, True) for w in sweep.worlds for m in sweep.methods]
    rows = pl.concat([pl.read_parquet(folder.path / job.key) for job in tuning], how="diagonal_relaxed")
    base = pl.DataFrame(
        [
            {"world": w, "mean_risk": float(np.exp(_base_scores(folder.path, w, s)["log_p"].to_numpy()).mean())}
            for w in sweep.worlds
            for s in sweep.tuning_seeds
        ]
    )
    folder.write_table("validation.parquet", rows)
    choices = choose_weights(sweep, rows, base)
    folder.write_text("weights.json", json.dumps([asdict(choice) for choice in choices], indent=2) + "\n")
    return choices


def _base_scores(folder: Path, world: str, seed: int) -> pl.DataFrame:
    return pl.read_parquet(folder / BaseJob(world, seed, "validation").key)


def _run_all(
    title: str,
    jobs: Sequence[BaseJob | FineTuneJob],
    sweep: SweepConfig,
    folder: RunFolder,
    progress: PhaseProgress,
) -> None:
    """Run the jobs that have no file yet."""
    open_ = [job for job in jobs if not (folder.path / job.key).is_file()]
    if len(open_) < len(jobs):
        progress.say(f"{title}: {len(jobs) - len(open_)} of {len(jobs)} are done")
    if not open_:
        return
    with progress.phase(title, len(open_)) as phase:
        parallel = joblib.Parallel(n_jobs=min(sweep.n_jobs, len(open_)), return_as="generator_unordered")
        # One task at a time: a job is long, and an interrupted sweep loses only those under way.
        for _ in parallel(joblib.delayed(job.run)(sweep, folder) for job in open_):
            phase.advance()
