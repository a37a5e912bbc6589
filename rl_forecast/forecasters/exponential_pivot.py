"""Exact finite-sample intervals for a log-linear tail.

With ``s`` the mean excess of the ``k`` largest scores over the k-th, ``W = (M_n - x_(k)) / s`` has a distribution that
depends only on ``k`` and ``n / m`` when the tail is exactly exponential on the psi scale, so its quantiles give
prediction intervals for the realised maximum ``M_n`` with exact coverage at any sample size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

from rl_forecast.forecasters.base import top_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rl_forecast.summary import TailSummary

__all__ = ["ExponentialPivot", "ExponentialPivotFit", "pivot_cdf", "pivot_quantile"]


@lru_cache(maxsize=64)
def _gamma_nodes(shape: int, n_nodes: int = 200) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes (gamma variates) and weights that integrate against the Gamma(shape) density."""
    u, w = np.polynomial.legendre.leggauss(n_nodes)
    return special.gammaincinv(shape, 0.5 * (u + 1.0)), 0.5 * w


def pivot_cdf(w: float, tail_k: int, ratio: float) -> float:
    """Distribution function of ``W = (M_n - x_(k)) / s`` on an exponential tail, large-m form.

    :param w: argument, in units of the mean excess
    :param tail_k: number k of scores used, at least 2
    :param ratio: n / m
    :return: probability
    """
    g, weight = _gamma_nodes(tail_k - 1)
    return float(weight @ np.exp(-tail_k * np.log1p(ratio * np.exp(-w * g / (tail_k - 1)))))


@lru_cache(maxsize=4096)
def pivot_quantile(level: float, tail_k: int, ratio: float) -> float:
    """Quantile of the pivot ``W``.

    :param level: probability in (0, 1)
    :param tail_k: number k of scores used, at least 2
    :param ratio: n / m
    :return: quantile in units of the mean excess
    :raises ValueError: level outside (0, 1)
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), it is {level}")
    low, high = -1.0, 1.0
    while pivot_cdf(low, tail_k, ratio) > level:
        low *= 2.0
    while pivot_cdf(high, tail_k, ratio) < level:
        high *= 2.0
    return float(optimize.brentq(lambda w: pivot_cdf(w, tail_k, ratio) - level, low, high, xtol=1e-10))


@dataclass(frozen=True)
class ExponentialPivotFit:
    """An exponential tail known through its k-th score and mean excess, both psi."""

    threshold: float
    tail_scale: float
    tail_k: int
    n_eval: int

    def point(self, n_deploy: int) -> float:
        """Median-unbiased forecast of the maximum, psi."""
        return self.quantile(0.5, n_deploy)

    def quantile(self, level: float, n_deploy: int) -> float:
        """Exact predictive quantile of the maximum of ``n_deploy`` new scores, psi."""
        return self.threshold + self.tail_scale * pivot_quantile(level, self.tail_k, n_deploy / self.n_eval)

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Exact probability that the maximum of ``n_deploy`` new scores exceeds ``psi``."""
        return 1.0 - pivot_cdf((psi - self.threshold) / self.tail_scale, self.tail_k, n_deploy / self.n_eval)


@dataclass(frozen=True)
class ExponentialPivot:
    """Mean excess over the k-th largest score, with exact predictive quantiles of the maximum."""

    tail_k: int = 20
    name: str = "exponential_pivot"

    def fit(self, summary: TailSummary) -> ExponentialPivotFit:
        """Fit to the finite scores among the ``tail_k`` largest.

        :raises ValueError: fewer than two distinct finite scores
        """
        x = top_finite(summary, self.tail_k)
        return ExponentialPivotFit(
            threshold=float(x[-1]),
            tail_scale=float((x[:-1] - x[-1]).mean()),
            tail_k=int(x.size),
            n_eval=summary.count,
        )
