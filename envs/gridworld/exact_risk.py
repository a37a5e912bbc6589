"""Exact failure and success probability of a stochastic policy, by dynamic programming over every state of a task.

The recursion runs in float64 in linear space: every term is a sum of products of non-negative numbers, so nothing
cancels and probabilities stay accurate down to 1e-300. Near 1 the probability of *no* failure, from a recursion of its
own, keeps the digits. Values are laid out [state, task], so that following a move is one row gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_forecast.scores import log_p_two_sided

if TYPE_CHECKING:
    from envs.gridworld.recolor import RecolorWorld
    from envs.gridworld.tasks import TaskBatch

__all__ = ["ExactRisk", "LogPolicy", "exact_risk"]

#: Maps observations, shape (b, dimension), float32, to log action probabilities, shape (b, n_actions).
LogPolicy = Callable[[torch.Tensor], torch.Tensor]


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


def exact_risk(world: RecolorWorld, tasks: TaskBatch, log_policy: LogPolicy, chunk_size: int = 2000) -> ExactRisk:
    """Failure and success probability of each task under a policy, differentiable in the policy's parameters.

    Gradients flow if the policy's log-probabilities carry them; wrap the call in ``torch.no_grad()`` otherwise.

    :param world: the world
    :param tasks: tasks of that world
    :param log_policy: observations to log action probabilities; it must not depend on the step
    :param chunk_size: tasks evaluated at once; a chunk of 2000 takes about 150 MB without gradients
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, it is {chunk_size}")
    parts = list(_chunks(world, tasks, log_policy, chunk_size))
    if not parts:
        empty = torch.empty(0, dtype=torch.float64)
        return ExactRisk(empty, empty)
    return ExactRisk(torch.cat([part.log_p for part in parts]), torch.cat([part.success for part in parts]))


def _chunks(world: RecolorWorld, tasks: TaskBatch, log_policy: LogPolicy, chunk_size: int) -> Iterator[ExactRisk]:
    for first in range(0, len(tasks), chunk_size):
        yield _chunk(world, tasks[first : first + chunk_size], log_policy)


def _chunk(world: RecolorWorld, tasks: TaskBatch, log_policy: LogPolicy) -> ExactRisk:
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
    device = log_pi.device
    live = torch.from_numpy(live_state * n + live_row).to(device)
    pi = [
        torch.zeros(rules.n_states * n, dtype=torch.float64, device=device)
        .index_put((live,), log_pi[:, action].exp())
        .view(rules.n_states, n)
        for action in range(rules.n_actions)
    ]
    move = [torch.from_numpy(rules.move[:, action]).to(device) for action in range(rules.n_actions)]
    in_hazard = torch.from_numpy(hazard).to(device).double()
    at_goal = torch.from_numpy(goal).to(device).double()
    start = torch.from_numpy(tasks.start_state).to(device)
    row = torch.arange(n, device=device)

    def probability(at_end: torch.Tensor, terminal: torch.Tensor) -> torch.Tensor:
        """Expected terminal value from the start; ``at_end`` is the value of every state at the horizon."""
        value = at_end
        for _ in range(world.horizon):
            # pi is zero in terminal states, so they keep their value without a mask.
            new = terminal
            for pi_a, move_a in zip(pi, move, strict=True):
                new = torch.addcmul(new, pi_a, value.index_select(0, move_a))
            value = new
        return value[start, row]

    failure = probability(in_hazard, in_hazard)
    no_failure = probability(1.0 - in_hazard, at_goal)
    success = probability(at_goal, at_goal)
    return ExactRisk(log_p_two_sided(failure, no_failure), success)
