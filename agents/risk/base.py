"""What every estimator of task risk offers: scores without gradient, and a loss that carries a gradient by them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from rl_forecast.scores import psi_from_log_p

if TYPE_CHECKING:
    from gymnasium import spaces
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.vec_env import VecEnv

    from agents.task_memory import RiskLedger, RiskRows

__all__ = ["RiskEstimator", "Surrogate", "psi_of_probability", "psi_weight"]

# Bounds of the *factor* d psi / d p only; p itself is never clamped, so tasks at either end keep a gradient.
_P_MIN, _P_MAX = 1e-13, 0.99
# An average of per-step probabilities can reach or pass 1; the score must stay finite.
_LOG_P_MAX = -1e-6


def psi_of_probability(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of estimated probabilities, which may be 0 (``-inf``) and may exceed 1.

    :param p: shape (n_tasks,)
    """
    with np.errstate(divide="ignore"):
        log_p = np.minimum(np.log(p), _LOG_P_MAX)
    psi: NDArray[np.float64] = psi_from_log_p(log_p)
    return psi


def psi_weight(weight: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """``w d psi / d p = w / (p |log p|)``, detached and with p clamped, while what it multiplies is not (straight
    through): a task at p = 1 would otherwise have no gradient, and it is the one that matters most.

    :param weight: shape (n_tasks,), dL / d psi
    :param p: shape (n_tasks,), estimated probability
    """
    clamped = p.detach().clamp(_P_MIN, _P_MAX)
    return weight / (clamped * -clamped.log())


class Surrogate(ABC):
    """``sum_i w_i psi_i``, evaluated again at every optimiser step; its value has no meaning, its gradient has."""

    n_tasks: int
    n_rows: int

    @abstractmethod
    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Scalar whose gradient is ``sum_i w_i d psi_i / d theta``.

        :param policy: the policy
        """

    @abstractmethod
    def kl(self, policy: ActorCriticPolicy) -> float:
        """Mean KL(policy when this was made || policy) on the states the loss acts on, nats.

        :param policy: the policy, later
        """


class RiskEstimator(ABC):
    """Estimates each task's failure probability from what the ledger remembers.

    :ivar name: what the agent's argument calls it
    :ivar needs_fatal: the environment must give the fatal probability of every action
    :ivar needs_failure: every episode must say whether it failed
    :ivar needs_actions: rows carry what was done and how probable it was
    :ivar rescores: a task can be scored under a policy that has not played it, as an anchor and remembered tasks ask
        for
    """

    name: ClassVar[str]
    needs_fatal: ClassVar[bool]
    needs_failure: ClassVar[bool]
    needs_actions: ClassVar[bool]
    rescores: ClassVar[bool]

    @abstractmethod
    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        """Refuse an action space that the estimator cannot do.

        :raises ValueError: says which it needs
        """

    def attach(self, env: VecEnv) -> None:  # noqa: B027 - most need nothing of it
        """Look at the environment that is about to be played.

        :raises ValueError: it does not give what the estimator needs
        """

    @abstractmethod
    def keeps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which steps of a rollout make a row.

        :param fatal: shape (n_steps, n_envs, n_actions), ``None`` unless ``needs_fatal``
        :param shape: (n_steps, n_envs)
        """

    @abstractmethod
    def condense(self, rows: RiskRows) -> RiskRows:
        """Of a complete task's rows, what to remember."""

    @abstractmethod
    def psi(self, policy: ActorCriticPolicy, ledger: RiskLedger) -> NDArray[np.float64]:
        """Scores of the known tasks, without gradient.

        :return: shape (n_tasks,), psi; ``-inf`` where nothing could go wrong
        """

    @abstractmethod
    def surrogate(self, policy: ActorCriticPolicy, ledger: RiskLedger, weight: NDArray[np.float64]) -> Surrogate:
        """The loss whose gradient is ``sum_i w_i d psi_i / d theta``.

        :param policy: the policy that played the latest rollout
        :param weight: shape (n_tasks,), dL / d psi of each known task
        """
