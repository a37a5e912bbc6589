"""rl-forecast: forecast, diagnose and train the deployment-scale tail of failures.

The public names are resolved on first use (PEP 562), so that ``import rl_forecast`` and every ``--help`` answer at
once and a user of the forecaster never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_exports

if TYPE_CHECKING:
    from agents import ContinuationScorer as ContinuationScorer
    from agents import DegeneracyCallback as DegeneracyCallback
    from agents import ForecastEvalCallback as ForecastEvalCallback
    from agents import ForecastObjective as ForecastObjective
    from agents import ForecastPPO as ForecastPPO
    from agents import ForecastTrainer as ForecastTrainer
    from agents import PromptTask as PromptTask
    from envs import RiskWrapper as RiskWrapper
    from envs import check_risk_env as check_risk_env
    from rl_forecast.forecasting.decomposition import finite_k_terms as finite_k_terms
    from rl_forecast.forecasting.forecast import Forecast as Forecast
    from rl_forecast.forecasting.forecast import forecast as forecast
    from rl_forecast.forecasting.methods import make_forecaster as make_forecaster
    from rl_forecast.forecasting.warnings import missed_mode as missed_mode
    from rl_forecast.loss.forecastability import ForecastabilityLoss as ForecastabilityLoss
    from rl_forecast.scores import psi_from_counts as psi_from_counts
    from rl_forecast.scores import psi_from_log_p as psi_from_log_p
    from rl_forecast.scores import psi_from_p as psi_from_p
    from rl_forecast.summary import TailSummary as TailSummary

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, present=["__version__"])
