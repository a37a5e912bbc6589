"""Agents whose training shapes the tail of their failures. Names are resolved on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from agents.baselines import LagrangianPPO
    from agents.callbacks import DegeneracyCallback, ForecastEvalCallback, TrainingStateCallback
    from agents.forecast_ppo import ForecastPPO
    from agents.language_model import ContinuationScorer, ForecastObjective, ForecastTrainer, PromptTask
    from agents.simulation import simulate_tasks

__all__ = [
    "ContinuationScorer",
    "DegeneracyCallback",
    "ForecastEvalCallback",
    "ForecastObjective",
    "ForecastPPO",
    "ForecastTrainer",
    "LagrangianPPO",
    "PromptTask",
    "TrainingStateCallback",
    "simulate_tasks",
]

_HOME = {
    "ContinuationScorer": "agents.language_model",
    "DegeneracyCallback": "agents.callbacks",
    "ForecastEvalCallback": "agents.callbacks",
    "ForecastObjective": "agents.language_model",
    "ForecastPPO": "agents.forecast_ppo",
    "ForecastTrainer": "agents.language_model",
    "LagrangianPPO": "agents.baselines",
    "PromptTask": "agents.language_model",
    "TrainingStateCallback": "agents.callbacks",
    "simulate_tasks": "agents.simulation",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
