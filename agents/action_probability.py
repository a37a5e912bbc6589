"""Action probabilities of Stable-Baselines3 policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from stable_baselines3.common.policies import ActorCriticPolicy

__all__ = ["log_action_probability"]


def log_action_probability(policy: ActorCriticPolicy, observation: torch.Tensor) -> torch.Tensor:
    """Log-probability of each action of a policy with discrete actions.

    :param policy: an actor with a categorical action distribution
    :param observation: shape (b, *observation_shape), on any device
    :return: shape (b, n_actions), on the policy's device, differentiable in its parameters
    """
    distribution = policy.get_distribution(observation.to(policy.device)).distribution
    assert isinstance(distribution, torch.distributions.Categorical)
    logits: torch.Tensor = distribution.logits
    return logits
