"""Agents whose training shapes the tail of their failures. Names are resolved on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from agents.baselines import TopRiskPPO
    from agents.callbacks import ForecastEvalCallback
    from agents.forecast_ppo import ForecastPPO
    from agents.language_model import ContinuationScorer, ForecastObjective, ForecastTrainer, PromptTask

__all__ = [
    "ContinuationScorer",
    "ForecastEvalCallback",
    "ForecastObjective",
    "ForecastPPO",
    "ForecastTrainer",
    "PromptTask",
    "TopRiskPPO",
]

_HOME = {
    "ContinuationScorer": "agents.language_model",
    "ForecastEvalCallback": "agents.callbacks",
    "ForecastObjective": "agents.language_model",
    "ForecastPPO": "agents.forecast_ppo",
    "ForecastTrainer": "agents.language_model",
    "PromptTask": "agents.language_model",
    "TopRiskPPO": "agents.baselines",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
