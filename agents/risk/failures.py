"""Risk from failures that happened: all that an environment without fatal probabilities can give."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.risk.base import RiskGradient, RiskSource, as_psi, psi_weight
from agents.risk.played import PlayedSteps
from agents.task_memory import TaskMemory, VisitedStates

# Jeffreys' prior: half a failure and half a success. Without it a task that has not failed would be certain not to.
_PRIOR = 0.5


class FailureRisk(RiskSource):
    """Score function (REINFORCE) from failure flags: ``d p_i = 1/J sum_j (F_j - b_j) sum_t d log pi(a_t | s_t)``.

    ``b_j`` is the failure rate of the task's other episodes, or, with one episode a task, of all scored tasks. Any
    action space will do. A task is scored by ``(failures + 1/2) / (J + 1)`` (Jeffreys): with few episodes most tasks
    share one score, and the largest k of them are ties without a slope. Use tens of episodes a task, or a penalty on
    the mean risk in place of the forecast.
    """

    name = "failures"
    needs_failure = True
    needs_actions = True
    can_rescore = False

    def select_steps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        return np.ones(shape, dtype=np.bool_)

    def compress(self, rows: VisitedStates) -> VisitedStates:
        # Old steps say nothing about another policy: the failure rates are all that is remembered.
        return rows.where(np.zeros(len(rows), dtype=np.bool_))

    def psi(self, policy: ActorCriticPolicy, memory: TaskMemory) -> torch.Tensor:
        return as_psi(_posterior_mean(memory))

    def score_gradient(self, policy: ActorCriticPolicy, memory: TaskMemory, weight: torch.Tensor) -> RiskGradient:
        assert memory.new is not None
        new, episodes = memory.new, memory.episodes
        failure, count = new["failure"], episodes[new["task"]]
        # The other episodes' mean for every step: a task's failures less the step's own episode's.
        others = (memory.failure_rate * episodes)[new["task"]] - failure
        mean = memory.failure_rate.mean() if len(memory.failure_rate) else 0.0
        baseline = np.where(count > 1, others / np.maximum(count - 1, 1), mean)
        # Remembered tasks shape the forecast but have no gradient of their own.
        played_now = torch.zeros(len(weight), dtype=torch.bool)
        played_now[torch.as_tensor(new["task"])] = True
        weight = torch.where(played_now, weight, 0.0)
        played = PlayedSteps(new, failure - baseline, weight, policy.device)
        shrinkage = torch.as_tensor(episodes / (episodes + 2 * _PRIOR))
        factor = psi_weight(weight * shrinkage, _posterior_mean(memory))[weight != 0]
        return _FailureGradient(played, factor.to(policy.device, torch.float32))


def _posterior_mean(memory: TaskMemory) -> torch.Tensor:
    return torch.as_tensor((memory.failure_rate * memory.episodes + _PRIOR) / (memory.episodes + 2 * _PRIOR))


class _FailureGradient(RiskGradient):
    def __init__(self, played: PlayedSteps, factor: torch.Tensor) -> None:
        self._played, self._factor = played, factor
        self.n_tasks, self.n_rows = len(factor), played.n_rows

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        return (self._factor * self._played.per_task(policy)).sum()

    def kl(self, policy: ActorCriticPolicy) -> float:
        return self._played.kl(policy)
