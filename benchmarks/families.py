"""Score distributions of the simulation study, each through its quantile function in ``L = -log S``.

The maximum of n new scores is drawn exactly, as the quantile at one random survival, so no study ever draws n scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Family:
    """A distribution of psi scores.

    :param name: short name
    :param quantile: maps log survival, shape (...), and the evaluation size m to psi; rare modes depend on m
    :param heavy: whether every log-linear method must under-predict on it
    :param unseen: whether it was kept out when the default's prior width was chosen
    """

    name: str
    quantile: Callable[[Vector, int], Vector]
    heavy: bool = False
    unseen: bool = False

    def scores(self, rng: np.random.Generator, m: int) -> Vector:
        """Draw m evaluation scores."""
        return self.quantile(-rng.exponential(size=m), m)

    def maxima(self, rng: np.random.Generator, m: int, n: int, size: int) -> Vector:
        """Maxima of n new scores, ``size`` of them."""
        u = np.log(rng.random(size)) / n  # log of the distribution function at the maximum
        return self.quantile(np.log(-np.expm1(u)), m)

    def local_scale(self, m: int, step: float = 1e-3) -> float:
        """Slope d psi / d L where ten of m scores lie above: the unit in which errors are reported."""
        at = np.array([np.log(10.0 / m) - step, np.log(10.0 / m) + step])
        low, high = self.quantile(at, m)
        return float((low - high) / (2.0 * step))


def _weibull(a: float) -> Callable[[Vector, int], Vector]:
    return lambda log_s, m: (-log_s) ** (1.0 / a)


def _pareto(xi: float) -> Callable[[Vector, int], Vector]:
    return lambda log_s, m: np.expm1(-xi * log_s) / xi


def _gumbel(log_s: Vector, m: int) -> Vector:
    return -np.log(-np.log1p(-np.exp(log_s)))


def _normal(log_s: Vector, m: int) -> Vector:
    return np.asarray(-special.ndtri_exp(log_s))


def _logit_normal(log_s: Vector, m: int) -> Vector:
    logit = -4.0 + 2.0 * _normal(log_s, m)
    return -np.log(np.logaddexp(0.0, -logit))


def _rare_mode(expected: float, shift: float) -> Callable[[Vector, int], Vector]:
    """Exponential scores, a share ``expected / m`` of them shifted up."""

    def quantile(log_s: Vector, m: int) -> Vector:
        eps = expected / m
        above = np.log1p(eps * np.expm1(shift)) - log_s
        with np.errstate(divide="ignore", invalid="ignore"):
            below = -np.log((np.exp(log_s) - eps) / (1.0 - eps))
        return np.where(above >= shift, above, below)

    return quantile


def _beta_probabilities(a: float, b: float) -> Callable[[Vector, int], Vector]:
    def quantile(log_s: Vector, m: int) -> Vector:
        # 1 - p is Beta(b, a): keeps its digits where p is close to 1; log p where p underflows
        q = special.betaincinv(b, a, np.exp(log_s))
        p = special.betaincinv(a, b, -np.expm1(log_s))
        log_p = np.where(q < 0.5, np.log1p(-np.minimum(q, 0.5)), np.log(np.maximum(p, 1e-300)))
        return -np.log(-log_p)

    return quantile


def _two_scales(log_s: Vector, m: int) -> Vector:
    """Nine tenths exponential with scale 1, one tenth with scale 2, inverted by Newton steps from above."""
    x = np.maximum(-log_s, 2.0 * (np.log(0.1) - log_s))
    for _ in range(60):
        one, two = np.log(0.9) - x, np.log(0.1) - 0.5 * x
        log_survival = np.logaddexp(one, two)
        slope = -(np.exp(one - log_survival) + 0.5 * np.exp(two - log_survival))
        x = x - (log_survival - log_s) / slope
    return np.maximum(x, 0.0)


FAMILIES = (
    Family("exponential", lambda log_s, m: -log_s),
    Family("Gumbel", _gumbel),
    Family("normal", _normal),
    Family("Weibull 0.7", _weibull(0.7)),
    Family("Weibull 1.5", _weibull(1.5)),
    Family("GPD +0.2", _pareto(0.2), heavy=True),
    Family("GPD -0.2", _pareto(-0.2)),
    Family("log-normal", lambda log_s, m: np.exp(_normal(log_s, m)), heavy=True),
    Family("logit-normal p", _logit_normal),
    Family("rare mode 0.5/m, 5", _rare_mode(0.5, 5.0)),
    Family("mode 20/m, 3", _rare_mode(20.0, 3.0)),
    Family("beta(0.3, 10) p", _beta_probabilities(0.3, 10.0), unseen=True),
    Family("two scales", _two_scales, unseen=True),
)
