"""Running a sweep: jobs in parallel, each kept when it is done and skipped when it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
from rich.console import Console

from rl_forecast.errors import InputError
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.sweep.config import SweepConfig, read_settings, settings_text
from rl_forecast.experiments.sweep.jobs import BaseJob, FineTuneJob
from rl_forecast.experiments.sweep.selection import Choice, base_metrics, choose_weights
from rl_forecast.experiments.sweep.workers import Failure, Job, LocalWorkers, RayWorkers, Workers, run_jobs
from rl_forecast.experiments.tensorboard import record_sweep


def open_sweep(sweep: SweepConfig) -> RunFolder:
    """The sweep's folder, made if it is not there; :class:`InputError` if it is that of other settings."""
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


def run_sweep(sweep: SweepConfig, folder: RunFolder) -> list[Failure]:
    """Run what is not done yet and write ``results.parquet``, one row per world, seed and method.

    :return: the jobs that failed; without any of them there are results
    :raises InputError: another process works on the sweep, or there are no workers
    """
    console = Console()
    console.print(f"sweep: {folder.path}", highlight=False, soft_wrap=True)
    failures: list[Failure] = []
    with folder.held(), PhaseProgress(console) as progress:
        local = sweep.backend == "local"
        workers: Workers = LocalWorkers(sweep.n_jobs) if local else RayWorkers(sweep.n_jobs, sweep.address)

        def run(title: str, jobs: Sequence[Job]) -> None:
            """Run the jobs that have no file yet."""
            missing = [job for job in jobs if not (folder.path / job.key).is_file()]
            if len(missing) < len(jobs):
                progress.say(f"{title}: {len(jobs) - len(missing)} of {len(jobs)} are done")
            if missing:
                with progress.phase(title, len(missing)) as phase:
                    failures.extend(run_jobs(missing, sweep, folder, workers, phase.advance))

        try:
            final = _run_all(sweep, folder, run, failures)
        except KeyboardInterrupt as error:
            error.add_note("finished jobs are kept: the same command resumes the sweep")
            raise
        finally:
            workers.close()
        if not failures:
            results = pl.concat([pl.read_parquet(folder.path / job.key) for job in final], how="diagonal_relaxed")
            folder.write_table("results.parquet", results)
            record_sweep(folder, results)
    return failures


def _run_all(
    sweep: SweepConfig, folder: RunFolder, run: Callable[[str, Sequence[Job]], None], failures: list[Failure]
) -> list[FineTuneJob]:
    """Base agents, weights, comparison; the jobs of the comparison are returned."""
    tuning = [
        FineTuneJob(world, seed, method, weight, "validation")
        for world in sweep.worlds
        for seed in (sweep.tuning_seeds if any(method.weights for method in sweep.methods) else ())
        for method in sweep.methods
        for weight in (method.weights or (None,))
    ]
    bases = {job.base for job in tuning} | {BaseJob(w, s, "held_out") for w in sweep.worlds for s in sweep.seeds}
    in_order = sorted(bases, key=lambda job: (job.split == "held_out", job.world, job.seed))
    run("base agents", in_order)
    run("weights on validation tasks", tuning)
    final: list[FineTuneJob] = []
    tables, choices = [], []
    for world in sweep.worlds:
        paths = [folder.path / job.key for job in tuning if job.world == world]
        # A weight is never chosen from a part of its trials: a world waits until all of them are done.
        if not all(path.is_file() for path in paths):
            failures.append(Failure(world, "no weights were chosen, jobs failed"))
            continue
        chosen = [Choice(world, method.name, None, True) for method in sweep.methods]
        if paths:
            tables.append(pl.concat([pl.read_parquet(path) for path in paths], how="diagonal_relaxed"))
            base = pl.DataFrame([base_metrics(sweep, folder.path, world, seed) for seed in sweep.tuning_seeds])
            chosen = choose_weights(sweep, world, tables[-1], base.mean().row(0, named=True))
            choices += chosen
        final += [
            FineTuneJob(world, seed, method, choice.weight, "held_out")
            for seed in sweep.seeds
            for method, choice in zip(sweep.methods, chosen, strict=True)
        ]
    if choices:
        folder.write_table("validation.parquet", pl.concat(tables, how="diagonal_relaxed"))
        folder.write_text("weights.json", json.dumps([asdict(choice) for choice in choices], indent=2) + "\n")
    run("comparison on held-out tasks", final)
    return final
