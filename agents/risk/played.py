"""Steps that have been played, with how much more probable the policy makes them now: the score-function half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from agents.action_probability import log_probability_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.task_memory import RiskRows

__all__ = ["PlayedSteps", "risk_to_come", "without_own"]


class PlayedSteps:
    """``sum_t ratio_t g_t`` per task, with ``ratio_t = pi(a_t | s_t) / pi_played(a_t | s_t)``.

    At the policy that played, the gradient is the score-function (REINFORCE) one, ``sum_t g_t d log pi(a_t | s_t)``.

    :param rows: steps with ``action`` and ``log_prob``, an owner an index into ``weight``
    :param gain: shape (r,), what the step is credited with, less its control variate
    :param weight: shape (n_tasks,); tasks with 0 are left out
    :param device: device of the policy
    """

    def __init__(
        self, rows: RiskRows, gain: NDArray[np.float64], weight: NDArray[np.float64], device: torch.device
    ) -> None:
        active = weight != 0
        used = active[rows.owner] & (gain != 0)
        kept = rows[used]
        self._observation = torch.as_tensor(kept.observation, device=device)
        self._action = torch.as_tensor(kept.columns["action"], device=device)
        self._log_prob = torch.as_tensor(kept.columns["log_prob"], device=device)
        self._gain = torch.as_tensor(gain[used] * kept.weight, dtype=torch.float32, device=device)
        self._owner = torch.as_tensor((np.cumsum(active) - 1)[kept.owner], device=device)
        self._n_tasks = int(active.sum())
        self.n_rows = len(kept)

    def per_task(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Shape (n_tasks with a weight,), with gradient."""
        total = torch.zeros(self._n_tasks, device=self._gain.device)
        if self.n_rows == 0:
            return total
        ratio = (log_probability_of(policy, self._observation, self._action) - self._log_prob).exp()
        return total.index_add(0, self._owner, ratio * self._gain)

    @torch.no_grad()
    def kl(self, policy: ActorCriticPolicy) -> float:
        """Mean KL(played || policy) over the played steps, estimated as ``ratio - 1 - log ratio``, nats."""
        if self.n_rows == 0:
            return 0.0
        log_ratio = log_probability_of(policy, self._observation, self._action) - self._log_prob
        return float((log_ratio.exp() - 1.0 - log_ratio).mean())


def risk_to_come(rows: RiskRows, risk: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Risk of the later steps of the same episode, and how far into its episode each step is.

    :param rows: steps, those of an episode in time order
    :param risk: shape (r,), risk of each step itself
    :return: shape (r,) each
    """
    order = np.argsort(rows.columns["episode"], kind="stable")
    episode = rows.columns["episode"][order]
    starts = np.flatnonzero(np.r_[True, episode[1:] != episode[:-1]])
    length = np.diff(np.r_[starts, len(order)])
    total = np.cumsum(risk[order])
    end = np.repeat(total[starts + length - 1], length)
    to_come, time = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
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
