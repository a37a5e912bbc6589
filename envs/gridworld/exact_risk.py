"""Exact failure and success probability of a stochastic policy, by dynamic programming over every state of a task; and
where its episodes go.

The recursion runs in float64 in linear space: every term is a sum of products of non-negative numbers, so nothing
cancels and probabilities stay accurate down to 1e-300. Near 1 a second recursion, for the probability of *no* failure,
keeps the digits. Values are laid out [state, task], so that following a move is one row gather.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from envs.gridworld.world import GridWorld, TaskBatch
from rl_forecast.scores import log_p_two_sided

#: Maps observations, shape (b, dimension), float32, to log action probabilities, shape (b, n_actions).
LogPolicy = Callable[[torch.Tensor], torch.Tensor]

# Bytes that a policy may take per observation: two hidden layers of 128 units, before and after the activation.
_POLICY_BYTES = 2048


@dataclass(frozen=True, eq=False)
class ExactRisk:
    """What a policy does in each task of a batch; float64 tensors of shape (n_tasks,).

    :param log_p: log probability of failure, accurate at both ends
    :param success: probability of success
    """

    log_p: torch.Tensor
    success: torch.Tensor

    @property
    def p(self) -> torch.Tensor:
        """Probability of failure."""
        return torch.exp(self.log_p)


def exact_risk(
    world: GridWorld, tasks: TaskBatch, log_policy: LogPolicy, memory_budget: int = 256 * 2**20
) -> ExactRisk:
    """Failure and success probability of each task under a policy, differentiable in its parameters.

    With gradients, what a chunk needs for its backward pass is computed again there: the budget holds for both.

    :param log_policy: observations to log action probabilities; it must not depend on the step
    :param memory_budget: bytes that the tasks evaluated at once may take, a network of the default size included
    :raises ValueError: the policy's output has the wrong shape, or the budget is not positive

    >>> from envs import SlipWorld
    >>> world = SlipWorld()
    >>> risk = exact_risk(world, world.tasks(np.arange(100)), lambda seen: torch.full((len(seen), 5), 1 / 5).log())
    >>> round(float(risk.p.mean()), 2), round(float(risk.success.mean()), 2)  # of a random walk
    (0.67, 0.09)
    """
    if memory_budget < 1:
        raise ValueError(f"memory_budget must be at least 1 byte, it is {memory_budget}")
    # Per state: an observation, its action probabilities, the recursions' values, and what the policy takes.
    per_state = 4 * world.observation.dimension + 3 * 8 * world.rules.n_actions + 8 * 8 + _POLICY_BYTES
    chunk = max(1, memory_budget // (world.rules.n_states * per_state))
    recompute = len(tasks) > chunk and torch.is_grad_enabled()
    parts = []
    for first in range(0, max(1, len(tasks)), chunk):
        arguments = world, tasks[first : first + chunk], log_policy
        parts.append(checkpoint(_chunk, *arguments, use_reentrant=False) if recompute else _chunk(*arguments))
    return ExactRisk(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _policy_table(world: GridWorld, tasks: TaskBatch, log_policy: LogPolicy) -> list[torch.Tensor]:
    """Probability that each move is executed, slips included: for each move shape (n_states, n), 0 where the episode
    has ended.
    """
    rules = world.rules
    n = len(tasks)
    # A state in a hazard or at the goal ends the episode; the policy is asked only about the others.
    hazard = tasks.hazard.T[rules.cell]
    goal = tasks.goal_cell[None, :] == rules.cell[:, None]
    live_state, live_row = np.nonzero(~(hazard | goal))
    log_pi = log_policy(torch.from_numpy(world.observation.encode(tasks, live_row, live_state))).double()
    if log_pi.shape != (len(live_row), rules.n_actions):
        raise ValueError(
            f"the policy must return log-probabilities of shape {(len(live_row), rules.n_actions)}, "
            f"it returned {tuple(log_pi.shape)}"
        )
    pi = log_pi.exp()
    if rules.slip_move is not None:
        slip = torch.from_numpy(tasks.slip[live_row]).to(pi.device)[:, None]
        pi = (1.0 - slip) * pi + slip * (pi @ torch.from_numpy(rules.slip_move).to(pi.device))
    live = torch.from_numpy(live_state * n + live_row).to(pi.device)
    return [
        torch.zeros(rules.n_states * n, dtype=torch.float64, device=pi.device)
        .index_put((live,), pi[:, move])
        .view(rules.n_states, n)
        for move in range(rules.n_actions)
    ]


def _chunk(world: GridWorld, tasks: TaskBatch, log_policy: LogPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    """Log failure probability and success probability, each of shape (n,)."""
    rules = world.rules
    pi = _policy_table(world, tasks, log_policy)
    device = pi[0].device
    move = [torch.from_numpy(rules.move[:, a]).to(device) for a in range(rules.n_actions)]
    in_hazard = torch.from_numpy(tasks.hazard.T[rules.cell]).to(device).double()
    at_goal = torch.from_numpy(tasks.goal_cell[None, :] == rules.cell[:, None]).to(device).double()
    start = torch.from_numpy(tasks.start_state).to(device)
    row = torch.arange(len(tasks), device=device)

    def expectation(at_end: torch.Tensor, terminal: torch.Tensor) -> torch.Tensor:
        """Expected terminal value from the start; ``at_end`` is the value of every state at the horizon."""
        # pi is zero in terminal states, so they keep their value without a mask.
        value = at_end
        for _ in range(world.horizon):
            new = terminal
            for pi_a, move_a in zip(pi, move, strict=True):
                new = torch.addcmul(new, pi_a, value.index_select(0, move_a))
            value = new
        return value[start, row]

    failure, no_failure = expectation(in_hazard, in_hazard), expectation(1.0 - in_hazard, at_goal)
    return log_p_two_sided(failure, no_failure), expectation(at_goal, at_goal)


@dataclass(frozen=True, eq=False)
class Occupancy:
    """Expectations over the episodes of a policy in each task.

    :param visits: shape (n_tasks, n_cells), expected number of steps begun in a cell
    :param failure: shape (n_tasks, n_cells), probability that the episode ends in the hazard there
    :param success: shape (n_tasks,), probability that it ends at the goal
    """

    visits: NDArray[np.float64]
    failure: NDArray[np.float64]
    success: NDArray[np.float64]


@torch.no_grad()
def occupancy(world: GridWorld, tasks: TaskBatch, log_policy: LogPolicy) -> Occupancy:
    """Where a policy's episodes go and where they fail; meant for a few tasks, not for a million."""
    rules, n = world.rules, len(tasks)
    pi = [table.cpu().numpy() for table in _policy_table(world, tasks, log_policy)]
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
    failure = np.where(tasks.hazard, by_cell, 0.0)
    return Occupancy(visits.T @ in_cell, failure, by_cell[np.arange(n), tasks.goal_cell])
