"""Risk by dynamic programming, where the environment has it: what the other estimators are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.action_probability import log_action_probability
from agents.forecast_ppo.risk_tape import first_that_is
from agents.risk.base import RiskEstimator, Surrogate
from agents.risk.direct import check_discrete
from rl_forecast.scores import psi_from_log_p
from rl_forecast.tasks import ExactRiskEnv

if TYPE_CHECKING:
    from gymnasium import spaces
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.task_memory import RiskLedger, RiskRows

__all__ = ["ExactEstimator"]


class ExactEstimator(RiskEstimator):
    """Failure probability of the played tasks as the environment computes it for any policy.

    No deployment has this. It is the yardstick of the other estimators, and the ceiling of what training with better
    ones could give.
    """

    name = "exact"
    needs_fatal = False
    needs_failure = False
    needs_actions = False
    rescores = True

    def __init__(self) -> None:
        self._env: ExactRiskEnv | None = None

    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        check_discrete(self.name, space)

    def attach(self, env: VecEnv) -> None:
        source = first_that_is(ExactRiskEnv, env)
        if not isinstance(source, ExactRiskEnv) or not isinstance(source, VecEnv):
            raise ValueError(
                "risk_estimator='exact' needs an environment with log_failure_probability, as the batched gridworlds "
                "have: take 'direct'"
            )
        if source.observation_space != env.observation_space or isinstance(
            first_that_is(VecNormalize, env), VecNormalize
        ):
            raise ValueError("risk_estimator='exact' takes no wrapper that changes observations: take 'direct'")
        self._env = source

    def keeps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        return np.zeros(shape, dtype=np.bool_)

    def condense(self, rows: RiskRows) -> RiskRows:
        return rows

    def log_p(self, policy: ActorCriticPolicy, task_id: NDArray[np.int64]) -> torch.Tensor:
        """Log failure probabilities, shape (n_tasks,), float64, with gradient unless torch's is off."""
        assert self._env is not None
        return self._env.log_failure_probability(task_id, lambda seen: log_action_probability(policy, seen))

    def psi(self, policy: ActorCriticPolicy, ledger: RiskLedger) -> NDArray[np.float64]:
        with torch.no_grad():
            log_p = self.log_p(policy, ledger.task_id).cpu().numpy()
        psi: NDArray[np.float64] = psi_from_log_p(log_p)
        return psi

    def surrogate(self, policy: ActorCriticPolicy, ledger: RiskLedger, weight: NDArray[np.float64]) -> Surrogate:
        return _ExactSurrogate(self, policy, ledger.task_id[weight != 0], weight[weight != 0])


class _ExactSurrogate(Surrogate):
    def __init__(
        self,
        estimator: ExactEstimator,
        policy: ActorCriticPolicy,
        task_id: NDArray[np.int64],
        weight: NDArray[np.float64],
    ) -> None:
        self._estimator, self._task_id = estimator, task_id
        self._weight = torch.as_tensor(weight, dtype=torch.float64, device=policy.device)
        self.n_tasks = self.n_rows = len(task_id)

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        log_p = self._estimator.log_p(policy, self._task_id).to(self._weight.device)
        # d psi / d log p = 1 / |log p|; a task that cannot fail has no gradient.
        finite = torch.isfinite(log_p)
        slope = 1.0 / -log_p.detach()[finite].clamp(max=-1e-12)
        return (self._weight[finite] * slope * log_p[finite]).sum()

    def kl(self, policy: ActorCriticPolicy) -> float:
        # There are no states here to measure it on: PPO's own train/approx_kl tells.
        return float("nan")
