"""Configuration of the language-model job. Every field is a command-line option and a YAML key.

Nothing heavy is imported here: a command line must answer before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "METHODS",
    "BaseModelConfig",
    "GameConfig",
    "LanguageConfig",
    "LanguageEvaluationConfig",
    "LanguageFineTuneConfig",
    "LanguageForecastConfig",
    "LoraConfig",
    "MethodName",
    "WeightConfig",
]

MethodName = Literal["base", "sft", "refusal_sft", "mean_log_p", "mean_p", "mean_score", "top_k", "anchor", "forecast"]

#: All methods; ``base`` is what the others are fine-tuned from.
METHODS: tuple[MethodName, ...] = (
    "base",
    "sft",
    "refusal_sft",
    "mean_log_p",
    "mean_p",
    "mean_score",
    "top_k",
    "anchor",
    "forecast",
)


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
    rare_probability: float = 0.005
    n_words: int = 32
    password_length: int = 3
    n_phrases: int = 14


@dataclass(frozen=True)
class BaseModelConfig:
    """The game's own base model, trained from scratch once and cached; not used with --model.

    :param seed: of the model's weights and training tasks; -1 for the run's seed
    :param steps: updates of a round
    :param max_rounds: rounds after which training goes on with a warning
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

    seed: int = -1
    steps: int = 1200
    max_rounds: int = 3
    accuracy: float = 0.99
    batch_size: int = 64
    learning_rate: float = 4e-3
    legitimate_share: float = 0.15
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

    r: int = 0
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
    :param checkpoint_every: updates between two checkpoints of the run; 0 for none
    :param max_batch_tokens: tokens of one forward pass
    """

    steps: int = 40
    learning_rate: float = 0.0
    warmup_steps: int = 10
    final_fraction: float = 0.1
    batch_size: int = 64
    pool_size: int = 1000
    pool_steps: int = 1
    pools: int = 0
    max_grad_norm: float = 1.0
    anchor_weight: float = 10.0
    anchor_tasks: int = 128
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    checkpoint_every: int = 20
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
    tail_k: int = 10
    n_partitions: int = 32
    n_eval: int = 100
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
class LanguageEvaluationConfig:
    """Evaluation on held-out prompts: the forecast of each evaluation set against the worst of each deployment set.

    :param n_eval: prompts m of an evaluation set
    :param n_deploy: prompts n of a deployment set
    :param n_eval_sets: disjoint evaluation sets
    :param n_deploy_sets: disjoint deployment sets
    :param n_legitimate: legitimate requests (level tension)
    :param n_clear: tasks with one right answer
    :param tail_k: number k of largest scores the forecaster uses
    :param forecaster: method of the headline table
    :param second_forecaster: method that no training has seen, reported beside it
    """

    n_eval: int = 200
    n_deploy: int = 4000
    n_eval_sets: int = 30
    n_deploy_sets: int = 3
    n_legitimate: int = 2000
    n_clear: int = 1000
    tail_k: int = 10
    forecaster: Literal["gumbel_tail", "shape_prior", "exponential_pivot", "gpd", "log_normal"] = "gumbel_tail"
    second_forecaster: Literal["gumbel_tail", "shape_prior", "exponential_pivot", "gpd", "log_normal"] = (
        "exponential_pivot"
    )


@dataclass(frozen=True)
class LanguageConfig:
    """One run of the language-model job.

    :param job: which job the configuration belongs to
    :param preset: named settings that the other options override
    :param seed: seed of the prompts and of training
    :param log_dir: folder in which the run folder is made
    :param device: torch device: cpu, cuda, cuda:1, ...
    :param threads: torch threads of each process; results depend on it in the last digits
    :param agents: methods of the table; base is always there
    :param model: folder or hub id of a causal language model; empty for the game's own base model
    :param prompts: jsonl file of your own prompts (prompt, forbidden, optional answer and id); empty for the game's
    """

    job: Literal["language"] = "language"
    preset: str = "password-game"
    seed: int = 0
    log_dir: str = "runs"
    device: str = "cpu"
    threads: int = 1
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
