"""Jones et al.'s forecaster: a straight line through the log survival of the largest scores.

Jones et al. 2025 (arXiv 2502.16797): ordinary least squares of ``log(i / m)`` on the ``k`` largest scores gives
``log S(psi) = a psi + b``; the forecast is the score where the line reaches ``1 / n``, ``Q(n) = -(log n + b) / a``.
Equation 5 of the paper prints a sign slip; this is the consistent form. The plotting position ``i / m`` is our
reading, the paper does not name one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.forecasters.base import top_finite

if TYPE_CHECKING:
    from rl_forecast.summary import TailSummary

__all__ = ["GumbelTail", "GumbelTailFit"]


@dataclass(frozen=True)
class GumbelTailFit:
    """A fitted line ``log S(psi) = slope * psi + intercept``."""

    slope: float
    intercept: float

    @property
    def tail_scale(self) -> float:
        """Tail scale ``sigma = -1 / slope``, psi."""
        return -1.0 / self.slope

    def point(self, n_deploy: int) -> float:
        """Score at which the line reaches ``1 / n_deploy``, psi."""
        return -(float(np.log(n_deploy)) + self.intercept) / self.slope

    def quantile(self, level: float, n_deploy: int) -> float:
        """Plug-in quantile of the maximum, psi: estimation error is *not* included."""
        return self.point(n_deploy) - self.tail_scale * float(np.log(-np.log(level)))

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Plug-in probability that the maximum exceeds ``psi``: estimation error is *not* included."""
        return float(-np.expm1(-n_deploy * np.exp(self.slope * psi + self.intercept)))


@dataclass(frozen=True)
class GumbelTail:
    """Ordinary least squares on the ``tail_k`` largest scores (Jones et al. use 10)."""

    tail_k: int = 10
    name: str = "gumbel_tail"

    def fit(self, summary: TailSummary) -> GumbelTailFit:
        """Fit the line to the finite scores among the ``tail_k`` largest.

        :raises ValueError: fewer than two distinct finite scores
        """
        x = top_finite(summary, self.tail_k)
        y = np.log(np.arange(1, x.size + 1) / summary.count)
        dx, dy = x - x.mean(), y - y.mean()
        slope = float(dx @ dy / (dx @ dx))
        return GumbelTailFit(slope=slope, intercept=float(y.mean() - slope * x.mean()))
