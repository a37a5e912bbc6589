"""Where the error of a forecast comes from: finite-k bias, scatter, curvature and modes that the evaluation missed.

The error is ``e = Q(n) - M_n``, forecast minus realised maximum, positive for over-prediction. On an exactly
log-linear tail of scale sigma its mean and variance are exact integrals (our derivation, from Renyi's representation
of the largest scores: their spacings are independent exponentials). These parts depend on k, m and n alone: no
training changes them, except through the factor sigma. Curvature of the log survival and rare modes are properties of
the model and can be trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from rl_forecast.forecasting.methods.exponential_pivot import mean_unbiased_factor
from rl_forecast.forecasting.methods.gumbel_tail import PlottingPosition, line_draws, log_plotting_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "TRAINABLE",
    "FiniteKTerms",
    "MissedMode",
    "curvature_bias",
    "finite_k_terms",
    "missed_mode",
    "slope_moments",
]

TRAINABLE = {
    "slope inflation": False,
    "plotting position": False,
    "quantile instead of mean": False,
    "scatter of the scores": False,
    "scatter of the slope": False,
    "scatter of the maximum": False,
    "tail scale sigma": True,
    "curvature kappa": True,
    "rare modes (weight and shift)": True,
}
"""Which terms depend on the model. The first six are the same for every model with a log-linear tail; they are in units
of sigma, so part of any drop in raw forecast error is a smaller sigma."""


def _harmonic(n: float, power: int = 1) -> float:
    """``sum_{j<=n} 1 / j`` or ``1 / j^2``."""
    if power == 1:
        return float(special.digamma(n + 1.0) + np.euler_gamma)
    return float(np.pi**2 / 6.0 - special.polygamma(1, n + 1.0))


@lru_cache(maxsize=256)
def slope_moments(
    tail_k: int, plotting_position: PlottingPosition = "rank", n_eval: int | None = None
) -> tuple[float, float]:
    """Mean and standard deviation of ``T / sigma``, the scale that least squares finds on an exponential tail.

    ``T`` is a ratio of quadratic forms of exponentials. With ``x = L z`` (Renyi), ``A`` the quadratic form of Sxx and
    ``w`` the positive weights of -Sxy, ``1 / Sxy`` is an integral over ``exp(-t w'z)``, under which z stays independent
    exponential with rates ``1 + t w``: the moments are one-dimensional integrals of determinants and traces.

    :param tail_k: number k of scores, at least 2
    :param plotting_position: see :func:`rl_forecast.forecasting.methods.gumbel_tail.log_plotting_positions`
    :param n_eval: number m; matters only to reject k > m, since a common shift of the positions changes no slope
    :return: ``tau_k = E T / sigma`` and ``sd(T) / sigma``, accurate to 1e-8
    :raises ValueError: k below 2 or above m
    """
    k = tail_k
    if k < 2 or (n_eval is not None and k > n_eval):
        raise ValueError(f"tail_k must lie between 2 and the number of scores, it is {k}")
    y = log_plotting_positions(k, k, plotting_position)
    j = np.arange(1, k)
    lift = np.where(j[None, :] >= np.arange(1, k + 1)[:, None], 1.0 / j[None, :], 0.0)
    centring = np.eye(k) - 1.0 / k
    a = lift.T @ centring @ lift
    w = -(lift.T @ (y - y.mean()))
    # t = exp(s): integrand smooth and doubly falling in s, where the trapezoid rule converges exponentially
    s = np.linspace(-45.0, 45.0, 1201)
    t = np.exp(s)
    first, second = np.empty_like(t), np.empty_like(t)
    for index, value in enumerate(t):
        d = 1.0 / (1.0 + value * w)
        density = np.exp(np.log(d).sum())
        at = d[:, None] * a * d
        diagonal, rows = np.diag(at), at.sum(axis=1)
        total, trace = rows.sum(), diagonal.sum()
        first[index] = density * (total + trace)
        second[index] = density * (
            total**2
            + 4.0 * rows @ rows
            + 6.0 * diagonal @ diagonal
            + trace**2
            + 2.0 * np.square(at).sum()
            + 2.0 * total * trace
            + 8.0 * rows @ diagonal
        )
    step = s[1] - s[0]
    mean = float((first * t).sum() * step)
    square = float((second * t * t).sum() * step)
    return mean, float(np.sqrt(square - mean**2))


@dataclass(frozen=True)
class FiniteKTerms:
    """Forecast error on an exactly log-linear tail, in units of its scale sigma.

    ``bias`` is the sum of the three bias terms, ``variance`` of the three variance terms.

    :param tail_k: k
    :param n_eval: m
    :param n_deploy: n
    :param tau: mean of the fitted over the true scale; above 1 the slope is inflated
    :param slope_sd: standard deviation of the fitted over the true scale
    :param bias_slope: ``c (tau - 1)``, c the distance of extrapolation in e-folds; least squares finds too flat a line
    :param bias_plotting: error of the centre of the line, from the plotting positions
    :param bias_quantile: ``log n - H_n``, about -0.577: the forecast targets the 1 - 1/n quantile, not the mean
    :param variance_centre: from the centre of the line, with its covariance with the slope
    :param variance_slope: ``c^2 Var T``
    :param variance_maximum: of the realised maximum itself, about pi^2 / 6: irreducible
    :param under_prediction_probability: P(e < 0), by quasi-Monte Carlo, error at most 1e-3
    """

    tail_k: int
    n_eval: int
    n_deploy: int
    tau: float
    slope_sd: float
    bias_slope: float
    bias_plotting: float
    bias_quantile: float
    variance_centre: float
    variance_slope: float
    variance_maximum: float
    under_prediction_probability: float

    @property
    def bias(self) -> float:
        """Mean error, units of sigma."""
        return self.bias_slope + self.bias_plotting + self.bias_quantile

    @property
    def variance(self) -> float:
        """Variance of the error, units of sigma squared."""
        return self.variance_centre + self.variance_slope + self.variance_maximum

    @property
    def root_mean_squared_error(self) -> float:
        """Floor of the forecast error on a log-linear tail, units of sigma."""
        return float(np.sqrt(self.bias**2 + self.variance))


@lru_cache(maxsize=256)
def finite_k_terms(
    tail_k: int, n_eval: int, n_deploy: int, plotting_position: PlottingPosition = "rank"
) -> FiniteKTerms:
    """Decompose the error of Jones et al.'s forecaster on an exactly log-linear tail.

    :param tail_k: number k of largest scores, at least 2
    :param n_eval: number m of evaluation scores, at least k
    :param n_deploy: number n of deployment scores
    :param plotting_position: see :func:`rl_forecast.forecasting.methods.gumbel_tail.log_plotting_positions`
    :raises ValueError: k outside [2, m] or n below 1

    >>> terms = finite_k_terms(tail_k=10, n_eval=1_000, n_deploy=10_000)
    >>> round(terms.bias_slope, 2), round(terms.bias_plotting, 2), round(terms.bias_quantile, 2)
    (1.21, 0.16, -0.58)
    >>> round(terms.bias, 2), round(terms.root_mean_squared_error, 2)
    (0.79, 2.85)
    """
    k, m, n = tail_k, n_eval, n_deploy
    if n < 1:
        raise ValueError(f"n_deploy must be at least 1, it is {n}")
    tau, slope_sd = slope_moments(k, plotting_position, m)
    y = log_plotting_positions(k, m, plotting_position)
    c = float(np.log(n) + y.mean())
    # E xbar = (1/k) sum_i (H_m - H_(i-1)) = H_m - H_k + 1 for standard exponential scores
    centre = _harmonic(m) - _harmonic(k) + 1.0
    draws = line_draws(k, m, plotting_position)
    forecast = draws.centre + c * draws.scale
    with np.errstate(divide="ignore"):
        exceeded = -np.expm1(n * np.log1p(-np.exp(-np.maximum(forecast, 0.0))))
    return FiniteKTerms(
        tail_k=k,
        n_eval=m,
        n_deploy=n,
        tau=tau,
        slope_sd=slope_sd,
        bias_slope=c * (tau - 1.0),
        # E e = E xbar + c tau - H_n, written as the sum of the three biases
        bias_plotting=centre + float(y.mean()),
        bias_quantile=float(np.log(n)) - _harmonic(n),
        variance_centre=_harmonic(m, 2) - _harmonic(k, 2) + 1.0 / k + 2.0 * c * tau / k,
        variance_slope=(c * slope_sd) ** 2,
        variance_maximum=_harmonic(n, 2),
        under_prediction_probability=float(exceeded.mean()),
    )


def curvature_bias(tail_k: int, n_eval: int, n_deploy: int, method: str = "gumbel_tail") -> float:
    """First-order bias per unit of curvature kappa, in units of the local tail scale.

    The score as a function of ``L = -log S`` is ``x0 + sigma ((L - L0) + kappa (L - L0)^2 / 2)`` around
    ``L0 = log(m / k)``; kappa is xi for a generalised Pareto tail and about ``-1 / (2 L0)`` for a normal one. Negative
    kappa (a log survival that falls ever faster) adds over-prediction, positive kappa under-prediction.

    :param method: ``"gumbel_tail"`` (by quasi-Monte Carlo) or ``"exponential_pivot"`` (mean-unbiased form, exact)
    :return: d bias / d kappa, nearly always negative
    :raises ValueError: another method
    """
    k, m, n = tail_k, n_eval, n_deploy
    start = float(np.log(m / k))
    reach = float(np.log(n * k / m))
    realised = (reach + np.euler_gamma) ** 2 + np.pi**2 / 6.0
    if method == "gumbel_tail":
        return 0.5 * (_line_response(k, m, n, start) - realised)
    if method == "exponential_pivot":
        i = np.arange(1, k + 1)
        mean = special.digamma(m + 1.0) - special.digamma(i) - start
        variance = special.polygamma(1, i) - special.polygamma(1, m + 1.0)
        factor = mean_unbiased_factor(k, m, n)
        weight = np.append(np.full(k - 1, factor / (k - 1)), 1.0 - factor)
        return 0.5 * float(weight @ (mean**2 + variance) - realised)
    raise ValueError(f"method must be 'gumbel_tail' or 'exponential_pivot', it is {method!r}")


def _line_response(k: int, m: int, n: int, start: float) -> float:
    """``E sum_i dQ/dx_i (L_i - L0)^2``: how the least-squares forecast answers a quadratic bend."""
    draws = line_draws(k, m)
    y = log_plotting_positions(k, m)
    dx = draws.scores - draws.centre[:, None]
    dy: NDArray[np.float64] = y - y.mean()
    sxx, sxy = np.square(dx).sum(axis=1, keepdims=True), np.abs(dx @ dy)[:, None]
    c = float(np.log(n) + y.mean())
    gradient = 1.0 / k + c * (2.0 * dx / sxy + sxx * dy / sxy**2)
    return float((gradient * np.square(draws.scores - start)).sum(axis=1).mean())


@dataclass(frozen=True)
class MissedMode:
    """What a rare kind of failure does to a forecast whose evaluation holds no example of it.

    :param probability_missed: P(no evaluation score is from the mode), ``(1 - eps)^m``
    :param probability_deployed: P(some deployment score is), ``1 - (1 - eps)^n``
    :param under_prediction: mean under-prediction that it adds once missed, units of the tail scale
    """

    probability_missed: float
    probability_deployed: float
    under_prediction: float


def missed_mode(weight: float, shift: float, n_eval: int, n_deploy: int) -> MissedMode:
    """Effect of a mode that makes up a share ``eps`` of queries, with scores shifted up by ``delta`` tail scales.

    Beyond ``u + delta`` the survival is multiplied by ``1 + eps (e^delta - 1)``, so the maximum rises by the logarithm
    of it (where ``n eps e^delta`` is large); it matters only where ``delta > log(1 / eps)``.

    :param weight: share eps of queries in the mode, probability
    :param shift: shift delta of their scores, units of the tail scale
    :param n_eval: number m of evaluation scores
    :param n_deploy: number n of deployment scores
    :raises ValueError: weight outside (0, 1)

    >>> mode = missed_mode(weight=1 / 1_000, shift=10.0, n_eval=1_000, n_deploy=10_000)
    >>> round(mode.probability_missed, 2), round(mode.under_prediction, 2)
    (0.37, 3.14)
    """
    if not 0.0 < weight < 1.0:
        raise ValueError(f"weight must lie in (0, 1), it is {weight}")
    return MissedMode(
        probability_missed=float(np.exp(n_eval * np.log1p(-weight))),
        probability_deployed=float(-np.expm1(n_deploy * np.log1p(-weight))),
        under_prediction=float(np.logaddexp(np.log1p(-weight), np.log(weight) + shift)),
    )
