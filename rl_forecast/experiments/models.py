"""The agents of the main job, from configuration: same networks, same tasks, same steps, another objective each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3 import PPO
from torch import nn

from agents.baselines import TopRiskPPO
from agents.forecast_ppo import ForecastPPO
from envs.gridworld.vec_env import GridVecEnv
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.config import AgentName, BaseConfig, Config

__all__ = ["make_base", "make_fine_tuned", "policy_kwargs"]


def policy_kwargs(base: BaseConfig) -> dict[str, Any]:
    """Arguments of the policy network that all agents of a run share."""
    return {"net_arch": list(base.hidden), "activation_fn": nn.ReLU}


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
    tune = config.fine_tune
    pool = SPLITS["train"].task_ids(config.world.pool_size, config.seed)
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
    if name == "ppo":
        model = PPO(**shared)
    elif name == "forecast_ppo":
        model = ForecastPPO(**shared, **_term(config), forecast_coef=config.forecast.coef)
    elif name == "top_risk":
        penalty = config.top_risk
        model = TopRiskPPO(**shared, **_term(config), forecast_coef=penalty.coef, top_fraction=penalty.top_fraction)
    else:
        raise ValueError(f"{name!r} is not a fine-tuned agent")
    model.policy.load_state_dict(base.policy.state_dict())
    return model


def _term(config: Config) -> dict[str, Any]:
    """Arguments that ForecastPPO and its kin share."""
    forecast = config.forecast
    return {
        "tail_k": forecast.tail_k,
        "n_partitions": forecast.n_partitions,
        "n_eval": forecast.n_eval,
        "n_deploy": forecast.n_deploy,
        "n_known_tasks": forecast.n_known_tasks,
        "episodes_per_task": config.fine_tune.episodes_per_task,
        "error_space": forecast.error_space,
        "penalty": forecast.penalty,
        "forecast_gradient": forecast.gradient,
        "psi_cap": forecast.psi_cap,
        "forecast_interval": forecast.interval,
        "forecast_max_grad_norm": forecast.max_grad_norm,
    }


def _linear(initial: float) -> Callable[[float], float]:
    """Learning rate that falls linearly to 0 as the remaining progress does."""

    def rate(remaining: float) -> float:
        return initial * remaining

    return rate
