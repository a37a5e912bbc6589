"""Failure scores of Hugging Face causal language models, and training them with the forecastability loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from agents.language_model.encoding import EncodedTasks
    from agents.language_model.objective import ForecastObjective, ObjectiveReport, RefreshPolicy
    from agents.language_model.prompts import PromptTask, read_prompts
    from agents.language_model.scorer import ContinuationScorer, psi_from_model_log_p
    from agents.language_model.trainer import ForecastTrainer

__all__ = [
    "ContinuationScorer",
    "EncodedTasks",
    "ForecastObjective",
    "ForecastTrainer",
    "ObjectiveReport",
    "PromptTask",
    "RefreshPolicy",
    "psi_from_model_log_p",
    "read_prompts",
]

_HOME = {
    "ContinuationScorer": "agents.language_model.scorer",
    "EncodedTasks": "agents.language_model.encoding",
    "ForecastObjective": "agents.language_model.objective",
    "ForecastTrainer": "agents.language_model.trainer",
    "ObjectiveReport": "agents.language_model.objective",
    "PromptTask": "agents.language_model.prompts",
    "RefreshPolicy": "agents.language_model.objective",
    "psi_from_model_log_p": "agents.language_model.scorer",
    "read_prompts": "agents.language_model.prompts",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
