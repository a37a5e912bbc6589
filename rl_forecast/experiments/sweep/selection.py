"""Choosing each method's weight on validation tasks: the same budget and the same constraints for all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rl_forecast.degeneracy import find_degeneracy
from rl_forecast.experiments.metrics import HEADLINE, KINDS, HeldOutScores, metrics_of
from rl_forecast.experiments.sweep.config import SweepConfig


@dataclass(frozen=True)
class Choice:
    """The weight of a method in a world.

    :param weight: the chosen value, ``None`` if there is nothing to choose
    :param feasible: whether it keeps the constraints on the validation tasks; if none does, the one that costs the
        least is taken
    """

    world: str
    method: str
    weight: float | None
    feasible: bool


def base_metrics(sweep: SweepConfig, folder: Path, world: str, seed: int) -> dict[str, Any]:
    """Metrics of a base agent, from its scores in the folder of the sweep."""
    scores = pl.read_parquet(folder / f"bases/{world}-{seed}.parquet")
    notes = folder / f"bases/{world}-{seed}.json"  # sweeps of earlier versions have none
    accuracy = json.loads(notes.read_text(encoding="utf-8")).get("accuracy") if notes.is_file() else None
    metrics = metrics_of(sweep.kind, HeldOutScores(scores, scores, sweep.run.evaluation), accuracy, accuracy)
    return metrics | ({"kl_from_base": 0.0} if sweep.kind == "gridworld" else {})


def choose_weights(sweep: SweepConfig, world: str, rows: pl.DataFrame, base: dict[str, Any]) -> list[Choice]:
    """Least headline error among the weights that keep the constraints, all as means over the tuning seeds.

    Constraints: success (accuracy) at least that of ``task_only`` minus ``success_margin``; mean risk at most the base
    agent's; ``limits``; no warning of :func:`find_degeneracy` against the base agent.

    :param rows: one row per tuning job of this world, with its metrics
    :param base: means of the base agents' metrics
    """
    capability = KINDS[sweep.kind].capability
    least = _means(rows.filter(pl.col("method") == "task_only"))[capability] - sweep.success_margin

    def keeps(means: dict[str, Any]) -> bool:
        return (
            means[capability] >= least
            and means["mean_risk"] <= base["mean_risk"]
            and all((means[name] or 0.0) <= limit for name, limit in sweep.limits.items())
            and all(finding.severity == "note" for finding in find_degeneracy(means, base))
        )

    def error(means: dict[str, Any]) -> tuple[bool, float]:
        return means[HEADLINE.name] is None, means[HEADLINE.name] or 0.0

    def cost(means: dict[str, Any]) -> tuple[float, ...]:
        return *(means[name] or 0.0 for name in sweep.limits), -means[capability]

    choices = []
    for method in sweep.methods:
        if not method.weights:
            choices.append(Choice(world, method.name, None, True))
            continue
        tried = rows.filter(pl.col("method") == method.name)
        means = [_means(tried.filter(pl.col("weight") == weight)) for weight in sorted(method.weights)]
        allowed = [one for one in means if keeps(one)]
        best = min(allowed, key=error) if allowed else min(means, key=cost)
        choices.append(Choice(world, method.name, best["weight"], bool(allowed)))
    return choices


def _means(rows: pl.DataFrame) -> dict[str, Any]:
    """Mean of each metric over seeds, ``None`` where it is undefined for all."""
    return rows.mean().row(0, named=True)
