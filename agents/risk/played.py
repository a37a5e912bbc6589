"""Steps that were played, weighted by how much more probable the policy makes them now: the score-function part."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.risk.base import log_probability_of, tensors
from agents.task_memory import VisitedStates


class PlayedSteps:
    """``sum_t ratio_t g_t`` per task, with ``ratio_t = pi(a_t | s_t) / pi_played(a_t | s_t)``.

    At the policy that played, the gradient is the score-function (REINFORCE) one, ``sum_t g_t d log pi(a_t | s_t)``.

    :param rows: steps with ``action`` and ``log_prob``
    :param gain: shape (r,), what the step is credited with, less its control variate
    :param weight: shape (n_tasks,); tasks with 0 are left out
    :param device: of the policy
    """

    def __init__(
        self, rows: VisitedStates, gain: NDArray[np.float64], weight: torch.Tensor, device: torch.device
    ) -> None:
        active = (weight != 0).numpy()
        used = active[rows["task"]] & (gain != 0)
        played = rows.where(used)
        self._input = tensors(played, device)
        self._action = torch.as_tensor(played["action"], device=device)
        self._log_prob = torch.as_tensor(played["log_prob"], device=device)
        self._gain = torch.as_tensor(gain[used] * played["weight"], dtype=torch.float32, device=device)
        self._task = torch.as_tensor((np.cumsum(active) - 1)[played["task"]], device=device)
        self._n_tasks = int(active.sum())
        self.n_rows = len(played)

    def _log_ratio(self, policy: ActorCriticPolicy) -> torch.Tensor:
        observation, context = self._input
        return log_probability_of(policy, observation, self._action, **context) - self._log_prob

    def per_task(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Shape (n_tasks with a weight,), with gradient."""
        total = torch.zeros(self._n_tasks, device=self._gain.device)
        return total.index_add(0, self._task, self._log_ratio(policy).exp() * self._gain) if self.n_rows else total

    @torch.no_grad()
    def kl(self, policy: ActorCriticPolicy) -> float:
        """Mean KL(played || policy) over the played steps, estimated as ``ratio - 1 - log ratio``, nats."""
        if self.n_rows == 0:
            return 0.0
        log_ratio = self._log_ratio(policy)
        return float((log_ratio.exp() - 1.0 - log_ratio).mean())
