"""Numbers that say how far a forecast can be trusted: ties, the shape of the tail, stability over k, missed modes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.forecasting.decomposition import missed_mode
from rl_forecast.forecasting.methods import NoTailError, ShapePrior
from rl_forecast.forecasting.methods.certain_failures import without_certain_failures
from rl_forecast.forecasting.methods.shape_prior import default_tail_k

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.forecasting.methods.base import FittedTail, Forecaster
    from rl_forecast.forecasting.methods.shape_prior import ShapePriorFit
    from rl_forecast.summary import TailSummary

__all__ = ["MODE_SHIFT", "Diagnostics", "StabilityPoint", "diagnose", "k_stability"]

_STABILITY_K = (10, 20, 50, 100, 200, 500)
MODE_SHIFT = 10.0
"""Shift of the missed mode that the diagnostics size, in tail scales."""


@dataclass(frozen=True)
class StabilityPoint:
    """Forecast of the largest score made with another number of tail scores; psi, 90 % interval."""

    tail_k: int
    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Diagnostics:
    """Numbers behind the warnings.

    :param n_distinct_top10: distinct values among the ten largest scores
    :param n_tied_at_max: scores equal to the largest
    :param shape_mean: posterior mean of the tail's shape xi; positive bends upward; ``nan`` where no tail
    :param shape_sd: its posterior standard deviation (the prior's is 0.15)
    :param shape_positive: posterior probability that the tail bends upward
    :param shape_effect: how far one standard deviation of the shape moves the forecast at the largest n, tail scales
    :param stability: the forecast at the largest n for several k
    :param missed_weight: share of queries, 3 / m, below which a kind of failure can go unseen (probability 5 %)
    :param missed_lift_psi: rise of the worst score if a kind as frequent as one in m, 10 tail scales up, was missed
    """

    n_distinct_top10: int
    n_tied_at_max: int
    shape_mean: float
    shape_sd: float
    shape_positive: float
    shape_effect: float
    stability: tuple[StabilityPoint, ...]
    missed_weight: float
    missed_lift_psi: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def k_stability(
    summary: TailSummary, forecaster: Forecaster, n_deploy: int, tail_ks: Sequence[int] = _STABILITY_K
) -> tuple[StabilityPoint, ...]:
    """The same forecast from other numbers of tail scores.

    :param summary: the evaluation
    :param forecaster: the method with its options; one without a tail_k gives no points
    :param n_deploy: deployment size
    :param tail_ks: numbers of scores to try; those beyond the available ones are left out

    >>> from rl_forecast import TailSummary, make_forecaster
    >>> summary = TailSummary.from_scores(np.random.default_rng(0).gumbel(size=500))
    >>> points = k_stability(summary, make_forecaster("exponential_pivot"), n_deploy=5_000, tail_ks=[10, 20, 50])
    >>> [(p.tail_k, round(p.point, 1)) for p in points]
    [(10, 9.6), (20, 10.0), (50, 9.0)]
    """
    if not hasattr(forecaster, "tail_k"):
        return ()
    available = min(summary.n_finite, int(np.isfinite(summary.top).sum()))
    points: list[StabilityPoint] = []
    for k in tail_ks:
        if k > available:
            break
        try:
            fitted = replace(forecaster, tail_k=k).fit(summary)  # type: ignore[type-var]
        except NoTailError:
            continue
        if points and fitted.point(n_deploy) == points[-1].point:
            break  # ties, or a threshold that overrules k: the same scores are the tail
        low, high = fitted.quantile(0.05, n_deploy), fitted.quantile(0.95, n_deploy)
        points.append(StabilityPoint(k, fitted.point(n_deploy), low, high))
    return tuple(points)


def diagnose(
    summary: TailSummary, fitted: FittedTail | None, forecaster: Forecaster, n_deploy: Sequence[int]
) -> Diagnostics:
    """Numbers behind the warnings of a forecast.

    :param summary: the evaluation
    :param fitted: its fitted tail, None where there is none
    :param forecaster: the method with its options
    :param n_deploy: deployment sizes; the largest decides
    """
    largest = max(n_deploy)
    # estimated scores are too coarse for a shape; their noise alone looks like a bend
    shape = _shape(summary) if fitted is not None and not summary.count_table else None
    effect = float("nan")
    if shape is not None:
        reach = max(float(np.log(largest * shape.tail_k / summary.count)), 0.0)
        effect = shape.shape_sd * reach**2 / 2.0  # d/dxi of (e^(xi L) - 1) / xi at xi = 0
    weight = min(1.0 / summary.count, 0.5)
    lift = missed_mode(weight, MODE_SHIFT, summary.count, largest).under_prediction
    return Diagnostics(
        n_distinct_top10=int(np.unique(summary.top[:10]).size),
        n_tied_at_max=int((summary.top == summary.top[0]).sum()),
        shape_mean=shape.shape_mean if shape else float("nan"),
        shape_sd=shape.shape_sd if shape else float("nan"),
        shape_positive=shape.shape_positive if shape else float("nan"),
        shape_effect=effect,
        stability=k_stability(summary, forecaster, largest) if fitted is not None else (),
        missed_weight=min(3.0 / summary.count, 1.0),
        missed_lift_psi=lift * fitted.tail_scale if fitted is not None else float("nan"),
    )


def _shape(summary: TailSummary) -> ShapePriorFit | None:
    finite = without_certain_failures(summary)
    try:
        return ShapePrior(default_tail_k(finite.count)).fit_finite(finite)
    except NoTailError:
        return None
