"""Choosing each method's weight on validation tasks: the same budget and the same constraints for all."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from rl_forecast.experiments.sweep.config import SweepConfig

__all__ = ["Choice", "choose_weights"]

# What is minimised, and what may not get worse.
_CRITERION = "abs_error_log_odds"


@dataclass(frozen=True)
class Choice:
    """The weight of a method in a world.

    :param world: family
    :param method: name of the method
    :param weight: the chosen value, ``None`` if there is nothing to choose
    :param feasible: whether it keeps the constraints on the validation tasks; if none does, the one that costs the
        least success is taken
    """

    world: str
    method: str
    weight: float | None
    feasible: bool


def choose_weights(sweep: SweepConfig, rows: pl.DataFrame, base: pl.DataFrame) -> list[Choice]:
    """Least log-odds error, averaged over the tuning seeds, among weights that cost too little success and risk.

    Constraints, on the same averages: success at least that of ``task_only`` minus ``success_margin``; mean risk at
    most the base agent's; not both forecast and realised worst at certain failure in more than a tenth of the pairs.

    :param sweep: the sweep
    :param rows: one row per tuning job, with its metrics
    :param base: columns ``world``, ``mean_risk`` of the base agents of the tuning seeds, averaged
    """
    choices = []
    for world in sweep.worlds:
        of_world = rows.filter(pl.col("world") == world)
        task_only = of_world.filter(pl.col("method") == "task_only")
        for method in sweep.methods:
            if not method.weights:
                choices.append(Choice(world, method.name, None, True))
                continue
            means = (
                of_world.filter(pl.col("method") == method.name)
                .group_by("weight")
                .agg(pl.col(_CRITERION, "success", "mean_risk", "both_at_upper_clip_log_odds").mean())
                .sort("weight")
            )
            least_success = float(task_only["success"].mean()) - sweep.success_margin  # type: ignore[arg-type]
            most_risk = float(base.filter(pl.col("world") == world)["mean_risk"].mean())  # type: ignore[arg-type]
            allowed = means.filter(
                (pl.col("success") >= least_success)
                & (pl.col("mean_risk") <= most_risk)
                & (pl.col("both_at_upper_clip_log_odds") <= 0.1)
            )
            feasible = len(allowed) > 0
            ranked = allowed.sort(_CRITERION, nulls_last=True) if feasible else means.sort("success", descending=True)
            choices.append(Choice(world, method.name, float(ranked["weight"][0]), feasible))
    return choices
