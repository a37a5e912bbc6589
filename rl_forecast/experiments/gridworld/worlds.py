"""From configuration to worlds, and from policies to exact task scores: where ``envs`` and ``agents`` meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.risk.base import log_action_probability
from envs.gridworld.exact_risk import exact_risk
from envs.gridworld.families import FAMILIES
from envs.gridworld.world import GridWorld
from rl_forecast.errors import InputError
from rl_forecast.experiments.settings import Config, WorldConfig
from rl_forecast.scores import psi_from_log_p
from rl_forecast.tasks import SPLITS

# Tasks scored between two reports of progress.
_CHUNK = 500


def make_world(config: WorldConfig) -> GridWorld:
    """The configured world.

    :raises InputError: a setting is out of range, or the family does not have it
    """
    family = FAMILIES[config.family]
    known = {f.name for f in fields(family)}
    settings = {}
    for name in ("severity", "rare_probability", "failure_cost", "size", "horizon"):
        value = getattr(config, name)
        if value is None:
            continue
        if name not in known:
            raise InputError(f"world.{name} is not a setting of the family {config.family}: leave it out")
        settings[name] = value
    try:
        return family(**settings)
    except ValueError as error:
        raise InputError(f"world.{error}") from error


def held_out_tasks(config: Config, world: GridWorld, split: str = "held_out") -> pl.DataFrame:
    """Evaluation and deployment tasks.

    Held-out evaluation tasks come from the first half of the seed's sequence, deployment tasks from the second, so
    either part can be enlarged and keeps the tasks it has.

    :return: columns ``part`` and ``task_id``
    """
    e = config.evaluation
    n_evaluation, n_deployment = e.n_eval * e.n_eval_sets, e.n_deploy * e.n_deploy_sets
    if split == "validation":
        ids = SPLITS["validation"].task_ids(n_evaluation + n_deployment, config.seed)
        parts = {"evaluation": ids[:n_evaluation], "deployment": ids[n_evaluation:]}
    else:
        deployment = SPLITS["held_out"]
        half = (deployment.stop - deployment.start) // 2
        parts = {
            "evaluation": SPLITS[world.evaluation_split].task_ids(n_evaluation, config.seed),
            "deployment": deployment.task_ids(n_deployment, config.seed, first=half),
        }
    return pl.concat(
        pl.DataFrame({"task_id": ids}).select(pl.lit(p).alias("part"), "task_id") for p, ids in parts.items()
    )


def score_tasks(
    world: GridWorld,
    policy: ActorCriticPolicy,
    task_id: NDArray[np.int64],
    report: Callable[[int], None] = lambda n_tasks: None,
) -> pl.DataFrame:
    """Exact risk of a policy in each task.

    :return: columns ``task_id``, ``log_p``, ``psi``, ``success`` (probability), ``rare``
    """
    policy.set_training_mode(False)
    parts = []
    for first in range(0, len(task_id), _CHUNK):
        tasks = world.tasks(task_id[first : first + _CHUNK])
        with torch.no_grad():
            risk = exact_risk(world, tasks, lambda observation: log_action_probability(policy, observation))
        log_p = risk.log_p.cpu().numpy()
        parts.append(
            pl.DataFrame(
                {
                    "task_id": tasks.task_id,
                    "log_p": log_p,
                    "psi": psi_from_log_p(log_p),
                    "success": risk.success.cpu().numpy(),
                    "rare": tasks.rare,
                }
            )
        )
        report(len(tasks))
    return pl.concat(parts)
