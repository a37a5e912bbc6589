"""What a forecast cannot know, said in sentences a reader can act on and with numbers a program can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.findings import Finding
from rl_forecast.forecasting.diagnostics import MODE_SHIFT
from rl_forecast.forecasting.methods import BinomialTail, ExponentialPivot, GumbelTail
from rl_forecast.formatting import format_count, format_probability
from rl_forecast.scores import log_p_from_psi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.forecasting.diagnostics import Diagnostics
    from rl_forecast.forecasting.methods.base import FittedTail
    from rl_forecast.summary import TailSummary

__all__ = ["forecast_warnings"]

_FEW_DISTINCT = 6


def forecast_warnings(
    summary: TailSummary,
    fitted: FittedTail | None,
    method: str,
    tail_k: int | None,
    n_deploy: Sequence[int],
    diagnostics: Diagnostics,
) -> tuple[Finding, ...]:
    """All warnings of a forecast: on the scores, the fit, the extrapolation, the target; the missed-mode note last.

    :param summary: the evaluation
    :param fitted: its fitted tail, None where there is none
    :param method: name of the forecaster
    :param tail_k: number of scores asked of the method, None where it has no such number
    :param n_deploy: deployment sizes
    :param diagnostics: from :func:`diagnose`
    """
    found = _about_scores(summary, tail_k)
    if fitted is not None:
        found += _about_ties(summary, method, diagnostics)
        found += _about_fit(summary, fitted, method)
        found += _about_extrapolation(summary, method, n_deploy, diagnostics)
        found += _about_target(summary, method)
    return (*found, _missed_mode_note(summary, fitted, n_deploy, diagnostics))


def _about_scores(summary: TailSummary, tail_k: int | None) -> list[Finding]:
    m, found = summary.count, []
    if summary.n_unscored:
        share = summary.n_unscored / (m + summary.n_unscored)
        found.append(
            _warning(
                "unscored",
                f"{summary.n_unscored} of {m + summary.n_unscored} queries have no score and are left out; a query "
                "that breaks the evaluation may be the very failure looked for.",
                n_unscored=summary.n_unscored,
                share=share,
            )
        )
    if summary.n_pos_inf:
        found.append(
            _warning(
                "certain_failures",
                f"{summary.n_pos_inf} of {m} scores are p = 1: failures that are certain already occur; the tail is "
                "that of the other scores, beside an atom at p = 1.",
                n_certain=summary.n_pos_inf,
            )
        )
    if summary.n_neg_inf:
        found.append(
            _warning(
                "zero_probability",
                f"{summary.n_neg_inf} of {m} scores are p = 0. They count among the m; if they are underflow, give log "
                "probabilities instead.",
                n_zero=summary.n_neg_inf,
            )
        )
    if tail_k is not None and 2 <= summary.n_finite < tail_k:
        found.append(
            _warning(
                "few_scores",
                f"only {summary.n_finite} finite scores for a tail of k = {tail_k}: all of them are used as the tail.",
                n_finite=summary.n_finite,
                tail_k=tail_k,
            )
        )
    return found


def _about_ties(summary: TailSummary, method: str, diagnostics: Diagnostics) -> list[Finding]:
    """Coarse scores, for the methods that take every difference between them at its word."""
    found: list[Finding] = []
    if method == BinomialTail.name:
        return found
    distinct, shown = diagnostics.n_distinct_top10, min(10, summary.top.size)
    if distinct < min(_FEW_DISTINCT, shown):
        found.append(
            _warning(
                "ties",
                f"the {shown} largest scores hold {distinct} distinct value{'' if distinct == 1 else 's'} "
                f"({diagnostics.n_tied_at_max} tied at the largest): intervals fall below nominal coverage; score more "
                "finely or sample each query more often.",
                n_distinct=distinct,
                n_tied_at_max=diagnostics.n_tied_at_max,
            )
        )
    return found


def _about_fit(summary: TailSummary, fitted: FittedTail, method: str) -> list[Finding]:
    """A method whose own model finds the largest score seen next to impossible does not describe these scores."""
    finite = summary.top[np.isfinite(summary.top)]
    chance = fitted.ensemble.maximum_exceedance(float(finite[0]), summary.count)
    if not chance < 0.005 or summary.count_table:
        return []
    sentence = (
        f"{method} does not fit: by its own account another {summary.count} queries would reach the worst risk already "
        f"seen with probability {chance:.2g}; use shape_prior."
    )
    return [_warning("poor_fit", sentence, probability=chance)]


def _about_extrapolation(summary: TailSummary, method: str, n_deploy: Sequence[int], d: Diagnostics) -> list[Finding]:
    m, largest, found = summary.count, max(n_deploy), []
    inside = [n for n in n_deploy if n < m]
    if inside:
        n = max(inside)
        found.append(
            _warning(
                "no_extrapolation",
                f"n = {n} is smaller than the {m} scores at hand: nothing is extrapolated; whatever the tail, the "
                f"largest of {n} new scores exceeds all {m} with probability n / (n + m) = {n / (n + m):.3g}.",
                n_deploy=n,
                probability=n / (n + m),
            )
        )
    if d.shape_positive >= 0.95 and d.shape_mean >= 0.05:
        found.append(
            _warning(
                "upward_tail",
                f"the tail bends upward (shape {d.shape_mean:+.2f}, probability {d.shape_positive:.2f}): log-linear "
                "forecasts under-predict here; trust shape_prior's interval, and its upper end more than its point.",
                shape_mean=d.shape_mean,
                shape_positive=d.shape_positive,
            )
        )
    if d.shape_positive <= 0.05 and d.shape_mean <= -0.05 and method in (GumbelTail.name, ExponentialPivot.name):
        found.append(
            _warning(
                "downward_tail",
                f"the tail bends downward (shape {d.shape_mean:+.2f}): {method} assumes a straight line and "
                "over-predicts.",
                shape_mean=d.shape_mean,
            )
        )
    if d.shape_effect > 2.0 * np.pi / np.sqrt(6.0):  # twice the scatter of the maximum itself
        found.append(
            _warning(
                "far_extrapolation",
                f"n = {format_count(largest)} lies further out than the scores identify the shape of the tail: that "
                f"alone moves the forecast by {d.shape_effect:.1f} tail scales, the maximum's scatter by 1.3.",
                shape_effect=d.shape_effect,
            )
        )
    if len(d.stability) >= 2:
        points = np.array([s.point for s in d.stability])
        half = 0.5 * float(np.median([s.high - s.low for s in d.stability]))
        if np.isfinite(points).all() and np.ptp(points) > half:
            ks = ", ".join(str(s.tail_k) for s in d.stability)
            low, high = float(points.min()), float(points.max())
            found.append(
                _warning(
                    "unstable_over_k",
                    f"the forecast at n = {format_count(largest)} depends on how many scores count as the tail: "
                    f"between p = {format_probability(low)} and {format_probability(high)} for k = {ks}.",
                    lowest=float(np.exp(log_p_from_psi(low))),
                    highest=float(np.exp(log_p_from_psi(high))),
                )
            )
    return found


def _about_target(summary: TailSummary, method: str) -> list[Finding]:
    if not summary.count_table:
        return []
    samples = [j for j, _ in summary.count_table]
    if method == BinomialTail.name:
        text = "probabilities are estimated from counts: the forecast is of the largest true p, mildly too narrow."
    else:
        text = (
            f"probabilities are estimated from {min(samples)} to {max(samples)} samples each: the largest estimates "
            "carry the luckiest noise; method binomial_tail forecasts the true p instead."
        )
    return [_warning("estimated_scores", text, fewest_samples=min(samples), most_samples=max(samples))]


def _missed_mode_note(
    summary: TailSummary, fitted: FittedTail | None, n_deploy: Sequence[int], d: Diagnostics
) -> Finding:
    m, n = summary.count, max(n_deploy)
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
            f". As frequent as one query in m and {MODE_SHIFT:g} tail scales worse, it would lift the worst query "
            f"from p = {format_probability(point)} to {format_probability(lifted)}"
        )
        values["lifted_risk"] = float(np.exp(log_p_from_psi(lifted)))
    return Finding("missed_mode", "note", sentence + ".", values)


def _warning(code: str, sentence: str, **values: float) -> Finding:
    return Finding(code, "warning", sentence, values)
