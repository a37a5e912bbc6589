"""Risk by dynamic programming, where the environment has it: what the other sources are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.risk.base import RiskGradient, RiskSource, log_action_probability
from agents.risk.direct import check_discrete
from agents.task_memory import TaskMemory, VisitedStates, wrapped_env
from rl_forecast.tasks import ExactRiskEnv


class ExactRisk(RiskSource):
    """Failure probability of the played tasks as the environment computes it for any policy.

    No deployment has this. It shows how far the other sources are from what training with better ones could give.
    """

    name = "exact"

    def __init__(self) -> None:
        self._env: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_env": None}  # an environment is not part of a saved agent

    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        check_discrete(self.name, space)

    def check_env(self, env: VecEnv) -> None:
        source = wrapped_env(env, ExactRiskEnv)
        if not isinstance(source, ExactRiskEnv):
            raise ValueError(
                "risk='exact' needs an environment with log_failure_probability, as the batched gridworlds have: take "
                "risk='direct'"
            )
        changed = getattr(source, "observation_space", None) != env.observation_space
        if changed or isinstance(wrapped_env(env, VecNormalize), VecNormalize):
            raise ValueError("risk='exact' takes no wrapper that changes observations: take risk='direct'")
        self._env = source

    def select_steps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        return np.zeros(shape, dtype=np.bool_)

    def compress(self, rows: VisitedStates) -> VisitedStates:
        return rows

    def log_p(self, policy: ActorCriticPolicy, task_id: NDArray[np.int64]) -> torch.Tensor:
        """Log failure probabilities, shape (n_tasks,), float64, with gradient unless torch's is off."""
        log_p: torch.Tensor = self._env.log_failure_probability(
            task_id, lambda seen: log_action_probability(policy, seen)
        )
        return log_p

    @torch.no_grad()
    def psi(self, policy: ActorCriticPolicy, memory: TaskMemory) -> torch.Tensor:
        return -(-self.log_p(policy, memory.task_id).cpu()).log()

    def score_gradient(self, policy: ActorCriticPolicy, memory: TaskMemory, weight: torch.Tensor) -> RiskGradient:
        active = weight != 0
        return _ExactGradient(self, memory.task_id[active.numpy()], weight[active].to(policy.device))


class _ExactGradient(RiskGradient):
    def __init__(self, source: ExactRisk, task_id: NDArray[np.int64], weight: torch.Tensor) -> None:
        self._source, self._task_id, self._weight = source, task_id, weight
        self.n_tasks = self.n_rows = len(task_id)

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        log_p = self._source.log_p(policy, self._task_id).to(self._weight.device)
        # d psi / d log p = 1 / |log p|; a task that cannot fail has no gradient.
        finite = torch.isfinite(log_p)
        slope = 1.0 / -log_p.detach()[finite].clamp(max=-1e-12)
        return (self._weight[finite] * slope * log_p[finite]).sum()

    def kl(self, policy: ActorCriticPolicy) -> float:
        return float("nan")  # there are no states here to measure it on: PPO's own train/approx_kl tells
