"""Environments, settings and comparisons that the agents' tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import Forecastability, ForecastPPO, ForecastSettings
from envs import GridVecEnv, RecolorWorld
from tests.agents.contract_env import Bridge

WORLD = RecolorWorld(rare_probability=0.1)
SIZES: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 500, "n_partitions": 8}
PAPER = replace(ForecastSettings.paper(), **SIZES)
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 3, "device": "cpu"}
# Enough episodes in a rollout of `grid` that there are tasks to compare, in few minibatches.
MANY: dict[str, Any] = SMALL | {"batch_size": 512}
ROLLOUT = 64 * 32


def grid(n_envs: int = 64, seed: int = 2) -> GridVecEnv:
    return GridVecEnv(WORLD, np.arange(3000), n_envs, seed=seed)


def bridges(n_envs: int = 8, kind: Callable[..., Any] = Bridge, **settings: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: kind(**settings) for _ in range(n_envs)])


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of what a policy or an agent has learned."""
    return {name: value.clone() for name, value in getattr(model, "policy", model).state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def callback_of(model: ForecastPPO) -> Forecastability:
    assert model.forecastability is not None
    return model.forecastability


class AtEnd(BaseCallback):
    """Calls a function where a rollout has ended and the update has not begun."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.function = function

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.function()
