"""rl-forecast: forecast, diagnose and train the deployment-scale tail of failures.

The public names are resolved on first use (PEP 562), so that ``import rl_forecast`` and every ``--help`` answer at
once and a user of the forecaster never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents import ForecastEvalCallback, ForecastPPO
    from rl_forecast.forecasters import make_forecaster
    from rl_forecast.loss import ForecastabilityLoss
    from rl_forecast.scores import psi_from_log_p, psi_from_p
    from rl_forecast.summary import TailSummary

__version__ = "0.1.0"

_HOME = {
    "ForecastEvalCallback": "agents.callbacks",
    "ForecastPPO": "agents.forecast_ppo",
    "ForecastabilityLoss": "rl_forecast.loss",
    "TailSummary": "rl_forecast.summary",
    "make_forecaster": "rl_forecast.forecasters",
    "psi_from_log_p": "rl_forecast.scores",
    "psi_from_p": "rl_forecast.scores",
}

__all__ = [
    "ForecastEvalCallback",
    "ForecastPPO",
    "ForecastabilityLoss",
    "TailSummary",
    "__version__",
    "make_forecaster",
    "psi_from_log_p",
    "psi_from_p",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
