"""Risk from failures that happened: all that an environment without fatal probabilities can give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from agents.risk.base import RiskEstimator, Surrogate, psi_of_probability, psi_weight
from agents.risk.played import PlayedSteps

if TYPE_CHECKING:
    from gymnasium import spaces
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.task_memory import RiskLedger, RiskRows

__all__ = ["FailuresEstimator"]

# Jeffreys' prior: half a failure and half a success. Without it a task that has not failed would be certain not to.
_PRIOR = 0.5


class FailuresEstimator(RiskEstimator):
    """Score function (REINFORCE) from failure flags: ``d p_i = 1/J sum_j (F_j - b_j) sum_t d log pi(a_t | s_t)``.

    ``b_j`` is the failure rate of the task's other episodes, or, with one episode a task, of all known tasks. Any
    action space will do. A task is scored by ``(failures + 1/2) / (J + 1)`` (Jeffreys): with few episodes most tasks
    share one score, and the largest k of them are ties without a slope. Episodes in the tens, or a penalty on the mean
    risk in place of the forecast, is what this estimator can carry.
    """

    name = "failures"
    needs_fatal = False
    needs_failure = True
    needs_actions = True
    rescores = False

    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        pass

    def keeps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        return np.ones(shape, dtype=np.bool_)

    def condense(self, rows: RiskRows) -> RiskRows:
        # Old steps say nothing about another policy: the ledger's failure rates are all that is remembered.
        return rows[np.zeros(len(rows), dtype=np.bool_)]

    def psi(self, policy: ActorCriticPolicy, ledger: RiskLedger) -> NDArray[np.float64]:
        return psi_of_probability(_posterior_mean(ledger))

    def surrogate(self, policy: ActorCriticPolicy, ledger: RiskLedger, weight: NDArray[np.float64]) -> Surrogate:
        assert ledger.fresh is not None
        fresh, episodes = ledger.fresh, ledger.episodes
        failure = fresh.columns["failure"]
        # The other episodes' mean for every step: a task's failures less the step's own episode's.
        others = (ledger.failure_rate * episodes)[fresh.owner] - failure
        baseline = np.where(
            episodes[fresh.owner] > 1,
            others / np.maximum(episodes[fresh.owner] - 1, 1),
            ledger.failure_rate.mean() if len(ledger.failure_rate) else 0.0,
        )
        known_now = np.zeros(len(weight), dtype=np.bool_)
        known_now[fresh.owner] = True
        # Remembered tasks shape the forecast but have no gradient of their own.
        weight = np.where(known_now, weight, 0.0)
        played = PlayedSteps(fresh, failure - baseline, weight, policy.device)
        active = weight != 0
        shrinkage = (episodes / (episodes + 2 * _PRIOR))[active]
        factor = psi_weight(
            torch.as_tensor(weight[active] * shrinkage), torch.as_tensor(_posterior_mean(ledger)[active])
        )
        return _FailuresSurrogate(played, factor.to(policy.device, torch.float32))


def _posterior_mean(ledger: RiskLedger) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = (ledger.failure_rate * ledger.episodes + _PRIOR) / (ledger.episodes + 2 * _PRIOR)
    return mean


class _FailuresSurrogate(Surrogate):
    def __init__(self, played: PlayedSteps, factor: torch.Tensor) -> None:
        self._played, self._factor = played, factor
        self.n_tasks, self.n_rows = len(factor), played.n_rows

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        return (self._factor * self._played.per_task(policy)).sum()

    def kl(self, policy: ActorCriticPolicy) -> float:
        return self._played.kl(policy)
