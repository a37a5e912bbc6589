"""Safety methods to compare with, through ForecastPPO's own machinery: equal tasks, equal steps, another objective.

Most of them are settings of :class:`ForecastPPO`: ``forecast_coef=0`` and a ``risk_coef`` is a supervised penalty on
mean risk, CVaR or the riskiest tasks' log risk; ``anchor_coef`` alone is the anchor; a failure penalty in the reward is
a setting of the world. What needs code of its own is here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from agents.forecast_ppo import ForecastPPO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agents.forecast_ppo.objective import TaskObjective

__all__ = ["LagrangianPPO"]


class LagrangianPPO(ForecastPPO):
    """PPO under a constraint on the expected number of failures (PPO-Lagrangian of Ray, Achiam and Amodei 2019,
    "Benchmarking Safe Exploration in Deep Reinforcement Learning").

    The only change to :class:`ForecastPPO` is the objective: the mean failure probability of the known tasks with a
    multiplier that rises while it exceeds ``risk_limit`` and falls while it does not. The original estimates the
    gradient from failures that happened; here it comes from the same Rao-Blackwell scores as every other method's.

    :param risk_limit: mean failure probability that is allowed
    :param multiplier_rate: change of the multiplier per update and unit of relative excess
    :param multiplier: initial multiplier; the attribute holds the current one
    """

    _changing: ClassVar[tuple[str, ...]] = (*ForecastPPO._changing, "multiplier")

    def __init__(
        self,
        *args: Any,
        risk_limit: float = 1e-4,
        multiplier_rate: float = 5.0,
        multiplier: float = 0.0,
        forecast_coef: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.risk_limit = risk_limit
        self.multiplier_rate = multiplier_rate
        self.multiplier = multiplier
        super().__init__(*args, forecast_coef=forecast_coef, **kwargs)

    @property
    def term_is_on(self) -> bool:
        """Always: the multiplier may rise at any time."""
        return True

    def _check_settings(self) -> None:
        super()._check_settings()
        if not 0.0 < self.risk_limit < 1.0:
            raise ValueError(f"risk_limit must lie in (0, 1), it is {self.risk_limit}")
        for name in ("multiplier_rate", "multiplier"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")

    def _objective(self) -> TaskObjective:
        return replace(super()._objective(), risk_penalty="mean_risk", risk_coef=self.multiplier)

    def _objective_for(self, psi: NDArray[np.float64]) -> TaskObjective:
        excess = float(np.exp(-np.exp(-psi)).mean()) / self.risk_limit - 1.0
        # An excess of a hundred times the limit must not fling the multiplier to where nothing else counts.
        self.multiplier = max(0.0, self.multiplier + self.multiplier_rate * min(excess, 1.0))
        self.logger.record("train/multiplier", self.multiplier)
        return super()._objective_for(psi)
