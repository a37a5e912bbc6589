"""How far a forecast can be trusted: in numbers, and in sentences a reader can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.findings import Finding
from rl_forecast.forecasting.methods import BinomialTail, ExponentialPivot, GumbelTail, NoTailError, ShapePrior
from rl_forecast.forecasting.methods.base import FittedTail, Forecaster, without_certain_failures
from rl_forecast.forecasting.methods.shape_prior import default_tail_k
from rl_forecast.scores import format_count, format_probability, log_p_from_psi
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from rl_forecast.forecasting.forecast import Forecast

_FEW_DISTINCT = 6
_MODE_SHIFT = 10.0  # shift of the missed mode that the note sizes, tail scales


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

    :param weight: share eps of queries in the mode, probability in (0, 1)
    :param shift: shift delta of their scores, units of the tail scale
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


@dataclass(frozen=True)
class StabilityPoint:
    """Forecast of the largest score made with another number of tail scores; psi, 90 % interval."""

    tail_k: int
    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Diagnostics:
    """Numbers behind the warnings; ``nan`` where no tail.

    :param n_distinct_top10: distinct values among the ten largest scores
    :param n_tied_at_max: scores equal to the largest
    :param shape_mean: posterior mean of the tail's shape xi; positive bends upward
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


def k_stability(summary: TailSummary, forecaster: Forecaster, n_deploy: int) -> tuple[StabilityPoint, ...]:
    """The same forecast from other numbers of tail scores; none for a method without a ``tail_k``."""
    if not hasattr(forecaster, "tail_k"):
        return ()
    available = min(summary.n_finite, int(np.isfinite(summary.top).sum()))
    points: list[StabilityPoint] = []
    for k in (10, 20, 50, 100, 200, 500):
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


def diagnose(fc: Forecast) -> Diagnostics:
    """Numbers behind the warnings of a forecast; the largest deployment size decides."""
    summary, fitted = fc.summary, fc.fitted
    largest = max(fc.n_deploy)
    shape, effect = None, np.nan
    # estimated scores are too coarse for a shape; their noise alone looks like a bend
    if fitted is not None and not summary.count_table:
        finite = without_certain_failures(summary)
        with suppress(NoTailError):
            shape = ShapePrior(default_tail_k(finite.count)).fit_finite(finite)
    if shape is not None:
        reach = max(float(np.log(largest * shape.tail_k / summary.count)), 0.0)
        effect = shape.shape_sd * reach**2 / 2.0  # d/dxi of (e^(xi L) - 1) / xi at xi = 0
    lift = missed_mode(min(1.0 / summary.count, 0.5), _MODE_SHIFT, summary.count, largest).under_prediction
    return Diagnostics(
        n_distinct_top10=int(np.unique(summary.top[:10]).size),
        n_tied_at_max=int((summary.top == summary.top[0]).sum()),
        shape_mean=shape.shape_mean if shape else np.nan,
        shape_sd=shape.shape_sd if shape else np.nan,
        shape_positive=shape.shape_positive if shape else np.nan,
        shape_effect=effect,
        stability=k_stability(summary, fc.forecaster, largest) if fitted is not None else (),
        missed_weight=min(3.0 / summary.count, 1.0),
        missed_lift_psi=lift * fitted.tail_scale if fitted is not None else np.nan,
    )


def forecast_warnings(fc: Forecast) -> tuple[Finding, ...]:
    """All warnings of a forecast: on the scores, the fit, the extrapolation, the target; the missed-mode note last."""
    found = _about_scores(fc)
    if fc.fitted is None:
        sentence = (
            f"No forecast: {fc.reason}. Without one this much remains: one of n new queries is strictly worse than "
            f"all {fc.summary.count} seen with probability at most n / (n + m)."
        )
        return (Finding("degenerate", "error", sentence, {}), *found, _missed_mode_note(fc))
    return (*found, *_about_fit(fc, fc.fitted), *_about_extrapolation(fc), *_about_target(fc), _missed_mode_note(fc))


def _warning(code: str, sentence: str, **values: float) -> Finding:
    return Finding(code, "warning", sentence, values)


def _about_scores(fc: Forecast) -> Iterator[Finding]:
    summary, tail_k = fc.summary, fc.tail_k
    m, n_unscored = summary.count, summary.n_unscored
    if n_unscored:
        yield _warning(
            "unscored",
            f"{n_unscored} of {m + n_unscored} queries have no score and are left out; a query that breaks the "
            "evaluation may be the very failure looked for.",
            n_unscored=n_unscored,
            share=n_unscored / (m + n_unscored),
        )
    if summary.n_pos_inf:
        yield _warning(
            "certain_failures",
            f"{summary.n_pos_inf} of {m} scores are p = 1: failures that are certain already occur; the tail is "
            "that of the other scores, beside an atom at p = 1.",
            n_certain=summary.n_pos_inf,
        )
    if summary.n_neg_inf:
        yield _warning(
            "zero_probability",
            f"{summary.n_neg_inf} of {m} scores are p = 0. They count among the m; if they are underflow, give log "
            "probabilities instead.",
            n_zero=summary.n_neg_inf,
        )
    if tail_k is not None and 2 <= summary.n_finite < tail_k:
        yield _warning(
            "few_scores",
            f"only {summary.n_finite} finite scores for a tail of k = {tail_k}: all of them are used as the tail.",
            n_finite=summary.n_finite,
            tail_k=tail_k,
        )


def _about_fit(fc: Forecast, fitted: FittedTail) -> Iterator[Finding]:
    """Coarse scores, for methods that read every difference; and a model that finds the largest score impossible."""
    summary, method, d = fc.summary, fc.method, fc.diagnostics
    shown = min(10, summary.top.size)
    if method != BinomialTail.name and d.n_distinct_top10 < min(_FEW_DISTINCT, shown):
        yield _warning(
            "ties",
            f"the {shown} largest scores hold {d.n_distinct_top10} distinct "
            f"value{'' if d.n_distinct_top10 == 1 else 's'} ({d.n_tied_at_max} tied at the largest): intervals fall "
            "below nominal coverage; score more finely or sample each query more often.",
            n_distinct=d.n_distinct_top10,
            n_tied_at_max=d.n_tied_at_max,
        )
    finite = summary.top[np.isfinite(summary.top)]
    chance = fitted.ensemble.maximum_exceedance(float(finite[0]), summary.count)
    if chance < 0.005 and not summary.count_table:
        advice = "use shape_prior"
        if method == ShapePrior.name:
            advice = "look at the riskiest queries, which may be another kind of failure than the rest"
        yield _warning(
            "poor_fit",
            f"{method} does not fit: by its own account another {summary.count} queries would reach the worst risk "
            f"already seen with probability {chance:.2g}; {advice}.",
            probability=chance,
        )


def _about_extrapolation(fc: Forecast) -> Iterator[Finding]:
    m, largest, method, d = fc.summary.count, max(fc.n_deploy), fc.method, fc.diagnostics
    inside = [n for n in fc.n_deploy if n < m]
    if inside:
        n = max(inside)
        yield _warning(
            "no_extrapolation",
            f"n = {n} is smaller than the {m} scores at hand: nothing is extrapolated; whatever the tail, the "
            f"largest of {n} new scores exceeds all {m} with probability n / (n + m) = {n / (n + m):.3g}.",
            n_deploy=n,
            probability=n / (n + m),
        )
    if d.shape_positive >= 0.95 and d.shape_mean >= 0.05:
        yield _warning(
            "upward_tail",
            f"the tail bends upward (shape {d.shape_mean:+.2f}, probability {d.shape_positive:.2f}): log-linear "
            "forecasts under-predict here; trust shape_prior's interval, and its upper end more than its point.",
            shape_mean=d.shape_mean,
            shape_positive=d.shape_positive,
        )
    if d.shape_positive <= 0.05 and d.shape_mean <= -0.05 and method in (GumbelTail.name, ExponentialPivot.name):
        yield _warning(
            "downward_tail",
            f"the tail bends downward (shape {d.shape_mean:+.2f}): {method} assumes a straight line and over-predicts.",
            shape_mean=d.shape_mean,
        )
    if d.shape_effect > 2.0 * np.pi / np.sqrt(6.0):  # twice the scatter of the maximum itself
        yield _warning(
            "far_extrapolation",
            f"a forecast for {format_count(largest)} queries from {m} scores depends strongly on the assumed shape of "
            f"the tail: uncertainty about it shifts the forecast by {d.shape_effect:.1f} tail scales, chance alone by "
            "1.3.",
            shape_effect=d.shape_effect,
        )
    points = [s.point for s in d.stability]
    if (
        len(points) >= 2
        and np.isfinite(points).all()
        and np.ptp(points) > 0.5 * np.median([s.high - s.low for s in d.stability])
    ):
        low, high = min(points), max(points)
        yield _warning(
            "unstable_over_k",
            f"the forecast at n = {format_count(largest)} depends on how many scores count as the tail: between "
            f"p = {format_probability(low)} and {format_probability(high)} for "
            f"k = {', '.join(str(s.tail_k) for s in d.stability)}.",
            lowest=float(np.exp(log_p_from_psi(low))),
            highest=float(np.exp(log_p_from_psi(high))),
        )


def _about_target(fc: Forecast) -> Iterator[Finding]:
    samples = [j for j, _ in fc.summary.count_table]
    if not samples:
        return
    if fc.method == BinomialTail.name:
        text = "probabilities are estimated from counts: the forecast is of the largest true p, mildly too narrow."
    else:
        text = (
            f"probabilities are estimated from {min(samples)} to {max(samples)} samples each: the largest estimates "
            "carry the luckiest noise; method binomial_tail forecasts the true p instead."
        )
    yield _warning("estimated_scores", text, fewest_samples=min(samples), most_samples=max(samples))


def _missed_mode_note(fc: Forecast) -> Finding:
    m, n, fitted, d = fc.summary.count, max(fc.n_deploy), fc.fitted, fc.diagnostics
    sentence = (
        f"No method sees what the evaluation did not: a kind of failure rarer than 3/m = {d.missed_weight:.2g} of "
        f"queries can be absent from all {m} scores (probability 5 % or more), yet would make up to "
        f"{format_count(n * d.missed_weight)} of {format_count(n)} deployed queries"
    )
    values: dict[str, float] = {"missed_weight": d.missed_weight, "expected_in_deployment": n * d.missed_weight}
    if fitted is not None and np.isfinite(fitted.point(n)):
        point = fitted.point(n)
        lifted = point + d.missed_lift_psi
        sentence += (
            f". As frequent as one query in m and {_MODE_SHIFT:g} tail scales worse, it would lift the worst query "
            f"from p = {format_probability(point)} to {format_probability(lifted)}"
        )
        values["lifted_risk"] = float(np.exp(log_p_from_psi(lifted)))
    return Finding("missed_mode", "note", sentence + ".", values)
