"""Risk from the probabilities of fatal actions in visited states: no failure has to happen."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from agents.risk.base import (
    POLICY_CONTEXT,
    RiskGradient,
    RiskSource,
    as_psi,
    log_action_probability,
    psi_weight,
    tensors,
)
from agents.task_memory import TaskMemory, VisitedStates, fatal_source


def check_discrete(name: str, space: spaces.Space) -> None:  # type: ignore[type-arg]
    """Refuse actions that have no probability each.

    :raises ValueError: names the source that takes any
    """
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"risk={name!r} needs a Discrete action space, it is {space}; risk='failures' takes any, from failures "
            "that happened"
        )


class DirectRisk(RiskSource):
    """Rao-Blackwell over actions: ``p_i = 1/J sum over episodes and visited states s: sum_a pi(a | s) fatal(s, a)``.

    Unbiased for the policy that played, positive without any failure and far below one in the number of episodes. The
    gradient leaves out that the policy also decides which states are visited (the flow term): its variance is small
    and it can be taken under any later policy, so remembered tasks have one too.
    """

    name = "direct"
    needs_fatal = True

    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        check_discrete(self.name, space)

    def check_env(self, env: VecEnv) -> None:
        if fatal_source(env) is None:
            raise ValueError(
                f"risk={self.name!r} needs fatal_probability: the info of a reset has none, and the environment no "
                "method of that name. Give RiskWrapper fatal=f, 'table' or 'lookahead', or take risk='failures'"
            )

    def select_steps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        assert fatal is not None
        return np.asarray(fatal.any(axis=2))

    def compress(self, rows: VisitedStates) -> VisitedStates:
        return rows.merged(("observation", "fatal", *POLICY_CONTEXT))

    def psi(self, policy: ActorCriticPolicy, memory: TaskMemory) -> torch.Tensor:
        rows, p = memory.scored, torch.zeros(len(memory.task_id), dtype=torch.float64)
        if rows is not None and len(rows):  # else no fatal action has been within reach yet
            risk = step_risk(policy, rows) * torch.as_tensor(rows["weight"])
            p = p.index_add(0, torch.as_tensor(rows["task"]), risk)
        return as_psi(p)

    def score_gradient(self, policy: ActorCriticPolicy, memory: TaskMemory, weight: torch.Tensor) -> RiskGradient:
        assert memory.scored is not None
        return DirectGradient(policy, memory.scored, weight)


@torch.no_grad()
def step_risk(policy: ActorCriticPolicy, rows: VisitedStates) -> torch.Tensor:
    """Probability that the next action is fatal, shape (r,), float64, on the CPU."""
    if len(rows) == 0:
        return torch.empty(0, dtype=torch.float64)  # some of torch's distributions refuse an empty batch
    observation, context = tensors(rows, policy.device)
    pi = log_action_probability(policy, observation, **context).double().exp().cpu()
    return (pi * torch.as_tensor(rows["fatal"])).sum(dim=1)


class DirectGradient(RiskGradient):
    """Gradient through the action probabilities in the visited states.

    :param policy: the policy now
    :param rows: rows of the remembered tasks
    :param weight: shape (n_tasks,), dL / d psi of each; tasks with 0 are left out
    """

    def __init__(self, policy: ActorCriticPolicy, rows: VisitedStates, weight: torch.Tensor) -> None:
        device = policy.device
        active = (weight != 0).numpy()
        used = rows.where(active[rows["task"]])
        self._input = tensors(used, device)
        fatal = used["fatal"] * used["weight"][:, None]
        self._fatal = torch.as_tensor(fatal, dtype=torch.float32, device=device)
        self._task = torch.as_tensor((np.cumsum(active) - 1)[used["task"]], device=device)
        self.weight = weight[torch.as_tensor(active)].to(device, torch.float32)
        self.n_tasks, self.n_rows = len(self.weight), len(used)
        if self.n_rows:
            with torch.no_grad():
                self._log_policy_before = self._log_policy(policy)

    def _log_policy(self, policy: ActorCriticPolicy) -> torch.Tensor:
        observation, context = self._input
        return log_action_probability(policy, observation, **context)

    def probability(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Failure probability of the tasks with a weight, shape (n_tasks,), with gradient."""
        risk = (self._log_policy(policy).exp() * self._fatal).sum(dim=1)
        return torch.zeros_like(self.weight).index_add(0, self._task, risk)

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        p = self.probability(policy)
        return (psi_weight(self.weight, p) * p).sum()

    @torch.no_grad()
    def kl(self, policy: ActorCriticPolicy) -> float:
        before, after = self._log_policy_before, self._log_policy(policy)
        # A masked action has probability 0 under both policies.
        return float(torch.where(before > -1e6, before.exp() * (before - after), 0.0).sum(dim=1).mean())
