"""Where a policy goes in a task and where it dies: the forward counterpart of the exact risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from envs.gridworld.exact_risk import policy_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from envs.gridworld.exact_risk import LogPolicy
    from envs.gridworld.tasks import TaskBatch
    from envs.gridworld.world import GridWorld

__all__ = ["Occupancy", "occupancy"]


@dataclass(frozen=True, eq=False)
class Occupancy:
    """Expectations over the episodes of a policy in each task.

    :param visits: shape (n_tasks, n_cells), expected number of steps begun in a cell; zero in hazards and at the goal
    :param failure: shape (n_tasks, n_cells), probability that the episode ends in the hazard there; sums to the
        failure probability
    :param success: shape (n_tasks,), probability that it ends at the goal
    """

    visits: NDArray[np.float64]
    failure: NDArray[np.float64]
    success: NDArray[np.float64]


@torch.no_grad()
def occupancy(world: GridWorld, tasks: TaskBatch, log_policy: LogPolicy) -> Occupancy:
    """Push the probability mass of a policy forward from the start.

    :param world: the world
    :param tasks: tasks of that world; meant for a few, not for a million
    :param log_policy: observations to log action probabilities; it must not depend on the step
    """
    rules, n = world.rules, len(tasks)
    pi = [table.cpu().numpy() for table in policy_table(world, tasks, log_policy)]
    mass = np.zeros((rules.n_states, n))
    mass[tasks.start_state, np.arange(n)] = 1.0
    ending = (tasks.hazard | (tasks.goal_cell[:, None] == np.arange(rules.n_cells))).T[rules.cell]
    visits, ended = np.zeros_like(mass), np.zeros_like(mass)
    for _ in range(world.horizon):
        visits += mass
        moved = np.zeros_like(mass)
        for action, pi_a in enumerate(pi):
            np.add.at(moved, rules.move[:, action], pi_a * mass)
        ended += np.where(ending, moved, 0.0)
        mass = np.where(ending, 0.0, moved)
    in_cell = np.eye(rules.n_cells)[rules.cell]
    by_cell = ended.T @ in_cell
    return Occupancy(
        visits=visits.T @ in_cell,
        failure=np.where(tasks.hazard, by_cell, 0.0),
        success=by_cell[np.arange(n), tasks.goal_cell],
    )
