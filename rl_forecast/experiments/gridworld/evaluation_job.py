"""Evaluating a finished run again, from its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from rich.console import Console

from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.gridworld.agent_files import load_policy
from rl_forecast.experiments.gridworld.worlds import make_world, score_tasks
from rl_forecast.experiments.held_out import evaluation_title, held_out_tasks, print_metrics
from rl_forecast.experiments.metrics import PARTS, HeldOutScores, metrics_of
from rl_forecast.experiments.progress import PhaseProgress

if TYPE_CHECKING:
    from rl_forecast.experiments.run_folder import RunFolder
    from rl_forecast.experiments.settings import Config, EvaluationConfig

__all__ = ["run_evaluation"]

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "agent": pl.String,
    "part": pl.String,
    "task_id": pl.Int64,
    "log_p": pl.Float64,
    "psi": pl.Float64,
    "success": pl.Float64,
    "rare": pl.Boolean,
}


def run_evaluation(folder: RunFolder, config: Config, evaluation: EvaluationConfig) -> dict[str, dict[str, Any]]:
    """Evaluate every agent of a run and write ``evaluations/<settings>.json``.

    :param folder: a finished run
    :param config: its configuration
    :param evaluation: what to evaluate now
    :return: agent name to metrics
    :raises InputError: the run is not finished, or its files cannot be read
    """
    known = _known_scores(folder)
    # As in training: results depend on the number of threads in their last digits.
    torch.set_num_threads(config.threads)
    agents = known["agent"].unique(maintain_order=True).to_list()
    console = Console()
    changed = folder.changed_versions()
    if changed:
        console.print(f"note: the run was made with other versions ({', '.join(changed)})", highlight=False)
    with PhaseProgress(console) as progress:
        scores = {name: _scores(folder, config, evaluation, name, known, progress) for name in agents}
    held_out = {name: HeldOutScores(table, scores["base"], evaluation) for name, table in scores.items()}
    metrics = {name: metrics_of("gridworld", one) for name, one in held_out.items()}
    settings = asdict(evaluation)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"evaluations/{evaluation.forecaster}-m{evaluation.n_eval}-n{evaluation.n_deploy}-{digest}.json"
    written = folder.write_json(name, {"settings": settings, "agents": metrics})
    print_metrics(console, metrics, evaluation_title(evaluation, config.seed))
    console.print(f"written: {written}", highlight=False, soft_wrap=True)
    return metrics


def _known_scores(folder: RunFolder) -> pl.DataFrame:
    path = folder.path / "scores.parquet"
    try:
        known = pl.read_parquet(path)
    except FileNotFoundError as error:
        raise InputError(f"the run is not finished: python -m rl_forecast.train --resume {folder.path}") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} is damaged: {one_line(str(error), 200)}") from error
    if dict(known.schema) != _SCHEMA or "base" not in known["agent"]:
        raise InputError(f"{path} is not the table of a run: it lacks a column, the base agent, or has other types")
    return known


def _scores(
    folder: RunFolder,
    config: Config,
    evaluation: EvaluationConfig,
    agent: str,
    known: pl.DataFrame,
    progress: PhaseProgress,
) -> pl.DataFrame:
    """Scores of exactly the tasks that the evaluation asks for, read where known and computed where not."""
    tables = []
    world = make_world(config.world)
    for part, wanted in held_out_tasks(evaluation, config.seed, world.evaluation_split).items():
        table = known.filter((pl.col("agent") == agent) & (pl.col("part") == part))
        missing = wanted[~np.isin(wanted, table["task_id"].to_numpy())]
        if missing.size:
            policy = load_policy(folder, agent, config.base)
            with progress.phase(f"score {agent}, {part}", missing.size) as phase:
                new = score_tasks(world, policy, missing, phase.advance)
            labels = (pl.lit(agent).alias("agent"), pl.lit(part).alias("part"))
            table = pl.concat([table, new.select(*labels, pl.all())])
        order = pl.DataFrame({"task_id": wanted})
        tables.append(order.join(table, on="task_id", how="left", maintain_order="left").select(known.columns))
    assert len(tables) == len(PARTS)
    return pl.concat(tables)
