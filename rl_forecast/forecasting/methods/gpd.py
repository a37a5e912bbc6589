"""Generalised Pareto tail by maximum likelihood, the standard of extreme-value practice, for comparison.

The point is the fitted return level at ``1 - 1/n``; the prediction interval of the realised maximum comes from the
normalised likelihood over shapes in (-1, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from rl_forecast.forecasting.methods.base import EnsembleFit, FitsFiniteScores, NoTailError, top_finite
from rl_forecast.forecasting.methods.ensemble import GeneralisedParetoTails, TailEnsemble, grid_weights, log_likelihood
from rl_forecast.summary import TailSummary

_SHAPE_RANGE = (-0.999, 0.999)
_OUTSIDE = 1e12  # minus log-likelihood of a shape outside the range; finite, for the optimiser's arithmetic


def fit_generalised_pareto(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Maximum likelihood of shape and scale, by Grimshaw's reduction to one dimension.

    With ``theta = xi / sigma``, the likelihood is maximal over xi at ``mean log(1 + theta z)``: only theta is searched.

    :param excesses: shape (k,), at least 0, not all equal to 0
    :return: shape xi (held within (-1, 1), outside of which the likelihood has no regular maximum) and scale sigma
    """
    z = excesses / excesses.mean()

    def negative(theta: float) -> float:
        if abs(theta) < 1e-8:
            return float(z.size)
        xi = float(np.log1p(theta * z).mean())
        if not _SHAPE_RANGE[0] < xi < _SHAPE_RANGE[1]:
            return _OUTSIDE
        return float(z.size * (np.log(xi / theta) + 1.0 + xi))

    near_end = np.geomspace(1e-4, 1.0, 40)
    grid = np.sort(np.concatenate([-(1.0 - near_end) / float(z.max()), np.geomspace(1e-4, 50.0, 60)]))
    values = np.array([negative(t) for t in grid])
    best = int(np.argmin(values))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    found = optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    theta = float(found.x) if found.fun <= values[best] else float(grid[best])
    mean = float(excesses.mean())
    if abs(theta) < 1e-8:
        return 0.0, mean
    xi = float(np.log1p(theta * z).mean())
    return xi, xi / theta * mean


@dataclass(frozen=True)
class GPDFit(EnsembleFit):
    """Fitted generalised Pareto tail.

    :param threshold: psi over which excesses are taken
    :param shape: xi
    :param rate: share of scores above the threshold
    """

    threshold: float
    shape: float
    rate: float

    def point(self, n_deploy: int) -> float:
        """Return level: the score exceeded by one query in ``n_deploy``, psi."""
        exponent = float(np.log(n_deploy * self.rate))
        bent = exponent if abs(self.shape) < 1e-9 else float(np.expm1(self.shape * exponent)) / self.shape
        return self.threshold + self.tail_scale * bent


@dataclass(frozen=True)
class GPD(FitsFiniteScores):
    """Maximum-likelihood generalised Pareto tail.

    :param tail_k: number k of largest scores, the k-th being the threshold
    :param threshold: psi; excesses over it are used instead, ``tail_k`` then does not count
    """

    tail_k: int = 100
    threshold: float | None = None
    name: str = "gpd"

    def fit_finite(self, summary: TailSummary) -> GPDFit:
        """Fit to the excesses over the k-th largest score, or over the threshold.

        :raises NoTailError: fewer than two distinct finite scores, or a threshold that leaves too few
        """
        top = top_finite(summary, summary.top.size)
        if self.threshold is None:
            x = top_finite(summary, self.tail_k)
            threshold, excesses, k = float(x[-1]), x[:-1] - x[-1], int(x.size)
        else:
            if self.threshold < top[-1] and top.size < summary.n_finite:
                raise NoTailError(f"threshold {self.threshold:g} lies below the {top.size} scores the summary kept")
            excesses = top[top > self.threshold] - self.threshold
            threshold, k = self.threshold, int(excesses.size)
            if excesses.size < 2 or excesses[0] == excesses[-1]:
                raise NoTailError(f"{excesses.size} scores lie above the threshold {self.threshold:g}: lower it")
        shape, scale = fit_generalised_pareto(excesses)
        # normalised likelihood on a grid around its maximum, flat in shape and log scale
        reach = 5.0 * (1.0 + abs(shape)) / np.sqrt(excesses.size)
        xi = np.linspace(max(shape - reach, _SHAPE_RANGE[0]), min(shape + reach, _SHAPE_RANGE[1]), 41)
        log_scale = np.log(scale) + np.linspace(-1.5 * reach, 1.5 * reach, 51)
        a, b = (grid.ravel() for grid in np.meshgrid(xi, log_scale, indexing="ij"))
        weight, keep = grid_weights(log_likelihood(excesses, a, b), drop_below=1e-7)
        tails = GeneralisedParetoTails(np.array([threshold]), np.exp(b[keep]), a[keep])
        return GPDFit(
            ensemble=TailEnsemble(tails, weight, threshold, (k, summary.count), top),
            tail_scale=scale,
            threshold=threshold,
            shape=shape,
            rate=k / summary.count,
        )
