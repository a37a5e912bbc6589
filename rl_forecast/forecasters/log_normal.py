"""The baseline of Jones et al.: all psi scores as one normal distribution (so ``-log p`` is log-normal)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from rl_forecast.summary import TailSummary

__all__ = ["LogNormal", "LogNormalFit"]


@dataclass(frozen=True)
class LogNormalFit:
    """A normal distribution of psi."""

    mean: float
    standard_deviation: float

    @property
    def tail_scale(self) -> float:
        """Standard deviation of psi: the normal tail has no single exponential scale."""
        return self.standard_deviation

    def point(self, n_deploy: int) -> float:
        """Normal quantile at ``1 - 1 / n_deploy``, psi."""
        return self.mean - self.standard_deviation * float(special.ndtri(1.0 / n_deploy))

    def quantile(self, level: float, n_deploy: int) -> float:
        """Plug-in quantile of the maximum, psi: estimation error is *not* included."""
        # P(M <= x) = Phi(z)^n = level; solved on the log scale, exact for any n
        log_tail = np.log(-np.expm1(np.log(level) / n_deploy))
        return self.mean - self.standard_deviation * float(special.ndtri_exp(log_tail))

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Plug-in probability that the maximum exceeds ``psi``: estimation error is *not* included."""
        return float(-np.expm1(n_deploy * special.log_ndtr((psi - self.mean) / self.standard_deviation)))


@dataclass(frozen=True)
class LogNormal:
    """Mean and standard deviation (ddof 1) of all finite psi."""

    name: str = "log_normal"

    def fit(self, summary: TailSummary) -> LogNormalFit:
        """Fit to every finite score.

        :raises ValueError: fewer than two distinct finite scores
        """
        n = summary.count - summary.n_neg_inf
        mean = summary.sum_psi / n if n else 0.0
        variance = (summary.sum_psi_squared - n * mean**2) / (n - 1) if n > 1 else 0.0
        if variance <= 0:
            raise ValueError(f"{n} finite scores without spread: a normal distribution needs at least 2 distinct ones")
        return LogNormalFit(mean=mean, standard_deviation=float(np.sqrt(variance)))
