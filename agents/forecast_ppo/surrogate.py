"""The differentiable surrogate: task scores from rows, and the loss whose gradient moves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from agents.action_probability import log_action_probability
from rl_forecast.scores import psi_from_log_p

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.forecast_ppo.risk_ledger import RiskRows

__all__ = ["RiskSurrogate", "task_psi"]

# Bounds of the *factor* d psi / d p only; p itself is never clamped, so tasks at either end keep a gradient.
_P_MIN, _P_MAX = 1e-13, 0.99
# An average of per-step probabilities can reach or pass 1; the score must stay finite.
_LOG_P_MAX = -1e-6


def task_psi(policy: ActorCriticPolicy, rows: RiskRows, n_tasks: int) -> NDArray[np.float64]:
    """Score every known task under the current policy, without gradient.

    :param policy: an actor with discrete actions
    :param rows: rows of the tasks, owners in ``range(n_tasks)``
    :param n_tasks: number of tasks
    :return: shape (n_tasks,), psi; ``-inf`` where no fatal action was ever available
    """
    with torch.no_grad():
        observation = torch.as_tensor(rows.observation, device=policy.device)
        pi = log_action_probability(policy, observation).double().exp().cpu().numpy()
    p = np.bincount(rows.owner, weights=rows.weight * (pi * rows.fatal).sum(axis=1), minlength=n_tasks)
    with np.errstate(divide="ignore"):
        log_p = np.minimum(np.log(p), _LOG_P_MAX)
    psi: NDArray[np.float64] = psi_from_log_p(log_p)
    return psi


@dataclass(frozen=True, eq=False)
class RiskSurrogate:
    """``sum_i w_i psi_i`` over the active tasks, evaluated again at every optimiser step.

    ``d psi / d p = 1 / (p |log p|)`` is a detached factor in which p is clamped, while p itself is not (straight
    through): a task at p = 1 would otherwise have no gradient, and it is the one that matters most.

    :param observation: shape (r, *observation_shape)
    :param fatal: shape (r, n_actions), fatal probability times the row's weight
    :param owner: shape (r,), index of the row's task among the active ones
    :param weight: shape (n_active,), dL / d psi
    """

    observation: torch.Tensor
    fatal: torch.Tensor
    owner: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def build(cls, rows: RiskRows, weight: NDArray[np.float64], device: torch.device) -> RiskSurrogate:
        """Keep the tasks that have both rows and a weight.

        :param rows: rows of the known tasks
        :param weight: shape (n_tasks,), dL / d psi of each known task
        :param device: device of the policy
        """
        active = weight != 0
        kept = rows[active[rows.owner]]
        return cls(
            observation=torch.as_tensor(kept.observation, device=device),
            fatal=torch.as_tensor(kept.fatal * kept.weight[:, None], dtype=torch.float32, device=device),
            owner=torch.as_tensor((np.cumsum(active) - 1)[kept.owner], device=device),
            weight=torch.as_tensor(weight[active], dtype=torch.float32, device=device),
        )

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.owner.shape[0])

    def log_policy(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Log action probabilities on the rows, shape (r, n_actions)."""
        return log_action_probability(policy, self.observation)

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Scalar whose gradient is ``sum_i w_i d psi_i / d theta``; its value has no meaning."""
        at_risk = (self.log_policy(policy).exp() * self.fatal).sum(dim=1)
        p = torch.zeros_like(self.weight).index_add(0, self.owner, at_risk)
        clamped = p.detach().clamp(_P_MIN, _P_MAX)
        return (self.weight / (clamped * -clamped.log()) * p).sum()
