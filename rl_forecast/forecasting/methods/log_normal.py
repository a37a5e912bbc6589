"""The baseline of Jones et al.: all psi scores as one normal distribution (so ``-log p`` is log-normal).

The paper gives no interval; the one here is the predictive distribution under the usual prior ``1 / sd``, exact where
the scores are normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from rl_forecast.forecasting.methods.base import EnsembleFit, FitsFiniteScores, NoTailError
from rl_forecast.forecasting.methods.ensemble import NormalTails, TailEnsemble
from rl_forecast.summary import TailSummary


@dataclass(frozen=True)
class LogNormalFit(EnsembleFit):
    """A normal distribution of psi, and those its estimation error leaves possible. The tail scale is the standard
    deviation: a normal tail has no single exponential scale.
    """

    mean: float

    def point(self, n_deploy: int) -> float:
        """Normal quantile at ``1 - 1 / n_deploy``, psi."""
        return self.mean - self.tail_scale * float(special.ndtri(1.0 / n_deploy))


@dataclass(frozen=True)
class LogNormal(FitsFiniteScores):
    """Mean and standard deviation (ddof 1) of all finite psi."""

    name: str = "log_normal"

    def fit_finite(self, summary: TailSummary) -> LogNormalFit:
        """Fit to every finite score."""
        m = summary.n_finite
        variance = summary.sum_squared_deviations / (m - 1) if m > 1 else 0.0
        finite = summary.top[np.isfinite(summary.top)]
        # rounding leaves a speck of variance in equal scores
        if variance <= (1e-12 * max(1.0, abs(summary.mean_psi))) ** 2:
            raise NoTailError(f"{m} finite scores without spread: a normal distribution needs at least 2 distinct ones")
        sd = float(np.sqrt(variance))
        q, w = np.polynomial.legendre.leggauss(24)
        q, w = 0.5 * (q + 1.0), 0.5 * w
        spread = sd * np.sqrt((m - 1) / special.chdtri(m - 1, q))
        mean = summary.mean_psi + spread[:, None] * special.ndtri(q) / np.sqrt(m)
        tails = NormalTails(mean.ravel(), np.repeat(spread, q.size))
        ensemble = TailEnsemble(tails, np.outer(w, w).ravel(), float("-inf"), None, finite)
        return LogNormalFit(ensemble, tail_scale=sd, mean=summary.mean_psi)
