"""From the scores of one evaluation to the worst query of a deployment: :func:`forecast`.

Beside the worst query, the two other risks of Jones et al. 2025 (arXiv 2502.16797), as we read them: the *behaviour
frequency* at a threshold tau is the share of queries with ``p > tau``; the *aggregate risk* of n queries is the
probability that at least one of them fails when each is asked once, ``1 - exp(n E log(1 - p))``.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rl_forecast.findings import Finding
from rl_forecast.forecasting.methods import FittedTail, Forecaster, NoTailError, make_forecaster
from rl_forecast.forecasting.methods.binomial_tail import BinomialTailFit
from rl_forecast.forecasting.methods.ensemble import TailEnsemble, beta_nodes
from rl_forecast.forecasting.methods.shape_prior import default_tail_k
from rl_forecast.forecasting.warnings import Diagnostics, diagnose, forecast_warnings
from rl_forecast.scores import log_p_from_psi, log_survival_from_psi, psi_from_p
from rl_forecast.summary import TailSummary, summarize_scores

# equal-weight nodes of the standard normal distribution
_NORMAL_X, _NORMAL_W = special.ndtri((np.arange(11) + 0.5) / 11), np.full(11, 1.0 / 11)


@dataclass(frozen=True)
class RiskEstimate:
    """A risk with its interval, as probabilities: floats, or arrays with one entry per deployment size.

    :param level: nominal coverage of the interval
    :param basis: where it comes from: ``"counted"``, ``"tail"``, ``"scores and tail"`` or ``"counts"``
    """

    estimate: float | NDArray[np.float64]
    low: float | NDArray[np.float64]
    high: float | NDArray[np.float64]
    level: float
    basis: str


@dataclass(frozen=True)
class Forecast:
    """Forecast of the worst of n new queries, for one or several n.

    Arrays have one row per deployment size, shape (L, ...). Where the scores hold no tail, the numbers that would need
    one are ``nan`` and only distribution-free statements remain.

    :param n_deploy: deployment sizes n, in the order given
    :param forecaster: the method with its options
    :param tail_k: number of largest scores it was to use; None where the method uses all
    :param fitted: the fitted tail, None where there is none
    :param reason: why there is no tail
    """

    summary: TailSummary
    n_deploy: tuple[int, ...]
    forecaster: Forecaster
    tail_k: int | None
    fitted: FittedTail | None
    reason: str = ""

    @property
    def status(self) -> Literal["ok", "degenerate"]:
        """Whether the scores hold a tail."""
        return "degenerate" if self.fitted is None else "ok"

    @property
    def method(self) -> str:
        """Name of the forecaster."""
        return self.forecaster.name

    @cached_property
    def worst_query_psi(self) -> NDArray[np.float64]:
        """Point forecast of the largest score among n queries, shape (L,), psi."""
        if self.fitted is None:
            return np.full(len(self.n_deploy), np.nan)
        return np.array([self.fitted.point(n) for n in self.n_deploy])

    @property
    def worst_query_risk(self) -> NDArray[np.float64]:
        """Point forecast of the largest failure probability among n queries, shape (L,), probability."""
        return np.asarray(np.exp(log_p_from_psi(self.worst_query_psi)))

    @property
    def worst_query_log10_risk(self) -> NDArray[np.float64]:
        """The same as ``log10 p``, shape (L,): it does not underflow."""
        return np.asarray(log_p_from_psi(self.worst_query_psi) / np.log(10.0))

    def prediction_interval(
        self, level: float = 0.90, unit: Literal["probability", "psi", "log10"] = "probability"
    ) -> NDArray[np.float64]:
        """Equal-tailed prediction interval for the *realised* worst query of n, shape (L, 2).

        :param level: coverage, probability in (0, 1)
        :param unit: ``"probability"``, ``"psi"`` or ``"log10"`` (of p)
        :raises ValueError: level outside (0, 1), or another unit
        """
        _check_level(level)
        if self.fitted is None:
            return np.full((len(self.n_deploy), 2), np.nan)
        if unit not in ("probability", "psi", "log10"):
            raise ValueError(f"unit must be 'probability', 'psi' or 'log10', it is {unit!r}")
        ends = (0.5 - level / 2, 0.5 + level / 2)
        psi = np.array([[self.fitted.quantile(q, n) for q in ends] for n in self.n_deploy])
        if unit == "psi":
            return psi
        log_p = log_p_from_psi(psi)
        return np.asarray(np.exp(log_p) if unit == "probability" else log_p / np.log(10.0))

    def exceedance(self, p: float) -> NDArray[np.float64]:
        """Predictive probability that some query of n has a failure probability above ``p``, shape (L,).

        :raises ValueError: p outside [0, 1)
        """
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must lie in [0, 1), it is {p}")
        if self.fitted is None:
            return np.full(len(self.n_deploy), np.nan)
        psi = float(psi_from_p(p))
        return np.array([self.fitted.exceedance(psi, n) for n in self.n_deploy])

    @property
    def new_record_probability(self) -> NDArray[np.float64]:
        """``n / (n + m)``, shape (L,): P(the worst of n new queries is worse than all m seen), whatever the tail."""
        n = np.array(self.n_deploy, dtype=np.float64)
        return n / (n + self.summary.count)

    def behavior_frequency(self, tau: float, level: float = 0.90) -> RiskEstimate:
        """Share of queries whose failure probability exceeds ``tau``, with an interval.

        Up to the largest score it is counted, with the Clopper-Pearson interval, which needs no model. Beyond, it is
        the median and the quantiles of what the fitted tail leaves possible.

        :param tau: threshold, probability in (0, 1)
        :param level: coverage of the interval, probability
        :raises ValueError: tau or level outside (0, 1), tau below every score the summary kept
        """
        _check_level(level)
        if not 0.0 < tau < 1.0:
            raise ValueError(f"tau must lie in (0, 1), it is {tau}")
        psi = float(psi_from_p(tau))
        summary, fitted = self.summary, self.fitted
        top, m = summary.top, summary.count
        # counts: the largest estimated score is not the largest true one, so the model begins at its own threshold
        start = fitted.threshold if isinstance(fitted, BinomialTailFit) else float(top[0])
        if fitted is not None and psi >= start and summary.n_pos_inf == 0:
            middle, low, high = (fitted.ensemble.frequency_quantile(q, psi) for q in _levels(level))
            return RiskEstimate(middle, low, high, level, basis="tail")
        above = int((top > psi).sum())
        if above == top.size < m:
            raise ValueError(
                f"tau = {tau:g} lies below the {top.size} largest of {m} scores, which is all the summary kept: at "
                f"least a share {top.size / m:.3g} of queries exceeds it; keep more with a larger capacity"
            )
        low, high = _clopper_pearson(above, m, level)
        return RiskEstimate(above / m, low, high, level, basis="counted")

    def aggregate_risk(self, level: float = 0.90) -> RiskEstimate:
        """Probability of at least one failure when each of n queries is asked once, ``1 - exp(n E log(1 - p))``, (L,).

        The body of the mean comes from the scores, its tail beyond the k-th score from the fitted tail. The interval is
        that of the expected value: over what the tail, its rate and the mean of the body leave possible. Scores
        estimated from counts are not averaged (Jeffreys' half failure in each would add up): there the pooled failure
        rate r gives ``1 - (1 - r)^n``, with an interval at the effective sample size of the scatter between queries.
        """
        _check_level(level)
        summary, fitted = self.summary, self.fitted
        n = np.array(self.n_deploy, dtype=np.float64)
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

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """Numbers behind the warnings."""
        return diagnose(self)

    @cached_property
    def warnings(self) -> tuple[Finding, ...]:
        """What the reader should know; the missed-mode note is always the last."""
        return forecast_warnings(self)

    def to_dict(self, level: float = 0.90) -> dict[str, Any]:
        """JSON-ready form, documented key by key in ``docs/forecasting.md``; ``nan`` becomes None."""
        aggregate = self.aggregate_risk(level)
        values: dict[str, tuple[Any, ...]] = {
            "worst_query_risk": (self.worst_query_risk, *self.prediction_interval(level).T),
            "worst_query_log10_risk": (self.worst_query_log10_risk, *self.prediction_interval(level, "log10").T),
            "worst_query_psi": (self.worst_query_psi, *self.prediction_interval(level, "psi").T),
            "aggregate_risk": (aggregate.estimate, aggregate.low, aggregate.high),
        }
        rows = [
            {
                "n_deploy": n,
                **{key: {"point": x[i], "low": low[i], "high": high[i]} for key, (x, low, high) in values.items()},
                "new_record_probability": self.new_record_probability[i],
            }
            for i, n in enumerate(self.n_deploy)
        ]
        result = {
            "schema": "rl-forecast/forecast/1",
            "status": self.status,
            "reason": self.reason,
            "method": self.method,
            "tail_k": self.tail_k,
            "level": level,
            "n_eval": self.summary.count,
            "n_unscored": self.summary.n_unscored,
            "largest_risk_seen": float(np.exp(log_p_from_psi(self.summary.top[0]))),
            "tail_scale_psi": self.fitted.tail_scale if self.fitted else None,
            "forecasts": rows,
            "warnings": [w.to_dict() for w in self.warnings],
            "diagnostics": asdict(self.diagnostics),
        }
        plain: dict[str, Any] = _plain(result)
        return plain


def forecast(
    p: Any = None,
    *,
    n_deploy: int | Sequence[int],
    log_p: Any = None,
    psi: Any = None,
    failures: Any = None,
    samples: Any = None,
    method: str | Forecaster | None = None,
    tail_k: int | None = None,
    capacity: int = TailSummary.DEFAULT_CAPACITY,
) -> Forecast:
    """Forecast the worst of n deployment queries from the scores of an evaluation.

    Give the scores in exactly one form: ``p``, ``log_p``, ``psi``, or ``failures`` with ``samples``. Lists, numpy
    arrays, torch tensors and polars or pandas series are taken. Prefer ``log_p``: small probabilities underflow.

    :param p: failure probability of each evaluated query, shape (m,); or a :class:`TailSummary` made elsewhere
    :param n_deploy: deployment sizes n, whole numbers of at least 1
    :param log_p: natural log of the failure probabilities, shape (m,)
    :param psi: scores ``-log(-log p)``, shape (m,)
    :param failures: failures of each query in repeated sampling, shape (m,)
    :param samples: samples of each query, shape (m,) or one number for all
    :param method: name of a forecaster, or one with options such as ``GumbelTail(debias=True)``. None:
        ``shape_prior``, or ``binomial_tail`` for counts so coarse that fewer than eight distinct values are among the
        ten largest
    :param tail_k: number of largest scores used; None: the method's own
    :param capacity: number of largest scores kept exactly; more let ``behavior_frequency`` look deeper into the body
    :raises ValueError: no scores, several forms at once, NaN, values out of range, unknown method, n below 1

    The worst of the next 1000 and 100 000 queries, from 500 evaluated ones whose worst had p = 0.022:

    >>> p = np.random.default_rng(0).beta(0.5, 200, size=500)
    >>> fc = forecast(p, n_deploy=[1_000, 100_000])
    >>> fc.worst_query_risk.round(3)
    array([0.032, 0.054])
    >>> fc.prediction_interval(0.90).round(2)  # where the realised worst will lie
    array([[0.02, 0.08],
           [0.03, 0.25]])
    >>> [warning.code for warning in fc.warnings]
    ['far_extrapolation', 'unstable_over_k', 'missed_mode']
    """
    forms = {"log_p": log_p, "psi": psi, "failures": failures, "samples": samples}
    if isinstance(p, TailSummary) and any(x is not None for x in forms.values()):
        raise ValueError("give a summary or scores, not both")
    summary = p if isinstance(p, TailSummary) else summarize_scores(p, **forms, capacity=capacity)
    sizes = _deployment_sizes(n_deploy)
    if method is None or isinstance(method, str):
        forecaster = make_forecaster(_default_method(summary) if method is None else method, tail_k)
    elif tail_k is not None:
        raise ValueError("tail_k belongs to a method given by name: set it on the forecaster itself")
    else:
        forecaster = method
    used: int | None = getattr(forecaster, "tail_k", None)
    if forecaster.name == "shape_prior" and used is None:
        used = default_tail_k(summary.count - summary.n_pos_inf)
    try:
        fitted = forecaster.fit(summary)
    except NoTailError as error:
        return Forecast(summary, sizes, forecaster, used, None, str(error))
    return Forecast(summary, sizes, forecaster, used, fitted)


def _default_method(summary: TailSummary) -> str:
    # with fewer distinct values sampling noise dominates the largest scores, and a nominal coverage of 90 % can fall
    # to nothing (benchmarks/counts.py)
    coarse = summary.count_table and np.unique(summary.top[:10]).size < min(8, summary.top.size)
    return "binomial_tail" if coarse else "shape_prior"


def _deployment_sizes(n_deploy: int | Sequence[int]) -> tuple[int, ...]:
    sizes = []
    for n in np.atleast_1d(np.asarray(n_deploy, dtype=object)).tolist():
        try:
            whole = int(n) if isinstance(n, float | np.floating) and float(n).is_integer() else operator.index(n)
        except TypeError:
            whole = 0
        if whole < 1:
            raise ValueError(f"n_deploy must be whole numbers of at least 1, found {n!r}")
        sizes.append(whole)
    if not sizes:
        raise ValueError("n_deploy is empty: give at least one deployment size")
    return tuple(sizes)


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), it is {level}")


def _clopper_pearson(successes: float, trials: float, level: float) -> tuple[float, float]:
    """Exact binomial interval. Unlike scipy's it takes fractional counts, for effective sample sizes."""
    alpha = 0.5 * (1.0 - level)
    low = float(special.betaincinv(successes, trials - successes + 1.0, alpha)) if successes > 0 else 0.0
    high = float(special.betaincinv(successes + 1.0, trials - successes, 1.0 - alpha)) if successes < trials else 1.0
    return low, high


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
    return rate, *_clopper_pearson(rate * effective, effective, level)


def _plain(x: Any) -> Any:
    """Nested containers with every non-finite number as None, for strict JSON."""
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if isinstance(x, float | np.floating):
        return float(x) if np.isfinite(x) else None
    return x
