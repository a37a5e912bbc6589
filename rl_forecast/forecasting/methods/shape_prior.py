"""The default: a generalised Pareto tail whose shape is integrated out under a narrow prior.

A log-linear tail is the shape ``xi = 0``; real tails bend a little, and a forecast far beyond the data depends on how
much, whatever k is. So the shape gets a prior, ``xi ~ N(0, 0.15^2)``, the scale a flat one in its logarithm, and the
forecast is the posterior predictive: its median is the point, its quantiles the interval. As the prior's width goes to
0 it becomes the exact exponential pivot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_forecast.forecasting.methods.base import EnsembleFit, FitsFiniteScores, top_finite
from rl_forecast.forecasting.methods.ensemble import GeneralisedParetoTails, TailEnsemble, grid_weights, log_likelihood
from rl_forecast.summary import TailSummary


def default_tail_k(n_eval: int) -> int:
    """Number of largest scores the shape prior uses: ``m / 10`` held between 20 and 100."""
    return int(np.clip(n_eval // 10, 20, 100))


@dataclass(frozen=True)
class ShapePriorFit(EnsembleFit):
    """Posterior of a generalised Pareto tail.

    :param shape_mean: posterior mean of xi; positive where the tail bends upward
    :param shape_sd: its posterior standard deviation
    :param shape_positive: posterior probability that xi > 0
    :param tail_k: number of scores used
    """

    shape_mean: float
    shape_sd: float
    shape_positive: float
    tail_k: int


@dataclass(frozen=True)
class ShapePrior(FitsFiniteScores):
    """Bayesian generalised Pareto tail over the k-th largest score.

    :param tail_k: number k of largest scores; ``None`` takes :func:`default_tail_k`
    :param shape_sd: prior standard deviation of xi; 0.1 is sharper where tails are log-linear, 0.2 covers heavier ones
    """

    tail_k: int | None = None
    shape_sd: float = 0.15
    name: str = "shape_prior"

    def __post_init__(self) -> None:
        if not self.shape_sd > 0:
            raise ValueError(f"shape_sd must be positive, it is {self.shape_sd}: exponential_pivot is its limit at 0")

    def fit_finite(self, summary: TailSummary) -> ShapePriorFit:
        """Posterior on a grid of shapes and scales from the k - 1 excesses over the k-th largest score."""
        x = top_finite(summary, self.tail_k if self.tail_k is not None else default_tail_k(summary.count))
        k = int(x.size)
        shape, log_scale = self._grid(k, float((x[:-1] - x[-1]).mean()))
        log_posterior = log_likelihood(x[:-1] - x[-1], shape, log_scale) - 0.5 * np.square(shape / self.shape_sd)
        weight, keep = grid_weights(log_posterior)
        shape, log_scale = shape[keep], log_scale[keep]
        tails = GeneralisedParetoTails(location=x[-1:], scale=np.exp(log_scale), shape=shape)
        top = top_finite(summary, summary.top.size)
        mean = float(weight @ shape)
        return ShapePriorFit(
            ensemble=TailEnsemble(tails, weight, float(x[-1]), (k, summary.count), top),
            tail_scale=float(np.exp(weight @ log_scale)),
            shape_mean=mean,
            shape_sd=float(np.sqrt(weight @ np.square(shape - mean))),
            # the grid point xi = 0 stands for an interval around 0, half of it positive
            shape_positive=float(weight @ (shape > 1e-9) + 0.5 * weight @ (np.abs(shape) <= 1e-9)),
            tail_k=k,
        )

    def _grid(self, k: int, mean_excess: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of cells in shape (the outermost at 3 prior sd) and log scale, fine enough for any k."""
        # the posterior of xi narrows as 1 / sqrt(k): at least two points per standard deviation
        n_shape = 2 * max(6, int(np.ceil(6.0 * self.shape_sd * np.sqrt(k) / 2.0))) + 1
        n_scale = 31
        half_width = 4.5 / np.sqrt(k - 1) + 0.25
        if k > 100:
            n_scale = int(np.ceil(2.0 * half_width * np.sqrt(k) * 2.0)) + 1
        shape = np.linspace(-3.0 * self.shape_sd, 3.0 * self.shape_sd, n_shape)
        log_scale = np.log(mean_excess) + np.linspace(-half_width, half_width, n_scale)
        a, b = np.meshgrid(shape, log_scale, indexing="ij")
        return a.ravel(), b.ravel()
