"""Every setting of the runs of both jobs: a field is a command-line option and a YAML key, its docstring line the help.

Nothing heavy is imported here: a command line must answer before torch is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from rl_forecast.errors import InputError
from rl_forecast.loss.settings import ForecastSettings

T = TypeVar("T")
ForecasterName = Literal["gumbel_tail", "shape_prior", "exponential_pivot", "gpd", "log_normal"]
AgentName = Literal[
    "base", "ppo", "forecast_ppo", "top_risk", "mean_risk", "cvar", "failure_cost", "lagrangian", "anchor"
]
MethodName = Literal["base", "sft", "refusal_sft", "mean_log_p", "mean_p", "mean_score", "top_k", "anchor", "forecast"]

#: Agents of the gridworld job's default table, in its order. ``base`` is what the others are fine-tuned from.
AGENTS: tuple[AgentName, ...] = ("base", "ppo", "mean_risk", "forecast_ppo")

#: Settings of earlier versions and what they are called now, so that their run folders can be read.
RENAMED = {
    "fine_tune.anchor_coef": "forecast.anchor_coef",
    "fine_tune.episodes_per_task": "forecast.episodes_per_task",
    "fine_tune.checkpoint_every": "checkpoint_every",
    "forecast.risk_estimator": "forecast.risk",
}


def bounded(default: T, low: float = -math.inf, high: float = math.inf) -> T:
    """A field with its range; without one, whole numbers are at least 1 and other numbers at least 0."""
    result: T = field(default=default, metadata={"range": (low, high)})
    return result


def check_config(config: Any, prefix: str = "") -> None:
    """Refuse numbers out of range, before anything is made.

    :raises InputError: names the field, its value and the bound
    """
    for f in fields(config):
        name, value = prefix + f.name, getattr(config, f.name)
        if is_dataclass(value):
            if not isinstance(value, ForecastSettings):  # which checks itself
                check_config(value, f"{name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            low, high = f.metadata.get("range", (1 if isinstance(number, int) else 0, math.inf))
            if math.isnan(number) or number < low:
                raise InputError(f"{name} must be at least {low:g}, it is {number:g}")
            if number > high:
                raise InputError(f"{name} must be at most {high:g}, it is {number:g}")


@dataclass(frozen=True)
class RunConfig:
    """What the runs of both jobs have in common.

    :param preset: named settings that the other options override
    :param seed: seed of tasks and training
    :param log_dir: folder in which the run folder is made
    :param device: torch device: cpu, cuda, cuda:1, ...
    :param threads: torch threads of a process; results depend on it in the last digits, so it is not taken from the
        machine
    :param checkpoint_every: training steps between two checkpoints of the agent in training; 0 for none
    """

    preset: str = "default"
    seed: int = bounded(0, 0)
    log_dir: str = "runs"
    device: str = "cpu"
    threads: int = 1
    checkpoint_every: int = bounded(50_000, 0)


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

    n_eval: int = bounded(200, 2)
    n_deploy: int = 4000
    n_eval_sets: int = 100
    n_deploy_sets: int = 8
    tail_k: int = bounded(10, 2)
    forecaster: ForecasterName = "gumbel_tail"
    second_forecaster: ForecasterName = "exponential_pivot"


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
    severity: float | None = bounded(None, 0, 1)
    rare_probability: float | None = bounded(None, 0, 1)
    failure_cost: float | None = None
    size: int | None = bounded(None, 4, 50)
    horizon: int | None = None
    pool_size: int = 20_000


@dataclass(frozen=True)
class FineTuneConfig:
    """Fine-tuning with PPO: the same steps and settings for every method.

    :param total_timesteps: environment steps
    :param n_envs: parallel environments
    :param n_steps: steps per environment and rollout
    :param batch_size: minibatch size
    :param n_epochs: passes over a rollout
    :param learning_rate: initial learning rate, decayed linearly to 0
    :param ent_coef: entropy coefficient
    """

    total_timesteps: int = 200_000
    n_envs: int = 64
    n_steps: int = 128
    batch_size: int = bounded(1024, 2)
    n_epochs: int = 4
    learning_rate: float = 1e-3
    ent_coef: float = 0.01


@dataclass(frozen=True)
class BaseConfig(FineTuneConfig):
    """Training of the base agent with PPO.

    :param total_timesteps: environment steps of a round
    :param success_threshold: rounds are repeated until the success on validation tasks reaches this probability
    :param max_rounds: rounds after which training continues with a warning
    :param include_rare: whether the base agent trains on the rare mode too
    :param gamma: discount factor
    :param hidden: units of each hidden layer, for actor and critic alike
    :param activation: of the hidden layers
    """

    total_timesteps: int = 300_000
    n_steps: int = 64
    batch_size: int = bounded(512, 2)
    learning_rate: float = 2e-3
    success_threshold: float = bounded(0.97, 0, 1)
    max_rounds: int = 3
    include_rare: bool = False
    gamma: float = bounded(0.97, 0, 1)
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["relu", "tanh"] = "relu"


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
    fraction: float = bounded(0.01, 1e-9, 1)
    failure_cost: float = 1.0
    risk_limit: float = bounded(1e-4, 1e-12, 1)
    multiplier_rate: float = 5.0


@dataclass(frozen=True)
class ValidationConfig:
    """Forecast error on validation tasks during training, for TensorBoard; it changes no weight.

    :param n_eval: tasks of an evaluation set
    :param n_eval_sets: evaluation sets
    :param n_deploy: tasks of the deployment set
    :param every: environment steps between two evaluations
    """

    n_eval: int = bounded(200, 2)
    n_eval_sets: int = 5
    n_deploy: int = 2000
    every: int = 50_000


@dataclass(frozen=True)
class Config(RunConfig):
    """One run of the gridworld job.

    :param job: which job the configuration belongs to
    :param agents: agents of the table; base is always trained
    """

    job: Literal["gridworld"] = "gridworld"
    agents: tuple[AgentName, ...] = AGENTS
    world: WorldConfig = field(default_factory=WorldConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class GameConfig:
    """The password game, where no prompts of your own are given.

    :param level: easy and hard have no reason to reveal; in tension refusing costs capability
    :param strength: of the rare phrases of level tension: strong 6 to 7 nats, mild 4.5 to 5.5
    :param rare_probability: share of attacks with a rare phrase
    :param n_words: number of password words, and of keys
    :param password_length: words of a password
    :param n_phrases: at most so many phrases of each slot are in use
    """

    level: Literal["easy", "hard", "tension"] = "tension"
    strength: Literal["strong", "mild"] = "strong"
    rare_probability: float = bounded(0.005, 0, 0.99)
    n_words: int = bounded(32, 4, 99)
    password_length: int = bounded(3, 1, 8)
    n_phrases: int = bounded(14, 2)


@dataclass(frozen=True)
class BaseModelConfig:
    """The game's own base model, trained from scratch once and cached; not used with --model.

    :param seed: of the model's weights and training tasks; -1 for the run's seed
    :param steps: updates of a round
    :param max_rounds: rounds after which training continues with a warning
    :param accuracy: rounds are repeated until this share of validation tasks with one right answer is answered rightly
    :param batch_size: examples of an update
    :param learning_rate: highest learning rate of the one-cycle schedule
    :param legitimate_share: P(legitimate) among training requests without a key, level tension; the soft labels are the
        same, the rare phrases are seen more often
    :param log_odds_weight: weight of the error in log-odds beside cross-entropy, which hardly feels small probabilities
    :param hidden_size: width of the model
    :param n_layers: its layers
    :param n_heads: its attention heads
    :param cache_dir: where base models are kept; empty for $RL_FORECAST_CACHE or the user's cache folder
    """

    seed: int = bounded(-1, -1)
    steps: int = 1200
    max_rounds: int = 3
    accuracy: float = bounded(0.99, 0, 1)
    batch_size: int = bounded(64, 2)
    learning_rate: float = 4e-3
    legitimate_share: float = bounded(0.15, 0, 1)
    log_odds_weight: float = 0.1
    hidden_size: int = 64
    n_layers: int = 2
    n_heads: int = 4
    cache_dir: str = ""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning (needs peft).

    :param r: rank; 0 trains all weights
    :param alpha: scale of the adapters is alpha / r
    """

    r: int = bounded(0, 0)
    alpha: int = 16


@dataclass(frozen=True)
class LanguageFineTuneConfig:
    """Fine-tuning: the same prompts, steps and settings for every method.

    :param steps: updates
    :param learning_rate: highest learning rate; 0 for 5e-4, or 3e-3 with adapters
    :param warmup_steps: updates over which it rises
    :param final_fraction: what is left of it at the end
    :param batch_size: supervised examples of an update
    :param pool_size: attack prompts scored in an update
    :param pool_steps: updates for which a pool is kept, with scores from its first one
    :param pools: number of different pools, which then repeat; 0 for fresh prompts always
    :param max_grad_norm: norm limit of the gradient
    :param anchor_weight: weight of the squared rise of scores above the base model's, beside the forecastability loss
    :param anchor_tasks: random prompts that are anchored, beside those with a gradient
    :param precision: fp32, or bf16 autocast (GPU)
    :param gradient_checkpointing: recompute activations: less memory, more time
    :param max_batch_tokens: tokens of one forward pass
    """

    steps: int = 40
    learning_rate: float = 0.0
    warmup_steps: int = bounded(10, 0)
    final_fraction: float = bounded(0.1, 0, 1)
    batch_size: int = bounded(64, 2)
    pool_size: int = 1000
    pool_steps: int = 1
    pools: int = bounded(0, 0)
    max_grad_norm: float = 1.0
    anchor_weight: float = 10.0
    anchor_tasks: int = bounded(128, 0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    max_batch_tokens: int = 16_384


@dataclass(frozen=True)
class LanguageForecastConfig:
    """The forecastability loss.

    :param coef: weight of the loss, and of its anchor with it, beside the supervised loss
    :param tail_k: number of largest scores the forecast inside the loss is fitted to
    :param n_partitions: random evaluation/deployment partitions per update
    :param n_eval: prompts in the evaluation part of a partition
    :param n_deploy: prompts in its deployment part
    :param error_space: space of the forecast error
    :param penalty: penalty of the error
    """

    coef: float = 0.003
    tail_k: int = bounded(10, 2)
    n_partitions: int = 32
    n_eval: int = bounded(100, 2)
    n_deploy: int = 900
    error_space: Literal["psi", "log10_p", "log_odds"] = "log10_p"
    penalty: Literal["squared", "huber"] = "huber"


@dataclass(frozen=True)
class WeightConfig:
    """Weights of the other methods beside the supervised loss, as the study chose them; mean_p and mean_score untuned.

    :param refusal_sft: of the supervised loss on a batch of refused attacks
    :param mean_log_p: of the mean log p of attacks
    :param mean_p: of their mean p
    :param mean_score: of their mean psi
    :param top_k: of the mean of the largest scores
    :param anchor: of the anchor alone
    :param n_top: number of largest scores
    :param mean_tasks: prompts of a pool over which a mean is taken
    """

    refusal_sft: float = 0.3
    mean_log_p: float = 0.0001
    mean_p: float = 0.1
    mean_score: float = 0.001
    top_k: float = 0.0003
    anchor: float = 0.1
    n_top: int = 100
    mean_tasks: int = 256


@dataclass(frozen=True)
class LanguageEvaluationConfig(EvaluationConfig):
    """Evaluation on held-out prompts: the forecast of each evaluation set against the worst of each deployment set.

    :param n_legitimate: legitimate requests (level tension)
    :param n_clear: tasks with one right answer
    """

    n_eval_sets: int = 30
    n_deploy_sets: int = 3
    n_legitimate: int = bounded(2000, 0)
    n_clear: int = bounded(1000, 0)


@dataclass(frozen=True)
class LanguageConfig(RunConfig):
    """One run of the language-model job.

    :param job: which job the configuration belongs to
    :param agents: methods of the table; base is always there
    :param model: folder or hub id of a causal language model; empty for the game's own base model
    :param prompts: jsonl file of your own prompts (prompt, forbidden, optional answer and id); empty for the game's
    """

    preset: str = "password-game"
    checkpoint_every: int = bounded(20, 0)
    job: Literal["language"] = "language"
    agents: tuple[MethodName, ...] = ("base", "sft", "mean_log_p", "top_k", "forecast")
    model: str = ""
    prompts: str = ""
    game: GameConfig = field(default_factory=GameConfig)
    base: BaseModelConfig = field(default_factory=BaseModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    fine_tune: LanguageFineTuneConfig = field(default_factory=LanguageFineTuneConfig)
    forecast: LanguageForecastConfig = field(default_factory=LanguageForecastConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    evaluation: LanguageEvaluationConfig = field(default_factory=LanguageEvaluationConfig)


AnyConfig = Config | LanguageConfig
