"""Exact finite-sample intervals for a log-linear tail.

With ``s`` the mean excess of the ``k`` largest scores over the k-th, ``W = (M_n - x_(k)) / s`` has a distribution that
depends only on ``k``, ``m`` and ``n`` when the tail is exactly exponential on the psi scale, so its quantiles give
prediction intervals for the realised maximum ``M_n`` with exact coverage at any sample size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rl_forecast.forecasting.methods.base import EnsembleFit, FitsFiniteScores, top_finite
from rl_forecast.forecasting.methods.ensemble import GeneralisedParetoTails, TailEnsemble
from rl_forecast.summary import TailSummary


@lru_cache(maxsize=64)
def _gamma_nodes(shape: int, n_nodes: int = 200) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes (gamma variates) and weights that integrate against the Gamma(shape) density."""
    u, w = np.polynomial.legendre.leggauss(n_nodes)
    return special.gammaincinv(shape, 0.5 * (u + 1.0)), 0.5 * w


def _ensemble(threshold: float, mean_excess: float, k: int, m: int, top: NDArray[np.float64]) -> TailEnsemble:
    """Fiducial tails: ``(k - 1) s / sigma`` is Gamma(k - 1), so given s, sigma is distributed as ``(k - 1) s / g``."""
    g, weight = _gamma_nodes(k - 1)
    tails = GeneralisedParetoTails(location=np.array([threshold]), scale=(k - 1) * mean_excess / g, shape=np.zeros(1))
    return TailEnsemble(tails=tails, weight=weight, threshold=threshold, rate=(k, m), top=top)


@lru_cache(maxsize=4096)
def pivot_quantile(level: float, tail_k: int, n_eval: int, n_deploy: int) -> float:
    """Quantile of the pivot ``W``, units of the mean excess; ``nan`` where it is negative (n far below m)."""
    return _ensemble(0.0, 1.0, tail_k, n_eval, np.zeros(1)).maximum_quantile(level, n_deploy)


@dataclass(frozen=True)
class ExponentialPivotFit(EnsembleFit):
    """An exponential tail known through its k-th score, the threshold, and its mean excess, both psi."""

    threshold: float
    tail_k: int
    n_eval: int

    def quantile(self, level: float, n_deploy: int) -> float:
        """Exact predictive quantile of the maximum of ``n_deploy`` new scores, psi."""
        w = pivot_quantile(level, self.tail_k, self.n_eval, n_deploy)
        if w > 0.0:
            return self.threshold + self.tail_scale * w
        return self.ensemble.maximum_quantile(level, n_deploy)  # below the k-th score: order statistics


@dataclass(frozen=True)
class ExponentialPivot(FitsFiniteScores):
    """Mean excess over the k-th largest score, with exact predictive quantiles of the maximum."""

    tail_k: int = 20
    name: str = "exponential_pivot"

    def fit_finite(self, summary: TailSummary) -> ExponentialPivotFit:
        """Fit to the finite scores among the ``tail_k`` largest."""
        x = top_finite(summary, self.tail_k)
        threshold, mean_excess = float(x[-1]), float((x[:-1] - x[-1]).mean())
        return ExponentialPivotFit(
            ensemble=_ensemble(threshold, mean_excess, x.size, summary.count, top_finite(summary, summary.top.size)),
            threshold=threshold,
            tail_scale=mean_excess,
            tail_k=int(x.size),
            n_eval=summary.count,
        )
