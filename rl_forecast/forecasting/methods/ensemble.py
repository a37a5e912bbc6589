"""A weighted set of possible tails: the one form in which every forecaster states what it does not know.

A posterior grid, the fiducial distribution of an exact pivot and a likelihood surface all become members ``S_j(psi)``
with weights ``w_j``. The predictive distribution of the largest of n new scores is the average over the members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, optimize, special

_LAGUERRE_X, _LAGUERRE_W = np.polynomial.laguerre.laggauss(60)


def _split_at_zero(xi: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Where a shape counts as 0, and the shapes with 1 there: what is divided by."""
    tiny = np.abs(xi) < 1e-9
    return tiny, np.where(tiny, 1.0, xi)


@dataclass(frozen=True)
class GeneralisedParetoTails:
    """``S_j(psi) = (1 + xi_j (psi - location_j) / scale_j)^(-1 / xi_j)``; ``xi = 0`` is the exponential tail.

    :param location: shape (J,) or (1,), psi at which each tail begins
    :param scale: shape (J,), psi
    :param shape: shape (J,) or (1,), dimensionless
    """

    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    shape: NDArray[np.float64]

    def log_survival(self, psi: ArrayLike) -> NDArray[np.float64]:
        """``log S_j(psi)`` for psi of shape (L,): shape (J, L); 0 before a tail begins, ``-inf`` beyond its end."""
        z = np.maximum((np.asarray(psi, dtype=np.float64) - self.location[:, None]) / self.scale[:, None], 0.0)
        xi = self.shape[:, None]
        if not self.shape.any():
            return -z
        tiny, safe = _split_at_zero(xi)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(tiny, -z, -np.log1p(np.maximum(safe * z, -1.0)) / safe)

    def psi_at(self, exponent: ArrayLike) -> NDArray[np.float64]:
        """Score psi at which ``S_j = exp(-exponent)``, for exponents >= 0 of shape (L,) or (J, L): shape (J, L)."""
        e = np.asarray(exponent, dtype=np.float64)
        tiny, safe = _split_at_zero(np.broadcast_to(self.shape[:, None], (self.scale.size, 1)))
        with np.errstate(over="ignore"):
            z = np.where(tiny, e, np.expm1(safe * e) / safe)
        return np.asarray(self.location[:, None] + self.scale[:, None] * z)


@dataclass(frozen=True)
class NormalTails:
    """Normal distributions of psi: means ``location`` and standard deviations ``scale``, shape (J,), psi."""

    location: NDArray[np.float64]
    scale: NDArray[np.float64]

    def log_survival(self, psi: ArrayLike) -> NDArray[np.float64]:
        z = (np.asarray(psi, dtype=np.float64) - self.location[:, None]) / self.scale[:, None]
        return np.asarray(special.log_ndtr(-z))

    def psi_at(self, exponent: ArrayLike) -> NDArray[np.float64]:
        z = -special.ndtri_exp(-np.asarray(exponent, dtype=np.float64))
        return np.asarray(self.location[:, None] + self.scale[:, None] * z)


@lru_cache(maxsize=256)
def beta_nodes(k: int, m: int, n_nodes: int = 160) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights that integrate over ``U ~ Beta(k, m - k + 1)``, the true survival at the k-th of m scores."""
    q, w = np.polynomial.legendre.leggauss(n_nodes)
    return special.betaincinv(k, m - k + 1, 0.5 * (q + 1.0)), 0.5 * w


@lru_cache(maxsize=256)
def _log_hazard_of_maximum(k: int, m: int, n: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """``log(-log E (1 - U s)^n)`` as a function of ``log s``, tabulated; U ~ Beta(k, m - k + 1).

    ``E (1 - U s)^n`` is the probability that none of n new scores exceeds the point where the survival, given that a
    score is above the k-th, is s. In this form it is almost straight: a spline through points 0.15 apart errs by less
    than 1e-6 in probability.
    """
    u, w = beta_nodes(k, m)
    lowest = -(np.log1p(n * k / m) + 25.0)
    log_s = np.linspace(lowest, 0.0, int(np.ceil(-lowest / 0.15)) + 1)
    exponent = n * np.log1p(-np.exp(log_s)[:, None] * u)
    exceed = -np.expm1(exponent) @ w
    with np.errstate(divide="ignore"):
        hazard = -np.log1p(-np.minimum(exceed, 1.0))
    # Below 1e-9 the quadrature has no digits left; the large-m form (1 + (n/m) s)^-k keeps the function increasing.
    hazard = np.where(exceed < 1.0 - 1e-9, hazard, np.maximum(k * np.log1p(n / m * np.exp(log_s)), -np.log(1e-9)))
    spline = interpolate.CubicSpline(log_s, np.log(np.maximum.accumulate(hazard)))
    first = float(np.log(hazard[0]))
    # left of the table the hazard is proportional to s
    return lambda x: np.where(x > lowest, spline(np.maximum(x, lowest)), first + (x - lowest))


def order_statistic_log_cdf(n_ranks: int, m: int, n: int) -> NDArray[np.float64]:
    """``log P(max of n new scores <= j-th largest of m)`` for j up to ``n_ranks``, shape (n_ranks,), no tail model.

    ``prod_{i<j} (m - i) / (m + n - i)``; at ``j = 1`` this is the rule ``P(a new record) = n / (n + m)``.
    """
    i = np.arange(n_ranks, dtype=np.float64)
    return np.cumsum(np.log(m - i) - np.log(m + n - i))


@dataclass(frozen=True)
class TailEnsemble:
    """Weighted tails above a threshold, and what follows from them.

    :param weight: shape (J,), sums to 1
    :param threshold: psi from which on the tails are meant to hold; ``-inf`` for a model of all scores
    :param rate: ``(k, m)`` where members describe the distribution above the k-th of m scores: the share of scores
        above it is then ``Beta(k, m - k + 1)``, whatever the distribution. ``None``: members include their rate
    :param top: shape (K,), the finite scores known exactly, descending; below the threshold the maximum follows
        their order statistics, which needs no model
    """

    tails: GeneralisedParetoTails | NormalTails
    weight: NDArray[np.float64]
    threshold: float
    rate: tuple[int, int] | None
    top: NDArray[np.float64]

    def maximum_exceedance(self, psi: float, n_deploy: int) -> float:
        """Predictive probability that the largest of ``n_deploy`` new scores exceeds ``psi``.

        ``nan`` where psi lies below every score the summary kept and n is too small to make it certain.
        """
        if self.rate is not None and psi < self.threshold:  # model-free: interpolated between neighbouring scores
            cdf = order_statistic_log_cdf(self.top.size, self.rate[1], n_deploy)
            if psi < self.top[-1]:  # below every score the summary kept: certain to be exceeded, or not known
                return 1.0 if np.isneginf(psi) or cdf[-1] < np.log(1e-6) else float("nan")
            return -float(np.expm1(np.interp(psi, self.top[::-1], cdf[::-1])))
        log_s = self.tails.log_survival(np.array([psi]))[:, 0]
        if self.rate is None:
            with np.errstate(divide="ignore"):
                exponent = n_deploy * np.log1p(-np.exp(log_s))
        else:
            exponent = -np.exp(_log_hazard_of_maximum(*self.rate, n_deploy)(log_s))
        return min(float(self.weight @ -np.expm1(exponent)), 1.0)  # the weights sum to 1 only up to rounding

    def maximum_quantile(self, level: float, n_deploy: int) -> float:
        """Predictive quantile of the largest of ``n_deploy`` new scores, psi.

        ``nan`` where it lies below every score the summary kept (only where n_deploy < m).

        :raises ValueError: level outside (0, 1)
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must lie in (0, 1), it is {level}")
        if self.rate is not None and 1.0 - self.maximum_exceedance(self.threshold, n_deploy) >= level:
            cdf = order_statistic_log_cdf(self.top.size, self.rate[1], n_deploy)
            return float(np.interp(np.log(level), cdf[::-1], self.top[::-1], left=np.nan))
        one, two = self.tails.psi_at(np.array([1.0, 2.0])).T
        step = width = float(np.median(two - one))
        low = self.threshold if self.rate is not None else float(np.min(self.tails.psi_at(np.array([0.5]))))
        while 1.0 - self.maximum_exceedance(low, n_deploy) > level:
            low -= width
            width *= 2.0
        high = low + step
        while 1.0 - self.maximum_exceedance(high, n_deploy) < level:
            low, step = high, 2.0 * step
            high += step
        return float(
            optimize.brentq(lambda t: 1.0 - level - self.maximum_exceedance(t, n_deploy), low, high, rtol=1e-12)
        )

    def frequency_quantile(self, level: float, psi: float) -> float:
        """The ``level`` quantile of ``P(a new score exceeds psi)``, probability, for psi from the threshold on."""
        log_s = self.tails.log_survival(np.array([psi]))[:, 0]
        if self.rate is None:
            order = np.argsort(log_s)
            return float(np.exp(np.interp(level, np.cumsum(self.weight[order]), log_s[order])))
        k, m = self.rate

        def excess(log_f: float) -> float:
            with np.errstate(over="ignore"):
                share = np.where(np.isneginf(log_s), 1.0, np.exp(np.minimum(log_f - log_s, 0.0)))
            return float(self.weight @ special.betainc(k, m - k + 1, share)) - level

        lowest = -1e4  # a probability of exp(-1e4): below it the members' end points hold all the mass
        if excess(lowest) >= 0.0:
            return 0.0
        return float(np.exp(optimize.brentq(excess, lowest, 0.0, xtol=1e-9)))

    def thinned(self, limit: int) -> TailEnsemble:
        """The first ``limit`` of equally weighted members: a prefix of a Sobol sequence is itself balanced."""
        few = self.weight.size <= limit or np.ptp(self.weight) > 0.0
        if few or not isinstance(self.tails, GeneralisedParetoTails):
            return self
        tails = GeneralisedParetoTails(self.tails.location[:limit], self.tails.scale[:limit], self.tails.shape)
        return replace(self, tails=tails, weight=np.full(limit, 1.0 / limit))

    def tail_mean(self, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Mean of a function of psi (elementwise) over each member's tail beyond the threshold, shape (J,)."""
        at = np.zeros(self.weight.size)
        if np.isfinite(self.threshold):
            at = -self.tails.log_survival(np.array([self.threshold]))[:, 0]
        return np.asarray(function(self.tails.psi_at(at[:, None] + _LAGUERRE_X)) @ _LAGUERRE_W)


def log_likelihood(
    excesses: NDArray[np.float64], shape: NDArray[np.float64], log_scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-likelihood of excesses over a threshold under generalised Pareto distributions.

    :param excesses: shape (k,), psi, at least 0
    :param shape: shape (J,), xi, above -1
    :param log_scale: shape (J,), log of the scale in psi
    :return: shape (J,), ``-inf`` where an excess lies beyond a member's end point
    """
    log_survival = GeneralisedParetoTails(np.zeros(1), np.exp(log_scale), shape).log_survival(excesses)
    total: NDArray[np.float64] = (1.0 + shape) * log_survival.sum(axis=1) - excesses.size * log_scale
    return total


def grid_weights(
    log_posterior: NDArray[np.float64], drop_below: float = 1e-9
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Normalised weights of the grid points that weigh at least ``drop_below`` of the heaviest, and their mask (J,)."""
    weight = np.exp(log_posterior - log_posterior.max())
    keep = weight > drop_below
    return weight[keep] / weight[keep].sum(), keep
