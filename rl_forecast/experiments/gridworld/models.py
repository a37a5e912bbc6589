"""The agents of the main job, from configuration: same networks, same tasks, same steps, another objective each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3 import PPO
from torch import nn

from agents.ppo import ForecastPPO
from envs.gridworld.vec_env import GridVecEnv
from rl_forecast.loss.objectives import Objective, anchor, cvar, risk_limit, top_risk
from rl_forecast.loss.settings import ForecastSettings
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.settings import AgentName, BaseConfig, Config, PenaltyConfig

__all__ = ["make_base", "make_fine_tuned", "policy_kwargs"]

# Weight of the anchor where it is all there is.
_ANCHOR_COEF = 100.0


def policy_kwargs(base: BaseConfig) -> dict[str, Any]:
    """Arguments of the policy network that all agents of a run share."""
    return {"net_arch": list(base.hidden), "activation_fn": {"relu": nn.ReLU, "tanh": nn.Tanh}[base.activation]}


def make_base(config: Config, world: GridWorld, device: torch.device | str = "cpu") -> PPO:
    """The untrained base agent in its training environment.

    Unless ``base.include_rare``, its pool is the common tasks only: it stands for an agent whose training has not seen
    the rare mode.

    :param config: configuration of the run
    :param world: the world
    :param device: torch device
    """
    base = config.base
    pool = SPLITS["train"].task_ids(config.world.pool_size, config.seed)
    if not base.include_rare:
        pool = pool[~world.tasks(pool).rare]
    return PPO(
        "MlpPolicy",
        GridVecEnv(world, pool, base.n_envs, seed=config.seed),
        n_steps=base.n_steps,
        batch_size=base.batch_size,
        n_epochs=base.n_epochs,
        learning_rate=_linear(base.learning_rate),
        ent_coef=base.ent_coef,
        gamma=base.gamma,
        policy_kwargs=policy_kwargs(base),
        seed=config.seed,
        device=device,
    )


def make_fine_tuned(
    name: AgentName, config: Config, world: GridWorld, base: PPO, device: torch.device | str = "cpu"
) -> PPO:
    """An agent with the base agent's weights, ready to be fine-tuned.

    :param name: which one, not ``base``
    :param config: configuration of the run
    :param world: the world
    :param base: the trained base agent
    :param device: torch device
    """
    tune, penalty = config.fine_tune, config.penalty
    pool = SPLITS["train"].task_ids(config.world.pool_size, config.seed)
    if name == "failure_cost":
        world = replace(world, failure_cost=penalty.failure_cost)
    shared: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": GridVecEnv(world, pool, tune.n_envs, tune.episodes_per_task, seed=config.seed),
        "n_steps": tune.n_steps,
        "batch_size": tune.batch_size,
        "n_epochs": tune.n_epochs,
        "learning_rate": _linear(tune.learning_rate),
        "ent_coef": tune.ent_coef,
        "gamma": config.base.gamma,
        "policy_kwargs": policy_kwargs(config.base),
        "seed": config.seed,
        "device": device,
    }
    model: PPO
    if name in ("ppo", "failure_cost"):
        model = PPO(**shared)
    else:
        settings = _settings(config)
        if name == "anchor":
            settings = replace(settings, coef=0.0, mean_risk_coef=0.0, anchor_coef=settings.anchor_coef or _ANCHOR_COEF)
        elif name == "mean_risk":
            settings = replace(settings, coef=0.0, mean_risk_coef=penalty.mean_risk_coef)
        objective = None
        if name in _OBJECTIVES:
            objective = _OBJECTIVES[name](penalty)
            if settings.anchor_coef > 0:
                objective += anchor(settings.anchor_coef)
        model = ForecastPPO(**shared, settings=settings, objective=objective, anchor=base.policy)
    model.policy.load_state_dict(base.policy.state_dict())
    return model


_OBJECTIVES: dict[str, Callable[[PenaltyConfig], Objective]] = {
    "top_risk": lambda penalty: top_risk(penalty.top_risk_coef, penalty.fraction),
    "cvar": lambda penalty: cvar(penalty.cvar_coef, penalty.fraction),
    "lagrangian": lambda penalty: risk_limit(penalty.risk_limit, penalty.multiplier_rate),
}


def _settings(config: Config) -> ForecastSettings:
    forecast = config.forecast
    names = {f.name for f in fields(ForecastSettings)} & {f.name for f in fields(forecast)}
    return ForecastSettings(
        **{name: getattr(forecast, name) for name in names},
        risk=forecast.risk_estimator,
        anchor_coef=config.fine_tune.anchor_coef,
        episodes_per_task=config.fine_tune.episodes_per_task,
    )


def _linear(initial: float) -> Callable[[float], float]:
    """Learning rate that falls linearly to 0 as the remaining progress does."""

    def rate(remaining: float) -> float:
        return initial * remaining

    return rate
