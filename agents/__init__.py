"""Agents whose training shapes the tail of their failures. Names are resolved on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.baselines import TopRiskPPO
    from agents.callbacks import ForecastEvalCallback
    from agents.forecast_ppo import ForecastPPO

__all__ = ["ForecastEvalCallback", "ForecastPPO", "TopRiskPPO"]

_HOME = {
    "ForecastEvalCallback": "agents.callbacks",
    "ForecastPPO": "agents.forecast_ppo",
    "TopRiskPPO": "agents.baselines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
