"""The direct estimate's whole gradient: how often a fatal action is taken, and how often its state is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agents.risk.base import RiskGradient, psi_weight
from agents.risk.direct import DirectGradient, DirectRisk, step_risk
from agents.risk.played import PlayedSteps

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.task_memory import TaskMemory, VisitedStates


class FlowRisk(DirectRisk):
    """As :class:`DirectRisk`, with the flow term: each played action is credited with the risk of the steps after it,
    ``sum_t d log pi(a_t | s_t) sum_{t' > t} sum_a pi(a | s_t') fatal(s_t', a)``.

    With two or more episodes a task, the mean of its other episodes at the same step is subtracted (control variate).
    Only tasks of the latest rollout have a flow term: a remembered task was played by another policy.
    """

    name = "flow"
    needs_actions = True

    def select_steps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        return np.ones(shape, dtype=np.bool_)

    def compress(self, rows: VisitedStates) -> VisitedStates:
        return super().compress(rows.where(np.flatnonzero(rows["fatal"].any(axis=1))))

    def score_gradient(self, policy: ActorCriticPolicy, memory: TaskMemory, weight: torch.Tensor) -> RiskGradient:
        assert memory.scored is not None
        assert memory.new is not None
        new = memory.new
        to_come, time = risk_to_come(new["episode"], step_risk(policy, new).numpy())
        # Tasks and steps as one number, since an episode that has ended by then has no more risk to come.
        place = new["task"] * (1 + int(time.max(initial=0))) + time
        baseline = without_own(place, to_come, memory.episodes[new["task"]])
        played = PlayedSteps(new, to_come - baseline, weight, policy.device)
        return _FlowGradient(DirectGradient(policy, memory.scored, weight), played)


class _FlowGradient(RiskGradient):
    def __init__(self, direct: DirectGradient, played: PlayedSteps) -> None:
        self._direct, self._played = direct, played
        self.n_tasks, self.n_rows = direct.n_tasks, direct.n_rows + played.n_rows

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        p = self._direct.probability(policy)
        return (psi_weight(self._direct.weight, p) * (p + self._played.per_task(policy))).sum()

    def kl(self, policy: ActorCriticPolicy) -> float:
        return self._direct.kl(policy)


def risk_to_come(
    episode: NDArray[np.int64], risk: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Risk of the later steps of the same episode, and how far into its episode each step is.

    :param episode: shape (r,), episode of each step, the steps of one episode in time order
    :param risk: shape (r,), risk of each step itself
    :return: shape (r,) each
    """
    order = np.argsort(episode, kind="stable")
    ordered = episode[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    length = np.diff(np.r_[starts, len(order)])
    total = np.cumsum(risk[order])
    end = np.repeat(total[starts + length - 1], length)
    to_come, time = np.empty(len(episode)), np.empty(len(episode), dtype=np.int64)
    to_come[order] = np.maximum(end - total, 0.0)
    time[order] = np.arange(len(order)) - np.repeat(starts, length)
    return to_come, time


def without_own(group: NDArray[np.int64], value: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of a group's other members, a control variate that leaves the gradient unbiased; 0 where there is none.

    :param group: shape (r,), group of each member
    :param value: shape (r,)
    :param size: shape (r,), members of the group, absent ones counting as 0
    """
    _, inverse = np.unique(group, return_inverse=True)
    total = np.bincount(inverse, weights=value)[inverse]
    return np.where(size > 1, (total - value) / np.maximum(size - 1, 1), 0.0)
