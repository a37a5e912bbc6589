"""The agents of the main job, from configuration: same networks, same tasks, same steps, another objective each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3 import PPO
from torch import nn

from agents.baselines import LagrangianPPO
from agents.forecast_ppo import ForecastPPO
from envs.gridworld.vec_env import GridVecEnv
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.settings import AgentName, BaseConfig, Config

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
    elif name == "lagrangian":
        settings = {"risk_limit": penalty.risk_limit, "multiplier_rate": penalty.multiplier_rate}
        model = LagrangianPPO(**shared, **_term(config), **settings)
    else:
        model = ForecastPPO(**shared, **(_term(config) | _objective(name, config)))
    model.policy.load_state_dict(base.policy.state_dict())
    return model


def _objective(name: AgentName, config: Config) -> dict[str, Any]:
    """What distinguishes the methods that are settings of ForecastPPO."""
    penalty = config.penalty
    supervised = {"forecast_coef": 0.0, "risk_fraction": penalty.fraction}
    if name == "forecast_ppo":
        mean_risk = {"risk_penalty": "mean_risk", "risk_coef": config.forecast.mean_risk_coef}
        return {"forecast_coef": config.forecast.coef} | mean_risk
    if name == "anchor":
        return {"forecast_coef": 0.0, "anchor_coef": config.fine_tune.anchor_coef or _ANCHOR_COEF}
    if name == "top_risk":
        return supervised | {"risk_penalty": "top_log_risk", "risk_coef": penalty.top_risk_coef}
    if name == "mean_risk":
        return supervised | {"risk_penalty": "mean_risk", "risk_coef": penalty.mean_risk_coef}
    if name == "cvar":
        return supervised | {"risk_penalty": "cvar", "risk_coef": penalty.cvar_coef}
    raise ValueError(f"{name!r} is not a fine-tuned agent")


def _term(config: Config) -> dict[str, Any]:
    """Arguments that all methods with a term share."""
    forecast = config.forecast
    return {
        "tail_k": forecast.tail_k,
        "n_partitions": forecast.n_partitions,
        "n_eval": forecast.n_eval,
        "n_deploy": forecast.n_deploy,
        "n_known_tasks": forecast.n_known_tasks,
        "episodes_per_task": config.fine_tune.episodes_per_task,
        "risk_estimator": forecast.risk_estimator,
        "error_space": forecast.error_space,
        "penalty": forecast.penalty,
        "forecast_gradient": forecast.gradient,
        "psi_cap": forecast.psi_cap,
        "forecast_interval": forecast.interval,
        "forecast_max_grad_norm": forecast.max_grad_norm,
        "forecast_max_grad_ratio": forecast.max_grad_ratio,
        "anchor_coef": config.fine_tune.anchor_coef,
    }


def _linear(initial: float) -> Callable[[float], float]:
    """Learning rate that falls linearly to 0 as the remaining progress does."""

    def rate(remaining: float) -> float:
        return initial * remaining

    return rate
