"""Forecast error on held-out tasks: every evaluation set's forecast against every deployment set's realised worst.

The sets are disjoint: overlapping splits of one pool would look more precise than they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_forecast.error_spaces import error_space_bounds, to_error_space
from rl_forecast.forecasting.methods import Forecaster, NoTailError
from rl_forecast.summary import TailSummary


@dataclass(frozen=True)
class SpaceError:
    """Errors of all pairs, forecast minus realised, in units of one space.

    :param bias: mean error
    :param both_at_lower_clip: share of pairs whose forecast and realised worst are both at or below the lower clip
    :param both_at_upper_clip: share of pairs with both at or above the upper clip
    :param under_by_1: share of pairs whose forecast is more than one unit below the realised worst
    :param over_by_1: share of pairs whose forecast is more than one unit above it
    """

    mean_absolute: float
    bias: float
    both_at_lower_clip: float
    both_at_upper_clip: float
    under_by_1: float
    over_by_1: float


@dataclass(frozen=True, eq=False)
class HeldOutErrors:
    """Forecasts against realised maxima.

    :param forecast: shape (n_eval_sets,), psi; NaN where no tail could be fitted
    :param realised: shape (n_deploy_sets,), psi
    :param tail_scale: shape (n_eval_sets,), psi; NaN where no tail could be fitted
    """

    forecast: NDArray[np.float64]
    realised: NDArray[np.float64]
    tail_scale: NDArray[np.float64]

    @property
    def n_failed_fits(self) -> int:
        """Evaluation sets to which no tail could be fitted; they are left out of every mean."""
        return int(np.isnan(self.forecast).sum())

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        forecast = self.forecast[~np.isnan(self.forecast)]
        return np.broadcast_arrays(forecast[:, None], self.realised[None, :])  # type: ignore[return-value]

    @property
    def under_prediction_rate(self) -> float:
        """Share of pairs in which the realised worst exceeds the forecast."""
        forecast, realised = self._pairs()
        return float(np.mean(realised > forecast)) if forecast.size else float("nan")

    def in_space(self, space: str) -> SpaceError:
        """Errors in one of the spaces of :mod:`rl_forecast.error_spaces`.

        :raises ValueError: unknown space

        >>> errors = HeldOutErrors(np.array([0.0, 1.0]), np.array([2.0]), tail_scale=np.ones(2))
        >>> psi = errors.in_space("psi")
        >>> psi.mean_absolute, psi.bias, psi.under_by_1  # errors -2 and -1
        (1.5, -1.5, 0.5)
        """
        forecast, realised = self._pairs()
        low, high = error_space_bounds(space)
        if not forecast.size:
            return SpaceError(*(float("nan"),) * 6)
        error = to_error_space(forecast, space) - to_error_space(realised, space)
        return SpaceError(
            mean_absolute=float(np.abs(error).mean()),
            bias=float(error.mean()),
            both_at_lower_clip=float(np.mean((forecast <= low) & (realised <= low))),
            both_at_upper_clip=float(np.mean((forecast >= high) & (realised >= high))),
            under_by_1=float(np.mean(error < -1)),
            over_by_1=float(np.mean(error > 1)),
        )


def evaluate_forecasts(
    evaluation: NDArray[np.float64] | Sequence[TailSummary], deployment: NDArray[np.float64], forecaster: Forecaster
) -> HeldOutErrors:
    """Fit each evaluation set and compare its forecast with the worst of each deployment set.

    :param evaluation: shape (n_eval_sets, n_eval), psi; or summaries of the sets
    :param deployment: shape (n_deploy_sets, n_deploy), psi
    :raises ValueError: a score is NaN, or the arrays are not two-dimensional

    >>> from rl_forecast import make_forecaster
    >>> rng = np.random.default_rng(0)
    >>> evaluation, deployment = rng.gumbel(size=(20, 200)), rng.gumbel(size=(8, 4_000))
    >>> errors = evaluate_forecasts(evaluation, deployment, make_forecaster("gumbel_tail"))
    >>> round(errors.in_space("psi").mean_absolute, 1), round(errors.in_space("psi").bias, 1)
    (2.5, 1.3)
    """
    shape = evaluation.shape if isinstance(evaluation, np.ndarray) else (len(evaluation), 0)
    if len(shape) != 2 or deployment.ndim != 2:
        raise ValueError(f"sets must be rows of a matrix, the shapes are {shape} and {deployment.shape}")
    if np.isnan(deployment).any():
        raise ValueError(f"{int(np.isnan(deployment).sum())} deployment scores are NaN")
    n_deploy = deployment.shape[1]
    forecast = np.full(len(evaluation), np.nan)
    tail_scale = np.full(len(evaluation), np.nan)
    for row, scores in enumerate(evaluation):
        summary = scores if isinstance(scores, TailSummary) else TailSummary.from_scores(scores)
        try:
            fit = forecaster.fit(summary)
        except NoTailError:
            continue  # no tail: counted in n_failed_fits
        forecast[row], tail_scale[row] = fit.point(n_deploy), fit.tail_scale
    return HeldOutErrors(forecast, deployment.max(axis=1), tail_scale)
