"""Configuration of the main job. Every field is a command-line option and a YAML key; the docstrings are its help.

Nothing heavy is imported here: a command line must answer before torch is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from rl_forecast.errors import InputError

__all__ = [
    "AGENTS",
    "AgentName",
    "BaseConfig",
    "Config",
    "EvaluationConfig",
    "FineTuneConfig",
    "ForecastConfig",
    "PenaltyConfig",
    "ValidationConfig",
    "WorldConfig",
    "check_config",
]

AgentName = Literal[
    "base", "ppo", "forecast_ppo", "top_risk", "mean_risk", "cvar", "failure_cost", "lagrangian", "anchor"
]

#: Agents of the default table, in its order. ``base`` is what the others are fine-tuned from.
AGENTS: tuple[AgentName, ...] = ("base", "ppo", "mean_risk", "forecast_ppo")


@dataclass(frozen=True)
class WorldConfig:
    """The world and its training pool. A setting that is not given is the family's own.

    :param family: family of gridworlds
    :param severity: weight in [0, 1] of the recoloured lava in the channel shared by all hazards
    :param rare_probability: probability that a task belongs to the rare mode
    :param failure_cost: subtracted from the reward on failure; 0.2 or more leaves little tail to study
    :param size: width and height of the room in cells
    :param horizon: steps after which an episode ends
    :param pool_size: number of training tasks
    """

    family: Literal["recolor", "mixed", "slip", "gale", "bridge", "control", "shift"] = "recolor"
    severity: float | None = None
    rare_probability: float | None = None
    failure_cost: float | None = None
    size: int | None = None
    horizon: int | None = None
    pool_size: int = 20_000


@dataclass(frozen=True)
class BaseConfig:
    """Training of the base agent with PPO.

    :param total_timesteps: environment steps of a round
    :param success_threshold: rounds are repeated until the success on validation tasks reaches this probability
    :param max_rounds: rounds after which training goes on with a warning
    :param include_rare: whether the base agent trains on the rare mode too
    :param n_envs: parallel environments
    :param n_steps: steps per environment and rollout
    :param batch_size: minibatch size
    :param n_epochs: passes over a rollout
    :param learning_rate: initial learning rate, decayed linearly to 0 within a round
    :param ent_coef: entropy coefficient
    :param gamma: discount factor
    :param hidden: units of each hidden layer, for actor and critic alike
    :param activation: of the hidden layers
    """

    total_timesteps: int = 300_000
    success_threshold: float = 0.97
    max_rounds: int = 3
    include_rare: bool = False
    n_envs: int = 64
    n_steps: int = 64
    batch_size: int = 512
    n_epochs: int = 4
    learning_rate: float = 2e-3
    ent_coef: float = 0.01
    gamma: float = 0.97
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["relu", "tanh"] = "relu"


@dataclass(frozen=True)
class FineTuneConfig:
    """Fine-tuning: the same steps and settings for every method.

    :param total_timesteps: environment steps
    :param n_envs: parallel environments
    :param n_steps: steps per environment and rollout
    :param batch_size: minibatch size
    :param n_epochs: passes over a rollout
    :param learning_rate: initial learning rate, decayed linearly to 0
    :param ent_coef: entropy coefficient
    :param episodes_per_task: episodes in a row of each task
    :param anchor_coef: weight of the anchor to the base agent, in every agent that has a term of its own; the agent
        called anchor has nothing else and takes 100 where this is 0
    """

    total_timesteps: int = 200_000
    n_envs: int = 64
    n_steps: int = 128
    batch_size: int = 1024
    n_epochs: int = 4
    learning_rate: float = 1e-3
    ent_coef: float = 0.01
    episodes_per_task: int = 1
    anchor_coef: float = 100.0


@dataclass(frozen=True)
class ForecastConfig:
    """The forecastability loss of ForecastPPO, with the defaults that docs/rl_study.md supports.

    The loss as the paper has it (our reading): error_space psi, penalty squared, coef 1, mean_risk_coef 0, no anchor.

    :param coef: weight of the loss
    :param tail_k: number of largest scores the forecast inside the loss is fitted to
    :param n_partitions: random evaluation/deployment partitions per update, or auto
    :param n_eval: tasks in the evaluation part of a partition
    :param n_deploy: tasks in its deployment part
    :param n_known_tasks: number of most recent tasks whose scores enter the loss
    :param error_space: space of the forecast error; without an anchor log10_p and log_odds have raised common failures
        to meet rare ones
    :param penalty: penalty of the error
    :param gradient: through forecast and realised worst (full), or through the forecast only
    :param psi_cap: scores above are capped in the loss, their gradient passes
    :param interval: the gradient is added at every that many minibatches
    :param max_grad_norm: norm limit of the added gradient
    :param max_grad_ratio: further limit, as a multiple of the norm of PPO's own gradient; null for none
    :param mean_risk_coef: weight of a penalty on the mean risk beside the loss
    :param risk_estimator: where failure probabilities come from in training: visited states (direct), these and how
        they were reached (flow), failures that happened (failures), dynamic programming (exact). Every agent with a
        term of its own takes it
    """

    coef: float = 0.1
    tail_k: int = 10
    n_partitions: int | Literal["auto"] = 64
    n_eval: int = 200
    n_deploy: int = 800
    n_known_tasks: int = 4000
    error_space: Literal["psi", "log10_p", "log_odds"] = "log10_p"
    penalty: Literal["squared", "huber"] = "huber"
    gradient: Literal["full", "stop_realised"] = "full"
    psi_cap: float = 3.0
    interval: int = 4
    max_grad_norm: float = 0.25
    max_grad_ratio: float | None = 0.3
    mean_risk_coef: float = 100.0
    risk_estimator: Literal["direct", "flow", "failures", "exact"] = "direct"


@dataclass(frozen=True)
class PenaltyConfig:
    """The methods to compare with, through the same hook and under the same norm limit.

    :param top_risk_coef: top_risk: weight of the mean log risk of the riskiest tasks
    :param mean_risk_coef: mean_risk: weight of the mean risk
    :param cvar_coef: cvar: weight of the mean risk of the riskiest tasks
    :param fraction: share of known tasks that top_risk and cvar call the riskiest
    :param failure_cost: failure_cost: subtracted from the reward on failure, in fine-tuning only
    :param risk_limit: lagrangian: mean risk that is allowed
    :param multiplier_rate: lagrangian: change of the multiplier per update and unit of relative excess
    """

    top_risk_coef: float = 0.1
    mean_risk_coef: float = 100.0
    cvar_coef: float = 1.0
    fraction: float = 0.01
    failure_cost: float = 1.0
    risk_limit: float = 1e-4
    multiplier_rate: float = 5.0


@dataclass(frozen=True)
class ValidationConfig:
    """Forecast error on validation tasks during training, for TensorBoard; it changes no weight.

    :param n_eval: tasks of an evaluation set
    :param n_eval_sets: evaluation sets
    :param n_deploy: tasks of the deployment set
    :param every: environment steps between two evaluations
    """

    n_eval: int = 200
    n_eval_sets: int = 5
    n_deploy: int = 2000
    every: int = 50_000


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on held-out tasks: the forecast of each evaluation set against the worst of each deployment set.

    :param n_eval: tasks m of an evaluation set
    :param n_deploy: tasks n of a deployment set
    :param n_eval_sets: disjoint evaluation sets
    :param n_deploy_sets: disjoint deployment sets
    :param tail_k: number k of largest scores the forecaster uses
    :param forecaster: method of the headline table
    :param second_forecaster: method that no agent was trained on, reported beside it
    """

    n_eval: int = 200
    n_deploy: int = 4000
    n_eval_sets: int = 100
    n_deploy_sets: int = 8
    tail_k: int = 10
    forecaster: Literal["gumbel_tail", "shape_prior", "exponential_pivot", "gpd", "log_normal"] = "gumbel_tail"
    second_forecaster: Literal["gumbel_tail", "shape_prior", "exponential_pivot", "gpd", "log_normal"] = (
        "exponential_pivot"
    )


@dataclass(frozen=True)
class Config:
    """One run of the main job.

    :param job: which job the configuration belongs to
    :param preset: named settings that the other options override
    :param seed: seed of the training pool, the agents and the held-out tasks
    :param log_dir: folder in which the run folder is made
    :param device: torch device of the agents: cpu, cuda, cuda:1, ...
    :param threads: torch threads; results depend on it in the last digits, so it is not taken from the machine
    :param checkpoint_every: environment steps between two checkpoints of the agent in training; 0 for none
    :param agents: agents of the table; base is always trained
    """

    job: Literal["gridworld"] = "gridworld"
    preset: str = "default"
    seed: int = 0
    log_dir: str = "runs"
    device: str = "cpu"
    threads: int = 1
    checkpoint_every: int = 50_000
    agents: tuple[AgentName, ...] = AGENTS
    world: WorldConfig = field(default_factory=WorldConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    forecast: ForecastConfig = field(default_factory=ForecastConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


# Bounds that differ from the rule: whole numbers are at least 1, other numbers at least 0.
_BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, math.inf),
    "checkpoint_every": (0, math.inf),
    "world.size": (4, 50),
    "world.severity": (0, 1),
    "world.rare_probability": (0, 1),
    "base.success_threshold": (0, 1),
    "base.gamma": (0, 1),
    "base.batch_size": (2, math.inf),
    "fine_tune.batch_size": (2, math.inf),
    "forecast.tail_k": (2, math.inf),
    "forecast.n_eval": (2, math.inf),
    "forecast.psi_cap": (-math.inf, math.inf),
    "penalty.fraction": (1e-9, 1),
    "penalty.risk_limit": (1e-12, 1),
    "validation.n_eval": (2, math.inf),
    "evaluation.n_eval": (2, math.inf),
    "evaluation.tail_k": (2, math.inf),
    # Fields of the language-model job alone.
    "base.seed": (-1, math.inf),
    "base.accuracy": (0, 1),
    "base.legitimate_share": (0, 1),
    "game.n_words": (4, 99),
    "game.n_phrases": (2, math.inf),
    "game.rare_probability": (0, 0.99),
    "game.password_length": (1, 8),
    "lora.r": (0, math.inf),
    "fine_tune.final_fraction": (0, 1),
    "fine_tune.pools": (0, math.inf),
    "fine_tune.anchor_tasks": (0, math.inf),
    "fine_tune.warmup_steps": (0, math.inf),
    "fine_tune.checkpoint_every": (0, math.inf),
    "evaluation.n_legitimate": (0, math.inf),
    "evaluation.n_clear": (0, math.inf),
}


def check_config(config: Any, prefix: str = "") -> None:
    """Refuse numbers out of range, before anything is made.

    :param config: a configuration or a part of it
    :param prefix: dotted name of the part, ending in a dot
    :raises InputError: names the field, its value and the bound
    """
    for f in fields(config):
        name, value = prefix + f.name, getattr(config, f.name)
        if is_dataclass(value):
            check_config(value, f"{name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            low, high = _BOUNDS.get(name, (1 if isinstance(number, int) else 0, math.inf))
            if math.isnan(number) or number < low:
                rule = "not be negative" if low == 0 else f"be at least {low:g}"
                raise InputError(f"{name} must {rule}, it is {number:g}")
            if number > high:
                raise InputError(f"{name} must be at most {high:g}, it is {number:g}")
