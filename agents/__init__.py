"""Agents whose training shapes the tail of their failures. Names are resolved on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from agents.baselines import LagrangianPPO
    from agents.callbacks import DegeneracyCallback, ForecastEvalCallback, TrainingStateCallback
    from agents.forecast_ppo import ForecastPPO

__all__ = ["DegeneracyCallback", "ForecastEvalCallback", "ForecastPPO", "LagrangianPPO", "TrainingStateCallback"]

_HOME = {
    "DegeneracyCallback": "agents.callbacks",
    "ForecastEvalCallback": "agents.callbacks",
    "ForecastPPO": "agents.forecast_ppo",
    "LagrangianPPO": "agents.baselines",
    "TrainingStateCallback": "agents.callbacks",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
