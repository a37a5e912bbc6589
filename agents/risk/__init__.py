"""Estimators of a task's failure probability and of its gradient, one to a file, behind one interface."""

from __future__ import annotations

from agents.risk.base import RiskEstimator, Surrogate
from agents.risk.direct import DirectEstimator
from agents.risk.exact import ExactEstimator
from agents.risk.failures import FailuresEstimator
from agents.risk.flow import FlowEstimator
from rl_forecast.errors import unknown_name

__all__ = [
    "ESTIMATORS",
    "DirectEstimator",
    "ExactEstimator",
    "FailuresEstimator",
    "FlowEstimator",
    "RiskEstimator",
    "Surrogate",
    "make_estimator",
]

#: The estimators by name.
ESTIMATORS: dict[str, type[RiskEstimator]] = {
    estimator.name: estimator for estimator in (DirectEstimator, FlowEstimator, FailuresEstimator, ExactEstimator)
}


def make_estimator(name: str) -> RiskEstimator:
    """An estimator by name.

    :raises ValueError: there is none of that name
    """
    if name not in ESTIMATORS:
        raise ValueError(unknown_name("risk_estimator", name, ESTIMATORS))
    return ESTIMATORS[name]()
