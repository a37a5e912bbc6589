"""Action probabilities of Stable-Baselines3 policies, and observations as one array each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.distributions import Distribution
    from stable_baselines3.common.policies import ActorCriticPolicy

__all__ = ["flat_observation", "log_action_probability", "log_probability_of"]


def flat_observation(observation: NDArray[np.float32] | dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Observations of a rollout as one array, so that a row of memory is one array whatever the space.

    :param observation: shape (n_steps, n_envs, *observation_shape), or one such array for each key of a ``Dict`` space
    :return: the array itself; of a ``Dict`` space shape (n_steps, n_envs, total size), its keys one after the other
    """
    if not isinstance(observation, dict):
        return observation
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in observation.values()], axis=2)


def _as_dict(space: spaces.Dict, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """What :func:`flat_observation` made one array of, shape (b, total size) to (b, *shape) for each key."""
    parts, start = {}, 0
    for key, subspace in space.spaces.items():
        shape = get_obs_shape(subspace)
        assert isinstance(shape, tuple)
        size = int(np.prod(shape))
        parts[key] = flat[:, start : start + size].reshape(-1, *shape)
        start += size
    return parts


def _distribution(policy: ActorCriticPolicy, observation: torch.Tensor) -> Distribution:
    seen: torch.Tensor | dict[str, torch.Tensor] = observation.to(policy.device)
    if isinstance(policy.observation_space, spaces.Dict) and isinstance(seen, torch.Tensor):
        seen = _as_dict(policy.observation_space, seen)
    distribution: Distribution = policy.get_distribution(seen)
    return distribution


def log_action_probability(policy: ActorCriticPolicy, observation: torch.Tensor) -> torch.Tensor:
    """Log-probability of each action of a policy with discrete actions.

    :param policy: an actor with a categorical action distribution
    :param observation: shape (b, *observation_shape), on any device; of a ``Dict`` space flat, shape (b, total size)
    :return: shape (b, n_actions), on the policy's device, differentiable in its parameters
    :raises ValueError: the policy's actions are not one choice out of a few
    """
    distribution = _distribution(policy, observation).distribution
    if not isinstance(distribution, torch.distributions.Categorical):
        raise ValueError(f"a policy over {policy.action_space} has no probability for each action: it must be Discrete")
    logits: torch.Tensor = distribution.logits
    return logits


def log_probability_of(policy: ActorCriticPolicy, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log-probability (density, where actions are continuous) of the actions that were taken.

    :param policy: an actor with any action distribution
    :param observation: as for :func:`log_action_probability`
    :param action: shape (b, action_dim), as a rollout buffer keeps it
    :return: shape (b,), on the policy's device, differentiable in its parameters
    """
    action = action.to(policy.device)
    # As PPO reads them out of its buffer.
    action = action.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else action.float()
    log_prob: torch.Tensor = _distribution(policy, observation).log_prob(action)
    return log_prob
