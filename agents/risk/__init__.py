"""Where failure probabilities come from in training, one source to a file, behind one interface."""

from __future__ import annotations

from agents.risk.base import RiskGradient, RiskSource
from agents.risk.direct import DirectRisk
from agents.risk.exact import ExactRisk
from agents.risk.failures import FailureRisk
from agents.risk.flow import FlowRisk
from rl_forecast.errors import unknown_name

__all__ = ["SOURCES", "DirectRisk", "ExactRisk", "FailureRisk", "FlowRisk", "RiskGradient", "RiskSource", "make_source"]

#: The sources by name.
SOURCES: dict[str, type[RiskSource]] = {
    source.name: source for source in (DirectRisk, FlowRisk, FailureRisk, ExactRisk)
}


def make_source(name: str) -> RiskSource:
    """A source by name.

    :raises ValueError: there is none of that name
    """
    if name not in SOURCES:
        raise ValueError(unknown_name("risk", name, SOURCES))
    return SOURCES[name]()
