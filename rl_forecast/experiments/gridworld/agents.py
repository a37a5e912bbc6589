"""The agents of the gridworld job: same networks, same tasks, same steps, another objective each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from agents.ppo import ForecastPPO
from envs.gridworld.vec_env import GridVecEnv
from envs.gridworld.world import GridWorld
from rl_forecast.errors import InputError
from rl_forecast.experiments.settings import BaseConfig, Config, FineTuneConfig
from rl_forecast.loss.objectives import Objective, anchor, cvar, risk_limit, top_risk
from rl_forecast.loss.settings import ForecastSettings
from rl_forecast.tasks import SPLITS

# Weight of the anchor where it is all there is.
_ANCHOR_COEF = 100.0


def policy_kwargs(base: BaseConfig) -> dict[str, Any]:
    """Arguments of the policy network that all agents of a run share."""
    return {"net_arch": list(base.hidden), "activation_fn": {"relu": nn.ReLU, "tanh": nn.Tanh}[base.activation]}


def make_base(config: Config, world: GridWorld, device: torch.device | str = "cpu") -> PPO:
    """The untrained base agent in its training environment.

    Unless ``base.include_rare``, its pool is the common tasks only: it stands for an agent whose training has not seen
    the rare mode.
    """
    pool = SPLITS["train"].task_ids(config.world.pool_size, config.seed)
    if not config.base.include_rare:
        pool = pool[~world.tasks(pool).rare]
    env = GridVecEnv(world, pool, config.base.n_envs, seed=config.seed)
    return PPO(env=env, **_ppo_arguments(config, config.base, device))


def make_fine_tuned(
    name: str, config: Config, world: GridWorld, base: ActorCriticPolicy, device: torch.device | str = "cpu"
) -> PPO:
    """An agent with the base agent's weights, ready to be fine-tuned.

    :raises InputError: settings that exclude each other
    """
    if name == "failure_cost":
        world = replace(world, failure_cost=config.penalty.failure_cost)
    pool = SPLITS["train"].task_ids(config.world.pool_size, config.seed)
    env = GridVecEnv(world, pool, config.fine_tune.n_envs, config.forecast.episodes_per_task, seed=config.seed)
    arguments = _ppo_arguments(config, config.fine_tune, device) | {"env": env}
    try:
        if name in ("ppo", "failure_cost"):
            model = PPO(**arguments)
        else:
            settings, objective = _objective(name, config)
            model = ForecastPPO(**arguments, settings=settings, objective=objective, anchor=base)
    except ValueError as error:
        raise InputError(str(error)) from error
    model.policy.load_state_dict(base.state_dict())
    return model


def _ppo_arguments(config: Config, part: BaseConfig | FineTuneConfig, device: torch.device | str) -> dict[str, Any]:
    def rate(remaining: float) -> float:
        return part.learning_rate * remaining

    schedule: Callable[[float], float] = rate
    return {
        "policy": "MlpPolicy",
        "n_steps": part.n_steps,
        "batch_size": part.batch_size,
        "n_epochs": part.n_epochs,
        "learning_rate": schedule,
        "ent_coef": part.ent_coef,
        "gamma": config.base.gamma,
        "policy_kwargs": policy_kwargs(config.base),
        "seed": config.seed,
        "device": device,
    }


def _objective(name: str, config: Config) -> tuple[ForecastSettings, Objective | None]:
    """Settings of a method, and its objective where these do not say it."""
    settings, penalty = config.forecast, config.penalty
    if name == "forecast_ppo":
        return settings, None
    if name == "anchor":
        anchor_coef = settings.anchor_coef or _ANCHOR_COEF
        return replace(settings, coef=0.0, mean_risk_coef=0.0, anchor_coef=anchor_coef), None
    if name == "mean_risk":
        return replace(settings, coef=0.0, mean_risk_coef=penalty.mean_risk_coef), None
    objective = {
        "top_risk": lambda: top_risk(penalty.top_risk_coef, penalty.fraction),
        "cvar": lambda: cvar(penalty.cvar_coef, penalty.fraction),
        "lagrangian": lambda: risk_limit(penalty.risk_limit, penalty.multiplier_rate),
    }[name]()
    return settings, objective + anchor(settings.anchor_coef) if settings.anchor_coef > 0 else objective
