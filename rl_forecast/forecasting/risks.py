"""The two risks of Jones et al. 2025 (arXiv 2502.16797) beside the worst query: how often, and in total.

Definitions as used here (our reading): the *behaviour frequency* at a threshold tau is the share of queries with
``p > tau``; the *aggregate risk* of n queries is the probability that at least one of them fails when each is asked
once, ``1 - exp(n E log(1 - p))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from rl_forecast.forecasting.methods.binomial_tail import BinomialTailFit
from rl_forecast.forecasting.methods.ensemble import TailEnsemble, beta_nodes
from rl_forecast.scores import log_survival_from_psi, psi_from_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rl_forecast.forecasting.forecast import Forecast
    from rl_forecast.summary import TailSummary

__all__ = ["RiskEstimate", "aggregate_risk", "behavior_frequency", "clopper_pearson"]

# equal-weight nodes of the standard normal distribution
_NORMAL_X, _NORMAL_W = special.ndtri((np.arange(11) + 0.5) / 11), np.full(11, 1.0 / 11)


@dataclass(frozen=True)
class RiskEstimate:
    """A risk with its interval.

    :param estimate: probability; a float, or an array with one entry per deployment size
    :param low: lower end of the interval, same shape
    :param high: upper end, same shape
    :param level: nominal coverage of the interval, probability
    :param basis: where it comes from: ``"counted"``, ``"tail"``, ``"scores and tail"`` or ``"counts"``
    """

    estimate: float | NDArray[np.float64]
    low: float | NDArray[np.float64]
    high: float | NDArray[np.float64]
    level: float
    basis: str


def clopper_pearson(successes: float, trials: float, level: float) -> tuple[float, float]:
    """Exact binomial interval. Unlike scipy's it takes fractional counts, for effective sample sizes."""
    alpha = 0.5 * (1.0 - level)
    low = float(special.betaincinv(successes, trials - successes + 1.0, alpha)) if successes > 0 else 0.0
    high = float(special.betaincinv(successes + 1.0, trials - successes, 1.0 - alpha)) if successes < trials else 1.0
    return low, high


def behavior_frequency(fc: Forecast, tau: float, level: float) -> RiskEstimate:
    """Share of queries whose failure probability exceeds ``tau``, with an interval.

    Up to the largest score it is counted, with the Clopper-Pearson interval, which needs no model. Beyond, it is the
    median and the quantiles of what the fitted tail leaves possible.

    :param tau: threshold, probability in (0, 1)
    :param level: coverage of the interval, probability
    :raises ValueError: tau outside (0, 1), below every score the summary kept, or beyond the data without a tail
    """
    if not 0.0 < tau < 1.0:
        raise ValueError(f"tau must lie in (0, 1), it is {tau}")
    psi = float(psi_from_p(tau))
    summary, fitted = fc.summary, fc.fitted
    top, m = summary.top, summary.count
    # counts: the largest of the estimated scores is not the largest true one, so the model begins at its own threshold
    start = fitted.threshold if isinstance(fitted, BinomialTailFit) else float(top[0])
    if fitted is not None and psi >= start and summary.n_pos_inf == 0:
        middle, low, high = (fitted.ensemble.frequency_quantile(q, psi) for q in _levels(level))
        return RiskEstimate(middle, low, high, level, basis="tail")
    above = int((top > psi).sum())
    if above == top.size < m:
        raise ValueError(
            f"tau = {tau:g} lies below the {top.size} largest of {m} scores, which is all the summary kept: at least a "
            f"share {top.size / m:.3g} of queries exceeds it; keep more with a larger capacity"
        )
    low, high = clopper_pearson(above, m, level)
    return RiskEstimate(above / m, low, high, level, basis="counted")


def aggregate_risk(fc: Forecast, level: float) -> RiskEstimate:
    """Probability of at least one failure when each of n queries is asked once, ``1 - exp(n E log(1 - p))``.

    The body of the mean comes from the scores, its tail beyond the k-th score from the fitted tail. The interval is
    that of the expected value: over what the tail, its rate and the mean of the body leave possible. Scores estimated
    from counts are not averaged (Jeffreys' half failure in each would add up): there the pooled failure rate r gives
    ``1 - (1 - r)^n``, with a Clopper-Pearson interval at the effective sample size of the scatter between queries.

    :param level: coverage of the interval, probability
    :return: estimates of shape (L,)
    """
    summary, fitted = fc.summary, fc.fitted
    n = np.array(fc.n_deploy, dtype=np.float64)
    if summary.count_table:
        with np.errstate(divide="ignore"):
            risk, low, high = (-np.expm1(n * np.log1p(-rate)) for rate in _pooled_rate(summary, level))
        return RiskEstimate(risk, low, high, level, basis="counts")
    if summary.n_pos_inf:
        one = np.ones_like(n)
        return RiskEstimate(one, one, one, level, basis="counted")
    if fitted is None:
        mean, sd = _body(summary.sum_log_survival, summary.sum_log_survival_squared, summary.count)
        values, weight = mean + sd * _NORMAL_X, _NORMAL_W
    else:
        values, weight = _expected_log_survival(summary, fitted.ensemble)
    order = np.argsort(-values)
    position = np.cumsum(weight[order]) - 0.5 * weight[order]
    mean_log_survival = np.minimum(np.interp(_levels(level), position, values[order]), 0.0)
    risk, low, high = (-np.expm1(n * x) for x in mean_log_survival)
    return RiskEstimate(risk, low, high, level, basis="counted" if fitted is None else "scores and tail")


def _levels(level: float) -> tuple[float, float, float]:
    """Median and ends of an interval."""
    return 0.5, 0.5 - level / 2, 0.5 + level / 2


def _body(total: float, total_squared: float, count: int) -> tuple[float, float]:
    """Mean of ``log(1 - p)`` over ``count`` scores, and the standard error of it."""
    mean = total / count
    variance = max(total_squared / count - mean * mean, 0.0)
    return mean, float(np.sqrt(variance / count))


def _expected_log_survival(
    summary: TailSummary, ensemble: TailEnsemble
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of ``E log(1 - p)`` left possible, and their weights."""
    ensemble = ensemble.thinned(2048)
    tail = ensemble.tail_mean(log_survival_from_psi)
    if not np.isfinite(ensemble.threshold):  # a model of all scores: no body is left to the data
        finite_share = summary.n_finite / summary.count
        return finite_share * tail, ensemble.weight
    above = summary.top[summary.top >= ensemble.threshold]
    n_body = summary.count - above.size
    if n_body:
        log_survival = log_survival_from_psi(above)
        total = min(summary.sum_log_survival - float(log_survival.sum()), 0.0)
        body, body_sd = _body(total, summary.sum_log_survival_squared - float(np.square(log_survival).sum()), n_body)
    else:  # the part below the smallest score is at most as dangerous as it
        body, body_sd = float(log_survival_from_psi(summary.top[-1])), 0.0
    if ensemble.rate is None:
        rate = np.exp(ensemble.tails.log_survival(np.array([ensemble.threshold]))[:, 0])
        mean, weight = (1.0 - rate) * body + rate * tail, ensemble.weight
    else:
        u, w = beta_nodes(*ensemble.rate, n_nodes=40)
        mean = ((1.0 - u) * body + np.outer(tail, u)).ravel()
        weight = np.outer(ensemble.weight, w).ravel()
    if body_sd == 0.0:
        return mean, weight
    return (mean[:, None] + body_sd * _NORMAL_X).ravel(), (weight[:, None] * _NORMAL_W).ravel()


def _pooled_rate(summary: TailSummary, level: float) -> tuple[float, float, float]:
    """Mean failure rate over queries, with its interval at the effective sample size (Korn & Graubard 1998)."""
    table = [(*key, repeats) for key, repeats in summary.count_table.items()]
    j, f, repeats = np.array(table, dtype=np.float64).T
    share = f / j
    rate = float(repeats @ share / repeats.sum())
    scatter = float(repeats @ np.square(share - rate)) / max(repeats.sum() - 1.0, 1.0) / repeats.sum()
    samples = float(repeats @ j)
    effective = min(rate * (1.0 - rate) / scatter, samples) if scatter > 0 else samples
    return rate, *clopper_pearson(rate * effective, effective, level)
