"""What a forecast's error consists of: what no training changes, curvature, and rare modes.

The error is ``e = Q(n) - M_n``, forecast minus realised maximum. On an exactly log-linear tail of scale sigma its mean
and variance are exact integrals (our derivation, from Renyi's representation of the largest scores: their spacings are
independent exponentials) that depend on k, m and n alone. Curvature of the log survival and rare modes are properties
of the model and can be trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rl_forecast.forecasting.evaluate_forecasts import evaluate_forecasts
from rl_forecast.forecasting.methods.gumbel_tail import GumbelTail, PlottingPosition, line_draws, log_plotting_positions

# Quantiles of the maximum and draws of the line that an expectation is taken over; its error is below 1e-3.
_QUANTILES, _LOG2_DRAWS = 256, 13


def _harmonic(n: float, power: int = 1) -> float:
    """``sum_{j<=n} 1 / j`` or ``1 / j^2``."""
    if power == 1:
        return float(special.digamma(n + 1.0) + np.euler_gamma)
    return float(np.pi**2 / 6.0 - special.polygamma(1, n + 1.0))


@lru_cache(maxsize=256)
def slope_moments(tail_k: int, plotting_position: PlottingPosition = "rank") -> tuple[float, float]:
    """Mean and standard deviation of ``T / sigma``, the scale that least squares finds on an exponential tail.

    ``T`` is a ratio of quadratic forms of exponentials. With ``x = L z`` (Renyi), ``A`` the quadratic form of Sxx and
    ``w`` the positive weights of -Sxy, ``1 / Sxy`` is an integral over ``exp(-t w'z)``, under which z stays independent
    exponential with rates ``1 + t w``: the moments are integrals of determinants and traces, accurate to 1e-8.
    """
    k = tail_k
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
        pairs = 4.0 * rows @ rows + 8.0 * rows @ diagonal + 6.0 * diagonal @ diagonal + 2.0 * np.square(at).sum()
        second[index] = density * ((total + trace) ** 2 + pairs)
    mean, square = float(first @ t * (s[1] - s[0])), float(second @ t**2 * (s[1] - s[0]))
    return mean, float(np.sqrt(square - mean**2))


@dataclass(frozen=True)
class FiniteKTerms:
    """Forecast error on an exactly log-linear tail, in units of its scale sigma.

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
    :param plotting_position: see :func:`.log_plotting_positions`
    :raises ValueError: k outside [2, m] or n below 1

    >>> terms = finite_k_terms(tail_k=10, n_eval=1_000, n_deploy=10_000)
    >>> round(terms.bias_slope, 2), round(terms.bias_plotting, 2), round(terms.bias_quantile, 2)
    (1.21, 0.16, -0.58)
    >>> round(terms.bias, 2), round(terms.root_mean_squared_error, 2)
    (0.79, 2.85)
    """
    k, m, n = tail_k, n_eval, n_deploy
    if n < 1 or not 2 <= k <= m:
        raise ValueError(f"n_deploy must be at least 1 and tail_k lie in [2, n_eval], they are {n} and {k}")
    tau, slope_sd = slope_moments(k, plotting_position)
    y = log_plotting_positions(k, m, plotting_position)
    c = float(np.log(n) + y.mean())
    # E xbar = (1/k) sum_i (H_m - H_(i-1)) = H_m - H_k + 1 for standard exponential scores
    centre = _harmonic(m) - _harmonic(k) + 1.0
    drawn_scale, drawn_centre = line_draws(k, m, plotting_position)
    forecast = drawn_centre + c * drawn_scale
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


@dataclass(frozen=True)
class ErrorParts:
    """Mean absolute error of Jones et al.'s forecast in psi: ``total = floor * sigma + curvature + rare``.

    :param total: mean absolute error of all scores, psi
    :param sigma: tail scale of the common scores: their mean excess over the ``1 - k / m`` quantile, psi
    :param floor: mean absolute error on a log-linear tail, units of sigma, the same for every agent
    :param curvature: what the shape of the common scores adds to ``floor * sigma``, psi; negative where it helps
    :param rare: what the rare mode adds to the error of the common scores, psi
    """

    total: float
    sigma: float
    floor: float
    curvature: float
    rare: float

    @property
    def untrainable(self) -> float:
        """``floor * sigma``, psi."""
        return self.floor * self.sigma


@lru_cache(maxsize=64)
def log_linear_error(tail_k: int, n_eval: int, n_deploy: int) -> float:
    """Mean absolute error of the forecast on an exactly log-linear tail, units of its scale."""
    scale, centre = line_draws(tail_k, n_eval, log2_draws=_LOG2_DRAWS)
    reach = float(np.log(n_deploy) + log_plotting_positions(tail_k, n_eval).mean())
    forecast = centre + reach * scale
    level = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    maximum = -np.log(-np.expm1(np.log(level) / n_deploy))
    return float(np.abs(forecast[:, None] - maximum).mean())


def decompose_error(
    evaluation: NDArray[np.float64],
    deployment: NDArray[np.float64],
    evaluation_rare: NDArray[np.bool_],
    deployment_rare: NDArray[np.bool_],
    tail_k: int,
    total: float | None = None,
) -> ErrorParts:
    """Split the error of an agent's held-out forecasts (our reading of Schwarzer & Niekum 2026, arXiv 2605.15134).

    Three errors, each of a simpler set of scores: all scores; the common ones alone; and an exactly log-linear tail as
    wide as the common one. The differences are what rare modes and curvature add.

    :param evaluation: shape (n_eval_sets, n_eval), psi
    :param deployment: shape (n_deploy_sets, n_deploy), psi
    :param evaluation_rare: the same shape, whether a task belongs to the rare mode
    :param deployment_rare: the same shape
    :param tail_k: number k of largest scores the forecast is fitted to
    :param total: mean absolute error of all scores, psi, where it is known already
    :raises ValueError: shapes that do not fit, or as for :func:`~evaluate_forecasts.evaluate_forecasts`
    """
    if evaluation.shape != evaluation_rare.shape or deployment.shape != deployment_rare.shape:
        raise ValueError(
            f"scores and rare labels must have one shape: {evaluation.shape} and {evaluation_rare.shape}, "
            f"{deployment.shape} and {deployment_rare.shape}"
        )
    forecaster = GumbelTail(tail_k)
    if total is None:
        total = evaluate_forecasts(evaluation, deployment, forecaster).in_space("psi").mean_absolute
    # As if rare tasks could not fail: sets keep their sizes, and the forecast its target.
    common_sets = np.where(evaluation_rare, -np.inf, evaluation), np.where(deployment_rare, -np.inf, deployment)
    common = evaluate_forecasts(*common_sets, forecaster).in_space("psi").mean_absolute
    pool = np.concatenate([evaluation[~evaluation_rare], deployment[~deployment_rare]])
    threshold = np.quantile(pool, 1.0 - tail_k / evaluation.shape[1])
    sigma = float((pool[pool > threshold] - threshold).mean())
    floor = log_linear_error(tail_k, evaluation.shape[1], deployment.shape[1])
    return ErrorParts(total=total, sigma=sigma, floor=floor, curvature=common - floor * sigma, rare=total - common)
