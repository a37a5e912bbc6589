"""Failure scores of Hugging Face causal language models, and training them with the forecastability loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_exports

if TYPE_CHECKING:
    from agents.language_model.objective import ForecastObjective as ForecastObjective
    from agents.language_model.objective import ObjectiveReport as ObjectiveReport
    from agents.language_model.prompts import EncodedTask as EncodedTask
    from agents.language_model.prompts import PromptTask as PromptTask
    from agents.language_model.prompts import read_prompts as read_prompts
    from agents.language_model.scorer import ContinuationScorer as ContinuationScorer
    from agents.language_model.scorer import psi_from_model_log_p as psi_from_model_log_p
    from agents.language_model.trainer import ForecastTrainer as ForecastTrainer


__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
