"""Jones et al.'s forecaster: a straight line through the log survival of the largest scores.

Jones et al. 2025 (arXiv 2502.16797): ordinary least squares of ``log(i / m)`` on the ``k`` largest scores gives
``log S(psi) = a psi + b``; the forecast is the score where the line reaches ``1 / n``, ``Q(n) = -(log n + b) / a``.
Equation 5 of the paper prints a sign slip; this is the consistent form. The plotting position ``i / m`` is our reading.

The paper gives no interval. On an exponential tail the distribution of ``(M_n - Q) / T``, with T the fitted scale,
depends on k, m and n only, so its quantiles give an exact one (our derivation): quasi-Monte Carlo over the spacings of
the k largest scores, with the maximum integrated out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rl_forecast.forecasting.methods.base import FitsFiniteScores, top_finite
from rl_forecast.forecasting.methods.ensemble import GeneralisedParetoTails, TailEnsemble
from rl_forecast.summary import TailSummary

PlottingPosition = Literal["rank", "midpoint", "expected"]


def log_plotting_positions(
    tail_k: int, n_eval: int, plotting_position: PlottingPosition = "rank"
) -> NDArray[np.float64]:
    """Log survival assigned to the k largest of m scores, shape (k,).

    :param plotting_position: ``"rank"``: ``i / m`` (Jones et al., our reading); ``"midpoint"``: ``(i - 1/2) / m``;
        ``"expected"``: the mean log survival of the i-th order statistic, ``-(H_m - H_(i-1))``
    :raises ValueError: unknown plotting position
    """
    i = np.arange(1, tail_k + 1, dtype=np.float64)
    if plotting_position == "rank":
        return np.log(i / n_eval)
    if plotting_position == "midpoint":
        return np.log((i - 0.5) / n_eval)
    if plotting_position == "expected":
        return np.asarray(special.digamma(i) - special.digamma(n_eval + 1.0))
    raise ValueError(f"plotting_position must be rank, midpoint or expected, it is {plotting_position!r}")


def fit_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares of y on x along the last axis: scale ``T = Sxx / |Sxy|`` and the mean of x."""
    centre = x.mean(axis=-1)
    dx, dy = x - centre[..., None], y - y.mean()
    return np.square(dx).sum(axis=-1) / np.abs(dx @ dy), centre


@lru_cache(maxsize=16)
def line_draws(
    tail_k: int, n_eval: int, plotting_position: PlottingPosition = "rank", log2_draws: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lines fitted to the k largest of m standard exponential scores: scale T and mean of the k scores, (R,) each.

    R scrambled Sobol draws. By Renyi's representation the k - 1 top spacings are ``Z_j / j`` with Z exponential, and
    the k-th score is ``-log U`` with ``U ~ Beta(k, m - k + 1)``, independent of them.
    """
    from scipy.stats import qmc  # half a second to import, needed only here

    sobol = qmc.Sobol(tail_k, scramble=True, rng=np.random.default_rng(0)).random_base2(log2_draws)
    kth = -np.log(special.betaincinv(tail_k, n_eval - tail_k + 1, sobol[:, -1]))
    spacings = -np.log1p(-sobol[:, :-1]) / np.arange(1, tail_k)
    above = np.cumsum(spacings[:, ::-1], axis=1)[:, ::-1]
    scores = np.column_stack([above + kth[:, None], kth])
    return fit_line(scores, log_plotting_positions(tail_k, n_eval, plotting_position))


def _fiducial_ensemble(
    scale: float, centre: float, k: int, m: int, plotting_position: PlottingPosition, top: NDArray[np.float64]
) -> TailEnsemble:
    """Tails that the fitted line leaves possible: the inversion of its location-scale pivot."""
    drawn_scale, drawn_centre = line_draws(k, m, plotting_position)
    sigma = scale / drawn_scale
    tails = GeneralisedParetoTails(location=centre - sigma * drawn_centre, scale=sigma, shape=np.zeros(1))
    weight = np.full(sigma.size, 1.0 / sigma.size)
    return TailEnsemble(tails=tails, weight=weight, threshold=float(top[k - 1]), rate=None, top=top)


@lru_cache(maxsize=4096)
def line_pivot_quantile(
    level: float, tail_k: int, n_eval: int, n_deploy: int, plotting_position: PlottingPosition = "rank"
) -> float:
    """Quantile of ``(M_n - Q(n)) / T`` on an exponential tail, units of T; error of its probability at most 1e-3."""
    ensemble = _fiducial_ensemble(1.0, 0.0, tail_k, n_eval, plotting_position, np.zeros(tail_k))
    y = log_plotting_positions(tail_k, n_eval, plotting_position)
    return ensemble.maximum_quantile(level, n_deploy) - float(np.log(n_deploy) + y.mean())


@dataclass(frozen=True)
class GumbelTailFit:
    """A fitted line ``log S(psi) = slope * psi + intercept`` under the ``tail_k`` largest of ``n_eval`` scores.

    :param debias: whether the point forecast adds the pivot's median
    :param top: shape (K,), the finite scores known exactly, descending
    """

    slope: float
    intercept: float
    tail_k: int
    n_eval: int
    plotting_position: PlottingPosition
    debias: bool
    top: NDArray[np.float64]

    @property
    def tail_scale(self) -> float:
        """Tail scale ``sigma = -1 / slope``, psi."""
        return -1.0 / self.slope

    @property
    def ensemble(self) -> TailEnsemble:
        """The exponential tails that the line leaves possible."""
        centre = float(self.top[: self.tail_k].mean())
        return _fiducial_ensemble(self.tail_scale, centre, self.tail_k, self.n_eval, self.plotting_position, self.top)

    def line(self, n_deploy: float) -> float:
        """Score at which the line reaches ``1 / n_deploy``, psi."""
        return -(float(np.log(n_deploy)) + self.intercept) / self.slope

    def point(self, n_deploy: int) -> float:
        """The line's score, psi; its median-unbiased version where ``debias`` is set."""
        return self.quantile(0.5, n_deploy) if self.debias else self.line(n_deploy)

    def quantile(self, level: float, n_deploy: int) -> float:
        """Exact predictive quantile of the maximum on an exponential tail, psi."""
        pivot = line_pivot_quantile(level, self.tail_k, self.n_eval, n_deploy, self.plotting_position)
        return self.line(n_deploy) + self.tail_scale * pivot

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Exact probability on an exponential tail that the maximum exceeds ``psi``."""
        return self.ensemble.maximum_exceedance(psi, n_deploy)


@dataclass(frozen=True)
class GumbelTail(FitsFiniteScores):
    """Ordinary least squares on the ``tail_k`` largest scores (Jones et al. use 10).

    :param tail_k: number k of largest scores
    :param plotting_position: survival assigned to the i-th largest; ``"rank"`` reproduces the papers
    :param debias: make the point forecast median-unbiased on an exponential tail (free: it needs no more data)
    """

    tail_k: int = 10
    plotting_position: PlottingPosition = "rank"
    debias: bool = False
    name: str = "gumbel_tail"

    def fit_finite(self, summary: TailSummary) -> GumbelTailFit:
        """Fit the line to the finite scores among the ``tail_k`` largest."""
        x = top_finite(summary, self.tail_k)
        y = log_plotting_positions(x.size, summary.count, self.plotting_position)
        scale, centre = fit_line(x, y)
        slope = -1.0 / float(scale)
        return GumbelTailFit(
            slope=slope,
            intercept=float(y.mean() - slope * centre),
            tail_k=int(x.size),
            n_eval=summary.count,
            plotting_position=self.plotting_position,
            debias=self.debias,
            top=top_finite(summary, summary.top.size),
        )
