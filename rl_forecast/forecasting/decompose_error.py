"""What a measured forecast error consists of: what no training changes, curvature, and rare modes.

Three answers to the same question, each for a simpler set of scores: all scores; the common ones alone; and an exactly
log-linear tail as wide as the common one. The differences are what rare modes and curvature add (our reading of
Schwarzer & Niekum 2026, arXiv 2605.15134; the split is ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.forecasting.evaluate_forecasts import held_out_errors
from rl_forecast.forecasting.methods.gumbel_tail import GumbelTail, line_draws, log_plotting_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ErrorSplit", "error_split", "log_linear_error"]

# Quantiles of the maximum and draws of the line that an expectation is taken over; its error is below 1e-3.
_QUANTILES, _LOG2_DRAWS = 256, 13


@dataclass(frozen=True)
class ErrorSplit:
    """Mean absolute error of Jones et al.'s forecast in psi, as a sum.

    ``total = floor * sigma + curvature + rare``. Training changes ``sigma``, ``curvature`` and ``rare``; ``floor`` is
    the same for every agent.

    :param total: mean absolute error of all scores, psi
    :param sigma: tail scale of the common scores: their mean excess over the ``1 - k / m`` quantile, psi
    :param floor: mean absolute error on a log-linear tail, units of sigma (:func:`log_linear_error`)
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
        """``floor * sigma``, psi: what remains at this scale with a straight tail and no rare mode."""
        return self.floor * self.sigma


@lru_cache(maxsize=64)
def log_linear_error(tail_k: int, n_eval: int, n_deploy: int) -> float:
    """Mean absolute error of the forecast on an exactly log-linear tail, units of its scale.

    :param tail_k: number k of largest scores
    :param n_eval: number m of evaluation scores
    :param n_deploy: number n of deployment scores
    """
    draws = line_draws(tail_k, n_eval, log2_draws=_LOG2_DRAWS)
    reach = float(np.log(n_deploy) + log_plotting_positions(tail_k, n_eval).mean())
    forecast = draws.centre + reach * draws.scale
    level = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    maximum = -np.log(-np.expm1(np.log(level) / n_deploy))
    return float(np.abs(forecast[:, None] - maximum).mean())


def error_split(
    evaluation: NDArray[np.float64],
    deployment: NDArray[np.float64],
    evaluation_rare: NDArray[np.bool_],
    deployment_rare: NDArray[np.bool_],
    tail_k: int,
    total: float | None = None,
) -> ErrorSplit:
    """Split an agent's held-out error.

    :param evaluation: shape (n_eval_sets, n_eval), psi
    :param deployment: shape (n_deploy_sets, n_deploy), psi
    :param evaluation_rare: the same shape, whether a task belongs to the rare mode
    :param deployment_rare: the same shape
    :param tail_k: number k of largest scores the forecast is fitted to
    :param total: mean absolute error of all scores, psi, where it is known already; computed if ``None``
    :raises ValueError: shapes that do not fit, or as for :func:`~evaluate_forecasts.held_out_errors`
    """
    if evaluation.shape != evaluation_rare.shape or deployment.shape != deployment_rare.shape:
        raise ValueError(
            f"scores and rare labels must have one shape: {evaluation.shape} and {evaluation_rare.shape}, "
            f"{deployment.shape} and {deployment_rare.shape}"
        )
    forecaster = GumbelTail(tail_k)
    n_eval, n_deploy = evaluation.shape[1], deployment.shape[1]

    def mean_error(these: NDArray[np.float64], those: NDArray[np.float64]) -> float:
        return held_out_errors(these, those, forecaster).in_space("psi").mean_absolute

    if total is None:
        total = mean_error(evaluation, deployment)
    # As if rare tasks could not fail: sets keep their sizes, and the forecast its target.
    common_sets = np.where(evaluation_rare, -np.inf, evaluation), np.where(deployment_rare, -np.inf, deployment)
    common = mean_error(*common_sets)
    pool = np.concatenate([evaluation[~evaluation_rare], deployment[~deployment_rare]])
    threshold = np.quantile(pool, 1.0 - tail_k / n_eval)
    sigma = float((pool[pool > threshold] - threshold).mean())
    floor = log_linear_error(tail_k, n_eval, n_deploy)
    return ErrorSplit(total=total, sigma=sigma, floor=floor, curvature=common - floor * sigma, rare=total - common)
