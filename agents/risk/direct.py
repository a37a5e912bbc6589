"""Risk from the probabilities of fatal actions in visited states: no failure has to happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces

from agents.action_probability import log_action_probability
from agents.forecast_ppo.risk_tape import has_risk_contract
from agents.risk.base import RiskEstimator, Surrogate, psi_of_probability, psi_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.vec_env import VecEnv

    from agents.task_memory import RiskLedger, RiskRows

__all__ = ["DirectEstimator", "DirectSurrogate", "check_discrete", "check_fatal_probability"]


def check_discrete(name: str, space: spaces.Space) -> None:  # type: ignore[type-arg]
    """Refuse actions that the contract's probability per action cannot describe.

    :raises ValueError: names the estimator that can
    """
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"risk_estimator={name!r} needs a Discrete action space, it is {space}; 'failures' takes any, from "
            "failures that happened"
        )


def check_fatal_probability(name: str, env: VecEnv) -> None:
    """Refuse an environment that does not say how risky its actions are.

    :raises ValueError: says how it could
    """
    if not has_risk_contract(env):
        raise ValueError(
            f"risk_estimator={name!r} needs an environment whose infos carry 'fatal_probability': follow the contract "
            "of rl_forecast.tasks, or give RiskWrapper fatal=f, 'table' or 'lookahead', or take "
            "risk_estimator='failures', which needs failures that happen"
        )


class DirectEstimator(RiskEstimator):
    """Rao-Blackwell over actions: ``p_i = 1/J sum over episodes and visited states s: sum_a pi(a | s) fatal(s, a)``.

    Unbiased for the policy that played, positive without any failure and far below one in the number of episodes. The
    gradient leaves out that the policy also decides which states are visited (the flow term): its variance is small
    and it can be taken under any later policy, so remembered tasks have one too.
    """

    name = "direct"
    needs_fatal = True
    needs_failure = False
    needs_actions = False
    rescores = True

    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        check_discrete(self.name, space)

    def attach(self, env: VecEnv) -> None:
        check_fatal_probability(self.name, env)

    def keeps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        assert fatal is not None
        return np.asarray(fatal.any(axis=2))

    def condense(self, rows: RiskRows) -> RiskRows:
        return rows.merged(("observation", "fatal"))

    def psi(self, policy: ActorCriticPolicy, ledger: RiskLedger) -> NDArray[np.float64]:
        rows, n_tasks = ledger.rows, len(ledger.task_id)
        if rows is None or len(rows) == 0:
            return np.full(n_tasks, -np.inf)  # no fatal action has been in reach yet
        at_risk = rows.weight * step_risk(policy, rows)
        return psi_of_probability(np.bincount(rows.owner, weights=at_risk, minlength=n_tasks).astype(np.float64))

    def surrogate(self, policy: ActorCriticPolicy, ledger: RiskLedger, weight: NDArray[np.float64]) -> Surrogate:
        assert ledger.rows is not None
        return DirectSurrogate(policy, ledger.rows, weight)


def step_risk(policy: ActorCriticPolicy, rows: RiskRows) -> NDArray[np.float64]:
    """Probability that the next action is fatal, shape (r,), without gradient."""
    if len(rows) == 0:
        return np.empty(0)  # some of torch's distributions refuse an empty batch
    with torch.no_grad():
        observation = torch.as_tensor(rows.observation, device=policy.device)
        pi = log_action_probability(policy, observation).double().exp().cpu().numpy()
    risk: NDArray[np.float64] = (pi * rows.fatal).sum(axis=1)
    return risk


class DirectSurrogate(Surrogate):
    """Gradient through the action probabilities in the visited states.

    :param policy: the policy now
    :param rows: rows of the known tasks, an owner an index into ``weight``
    :param weight: shape (n_tasks,), dL / d psi of each known task; those with 0 are left out
    """

    def __init__(self, policy: ActorCriticPolicy, rows: RiskRows, weight: NDArray[np.float64]) -> None:
        device = policy.device
        active = weight != 0
        kept = rows[active[rows.owner]]
        self._observation = torch.as_tensor(kept.observation, device=device)
        self._fatal = torch.as_tensor(kept.fatal * kept.weight[:, None], dtype=torch.float32, device=device)
        self._owner = torch.as_tensor((np.cumsum(active) - 1)[kept.owner], device=device)
        self.weight = torch.as_tensor(weight[active], dtype=torch.float32, device=device)
        self.n_tasks, self.n_rows = len(self.weight), len(kept)
        if self.n_rows:
            with torch.no_grad():
                self._log_policy_before = self._log_policy(policy)

    def _log_policy(self, policy: ActorCriticPolicy) -> torch.Tensor:
        return log_action_probability(policy, self._observation)

    def probability(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Failure probability of the tasks with a weight, shape (n_tasks,), with gradient."""
        at_risk = (self._log_policy(policy).exp() * self._fatal).sum(dim=1)
        return torch.zeros_like(self.weight).index_add(0, self._owner, at_risk)

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        p = self.probability(policy)
        return (psi_weight(self.weight, p) * p).sum()

    @torch.no_grad()
    def kl(self, policy: ActorCriticPolicy) -> float:
        before, after = self._log_policy_before, self._log_policy(policy)
        return float((before.exp() * (before - after)).sum(dim=1).mean())
