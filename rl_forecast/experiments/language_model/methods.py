"""From a method's name to a fine-tuner: equal prompts, steps and optimizer for all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from agents.language_model.fine_tune import FineTuner, FineTuneSettings
from agents.language_model.objective import ForecastObjective
from agents.language_model.scorer import ContinuationScorer
from rl_forecast.errors import InputError
from rl_forecast.loss.forecastability import ForecastabilityLoss
from rl_forecast.loss.objectives import (
    Objective,
    anchor,
    forecast_loss,
    mean_log_risk,
    mean_risk,
    mean_score,
    top_score,
)

if TYPE_CHECKING:
    from rl_forecast.experiments.language_model.sources import PromptSource
    from rl_forecast.experiments.settings import LanguageConfig

_MEANS: dict[str, Callable[[float], Objective]]
_MEANS = {"mean_log_p": mean_log_risk, "mean_p": mean_risk, "mean_score": mean_score}


def method_weight(name: str, config: LanguageConfig) -> float:
    """Configured weight of a method's own term; 0 where it has none."""
    if name in ("base", "sft"):
        return 0.0
    return config.forecast.coef if name == "forecast" else float(getattr(config.weights, name))


def make_fine_tuner(name: str, config: LanguageConfig, source: PromptSource, base: ContinuationScorer) -> FineTuner:
    """A fine-tuner with a copy of the base model.

    :raises InputError: the prompts lack what the method needs, or peft is missing
    """
    tune = config.fine_tune
    model = _trainable(config, base.model)
    scorer = ContinuationScorer(model, base.tokenizer, max_batch_tokens=tune.max_batch_tokens)
    has_lora = config.lora.r > 0
    same = {name: getattr(tune, name) for name in ("steps", "warmup_steps", "final_fraction", "max_grad_norm")}
    rate = tune.learning_rate or (3e-3 if has_lora else 5e-4)
    settings = FineTuneSettings(learning_rate=rate, bf16=tune.precision == "bf16", **same)
    has_examples = len(source.examples(0, 1)) > 0
    batches: dict[str, tuple[float, Any]] = {}
    if has_examples:
        batches["supervised_loss"] = 1.0, partial(source.examples, count=tune.batch_size)
    if name == "refusal_sft":
        if not source.refusals(0, 1):
            raise InputError("refusal_sft needs prompts with both forbidden and answer; leave it out of --agents")
        batches["refusal_loss"] = config.weights.refusal_sft, partial(source.refusals, count=tune.batch_size)
    if name == "sft" and not has_examples:
        raise InputError("sft needs prompts with an answer; leave it out of --agents")
    if name in ("sft", "refusal_sft"):
        return FineTuner(scorer, settings, batches)
    # A mean is taken over part of a pool: each of its prompts costs a backward pass.
    pool_size = min(tune.pool_size, config.weights.mean_tasks) if name in _MEANS else None

    def pool(number: int) -> Any:
        return source.pool(number % tune.pools if tune.pools else number, tune.pool_size)[:pool_size]

    objective = ForecastObjective(
        scorer,
        _objective(name, config, n_pool=len(pool(0))),
        base=None if has_lora else base,
        anchor_tasks=tune.anchor_tasks,
        rescore_every=tune.pool_steps,
        seed=config.seed,
    )
    return FineTuner(scorer, settings, batches, objective, pool)


def _trainable(config: LanguageConfig, base: Any) -> Any:
    model = copy.deepcopy(base)
    if config.lora.r > 0:
        try:
            import peft
        except ImportError as error:
            raise InputError("--lora needs peft: pip install rl-forecast[lm]") from error
        adapter = peft.LoraConfig(
            r=config.lora.r, lora_alpha=config.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, adapter)
    if config.fine_tune.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _objective(name: str, config: LanguageConfig, n_pool: int) -> Objective:
    coef, weights = method_weight(name, config), config.weights
    if name == "anchor":
        return anchor(coef * config.fine_tune.anchor_weight)
    if name == "top_k":
        return top_score(coef, min(weights.n_top, max(1, n_pool // 10)))
    if name in _MEANS:
        return _MEANS[name](coef)
    forecast = config.forecast
    n_eval, n_deploy = forecast.n_eval, forecast.n_deploy
    if n_eval + n_deploy > n_pool:
        # A small file of prompts: one part in ten evaluates, as the defaults do.
        n_eval = max(n_pool // 10, min(n_pool // 2, 10))
        n_deploy = n_pool - n_eval
    try:
        loss = ForecastabilityLoss(
            n_eval=n_eval,
            n_deploy=n_deploy,
            tail_k=min(forecast.tail_k, n_eval),
            n_partitions=forecast.n_partitions,
            error_space=forecast.error_space,
            penalty=forecast.penalty,
        )
    except ValueError as error:
        raise InputError(f"forecast: {error}") from error
    anchor_coef = coef * config.fine_tune.anchor_weight
    return forecast_loss(coef, loss) + (anchor(anchor_coef) if anchor_coef else Objective())
