"""What every source of failure probabilities offers: scores without gradient, and a gradient of weighted scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import VecEnv

from agents.task_memory import TaskMemory, VisitedStates

#: Columns, beside the observation, that a policy needs to be asked again.
POLICY_CONTEXT = ("action_masks", "hidden", "cell", "episode_starts")

# Bounds of the *factor* d psi / d p only; p itself is never clamped, so tasks at either end keep a gradient.
_P_MIN, _P_MAX = 1e-13, 0.99
# A mean of per-step probabilities can reach or pass 1; the score must stay finite.
_LOG_P_MAX = -1e-6


def _as_dict(space: spaces.Dict, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """Undo :func:`agents.task_memory.flat_observation`: shape (b, total size) to (b, *shape) for each key."""
    shapes: dict[str, Any] = {key: get_obs_shape(subspace) for key, subspace in space.spaces.items()}
    parts = torch.split(flat, [int(np.prod(shape)) for shape in shapes.values()], dim=1)
    return {key: part.reshape(-1, *shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}


def _distribution(policy: ActorCriticPolicy, observation: torch.Tensor, context: dict[str, Any]) -> Any:
    seen: Any = observation.to(policy.device)
    if isinstance(policy.observation_space, spaces.Dict):
        seen = _as_dict(policy.observation_space, seen)
    distribution: Any = policy.get_distribution(seen, **context)
    return distribution[0] if isinstance(distribution, tuple) else distribution  # recurrent: and the next state


def log_action_probability(policy: ActorCriticPolicy, observation: torch.Tensor, **context: Any) -> torch.Tensor:
    """Log-probability of each action of a policy with discrete actions.

    :param policy: an actor with a categorical action distribution
    :param observation: shape (b, *observation_shape), on any device; of a ``Dict`` space flat, shape (b, total size)
    :param context: what else the policy's ``get_distribution`` takes: ``action_masks`` of a maskable one,
        ``lstm_states`` and ``episode_starts`` of a recurrent one
    :return: shape (b, n_actions), on the policy's device, differentiable in its parameters
    :raises ValueError: the policy's actions are not one choice out of a few
    """
    distribution = _distribution(policy, observation, context).distribution
    if not isinstance(distribution, torch.distributions.Categorical):
        raise ValueError(f"a policy over {policy.action_space} has no probability for each action: it must be Discrete")
    logits: torch.Tensor = distribution.logits
    return logits


def log_probability_of(
    policy: ActorCriticPolicy, observation: torch.Tensor, action: torch.Tensor, **context: Any
) -> torch.Tensor:
    """Log-probability (density, where actions are continuous) of the actions that were taken, shape (b,).

    :param policy: an actor with any action distribution
    :param observation: as for :func:`log_action_probability`, and so is ``context``
    :param action: shape (b, action_dim), as a rollout buffer keeps it
    """
    action = action.to(policy.device)
    # As PPO reads them from its buffer.
    action = action.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else action.float()
    log_prob: torch.Tensor = _distribution(policy, observation, context).log_prob(action)
    return log_prob


def tensors(rows: VisitedStates, device: torch.device) -> tuple[torch.Tensor, dict[str, Any]]:
    """Observations of the rows, and what else the policy's ``get_distribution`` takes with them."""
    given = {name: torch.as_tensor(rows[name], device=device) for name in POLICY_CONTEXT if name in rows.columns}
    if "hidden" in given:
        # From (rows, layers, units) to what torch's LSTMs take: one sequence of one step for each row.
        states = tuple(given.pop(name).transpose(0, 1).contiguous() for name in ("hidden", "cell"))
        return torch.as_tensor(rows["observation"], device=device), given | {"lstm_states": states}
    return torch.as_tensor(rows["observation"], device=device), given


def as_psi(p: torch.Tensor) -> torch.Tensor:
    """Scores of estimated probabilities, which may be 0 (``-inf``) and may exceed 1, shape (n_tasks,)."""
    return -(-p.log().clamp(max=_LOG_P_MAX)).log()


def psi_weight(weight: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """``w d psi / d p = w / (p |log p|)``, detached and with p clamped, while what it multiplies is not (straight
    through): a task at p = 1 would otherwise have no gradient, and it is the one that matters most.
    """
    clamped = p.detach().clamp(_P_MIN, _P_MAX)
    return weight / (clamped * -clamped.log())


class RiskGradient(ABC):
    """``sum_i w_i psi_i``, evaluated again at every optimiser step; its value has no meaning, its gradient has."""

    n_tasks: int
    n_rows: int

    @abstractmethod
    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        """Scalar whose gradient is ``sum_i w_i d psi_i / d theta``."""

    @abstractmethod
    def kl(self, policy: ActorCriticPolicy) -> float:
        """Mean KL(policy when this was made || policy) in the states that carry the gradient, nats; NaN if unknown."""


class RiskSource(ABC):
    """Estimates each task's failure probability from what was remembered of it.

    :ivar name: what settings call it
    :ivar needs_fatal: the environment must report the fatal probability of every action
    :ivar needs_failure: every episode must say whether it failed
    :ivar needs_actions: rows carry what was done and how probable it was
    :ivar can_rescore: a task can be scored under a policy that has not played it: an anchor, or a later one
    """

    name: ClassVar[str]
    needs_fatal: ClassVar[bool] = False
    needs_failure: ClassVar[bool] = False
    needs_actions: ClassVar[bool] = False
    can_rescore: ClassVar[bool] = True

    def check_actions(self, space: spaces.Space) -> None:  # type: ignore[type-arg]  # noqa: B027 - some take any
        """Raise ``ValueError`` for an action space that the source cannot handle."""

    def check_env(self, env: VecEnv) -> None:  # noqa: B027 - some need nothing of it
        """Raise ``ValueError`` if the environment does not give what the source needs."""

    @abstractmethod
    def select_steps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which steps of a rollout become a row.

        :param fatal: shape (n_steps, n_envs, n_actions), ``None`` unless ``needs_fatal``
        :param shape: (n_steps, n_envs)
        """

    @abstractmethod
    def compress(self, rows: VisitedStates) -> VisitedStates:
        """Of a completed task's rows, what to remember."""

    @abstractmethod
    def psi(self, policy: ActorCriticPolicy, memory: TaskMemory) -> torch.Tensor:
        """Scores of the remembered tasks, without gradient.

        :return: shape (n_tasks,), float64, on the CPU; ``-inf`` where nothing could go wrong
        """

    @abstractmethod
    def score_gradient(self, policy: ActorCriticPolicy, memory: TaskMemory, weight: torch.Tensor) -> RiskGradient:
        """The function whose gradient is ``sum_i w_i d psi_i / d theta``.

        :param policy: the policy that played the latest rollout
        :param memory: the remembered tasks
        :param weight: shape (n_tasks,), float64, dL / d psi of each of them
        """
