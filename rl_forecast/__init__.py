"""rl-forecast: forecast, diagnose and train the deployment-scale tail of failures.

The public names are resolved on first use (PEP 562), so that ``import rl_forecast`` and every ``--help`` answer at
once and a user of the forecaster never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from agents import (
        ContinuationScorer,
        DegeneracyCallback,
        ForecastEvalCallback,
        ForecastObjective,
        ForecastPPO,
        ForecastTrainer,
        PromptTask,
    )
    from envs import RiskWrapper, check_risk_env
    from rl_forecast.forecasting.decomposition import finite_k_terms, missed_mode
    from rl_forecast.forecasting.forecast import Forecast, forecast
    from rl_forecast.forecasting.methods import make_forecaster
    from rl_forecast.loss.forecastability import ForecastabilityLoss
    from rl_forecast.scores import psi_from_counts, psi_from_log_p, psi_from_p
    from rl_forecast.summary import TailSummary

__version__ = "0.1.0"

_HOME = {
    "ContinuationScorer": "agents.language_model",
    "DegeneracyCallback": "agents.callbacks",
    "ForecastObjective": "agents.language_model",
    "ForecastTrainer": "agents.language_model",
    "PromptTask": "agents.language_model",
    "RiskWrapper": "envs",
    "check_risk_env": "envs",
    "Forecast": "rl_forecast.forecasting.forecast",
    "ForecastEvalCallback": "agents.callbacks",
    "ForecastPPO": "agents.forecast_ppo",
    "ForecastabilityLoss": "rl_forecast.loss.forecastability",
    "TailSummary": "rl_forecast.summary",
    "finite_k_terms": "rl_forecast.forecasting.decomposition",
    "forecast": "rl_forecast.forecasting.forecast",
    "make_forecaster": "rl_forecast.forecasting.methods",
    "missed_mode": "rl_forecast.forecasting.decomposition",
    "psi_from_counts": "rl_forecast.scores",
    "psi_from_log_p": "rl_forecast.scores",
    "psi_from_p": "rl_forecast.scores",
}

__all__ = [
    "ContinuationScorer",
    "DegeneracyCallback",
    "Forecast",
    "ForecastEvalCallback",
    "ForecastObjective",
    "ForecastPPO",
    "ForecastTrainer",
    "ForecastabilityLoss",
    "PromptTask",
    "RiskWrapper",
    "TailSummary",
    "__version__",
    "check_risk_env",
    "finite_k_terms",
    "forecast",
    "make_forecaster",
    "missed_mode",
    "psi_from_counts",
    "psi_from_log_p",
    "psi_from_p",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME, present=["__version__"])
