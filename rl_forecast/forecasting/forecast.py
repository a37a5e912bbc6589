"""From the scores of one evaluation to the worst query of a deployment: :func:`forecast`."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rl_forecast.forecasting.methods import NoTailError, make_forecaster
from rl_forecast.forecasting.methods.shape_prior import default_tail_k
from rl_forecast.forecasting.risks import RiskEstimate, aggregate_risk, behavior_frequency
from rl_forecast.forecasting.warnings import Diagnostics, diagnose, forecast_warnings
from rl_forecast.scores import is_tensor, log_p_from_psi, psi_from_log_p, psi_from_p
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rl_forecast.findings import Finding
    from rl_forecast.forecasting.methods import FittedTail, Forecaster

__all__ = ["Forecast", "choose_method", "forecast", "summarize_scores"]


@dataclass(frozen=True)
class Forecast:
    """Forecast of the worst of n new queries, for one or several n.

    Arrays have one row per deployment size, shape (L, ...). Where the scores hold no tail, the numbers that would need
    one are ``nan`` and only distribution-free statements remain.

    :param summary: the evaluation
    :param n_deploy: deployment sizes n, in the order given
    :param forecaster: the method with its options
    :param tail_k: number of largest scores it was to use; None where the method uses all
    :param fitted: the fitted tail, None where there is none
    :param reason: why there is no tail; empty where there is one
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
        """Equal-tailed prediction interval for the *realised* worst query of n.

        :param level: coverage, probability in (0, 1)
        :param unit: ``"probability"``, ``"psi"`` or ``"log10"`` (of p)
        :return: shape (L, 2)
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
        """Predictive probability that some query of n has a failure probability above ``p``.

        :param p: probability in [0, 1)
        :return: shape (L,), probability
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
        """``n / (n + m)``, shape (L,): P(the worst of n new queries is worse than all m seen).

        Exact for any exchangeable continuous scores and free of any tail model.
        """
        n = np.array(self.n_deploy, dtype=np.float64)
        return n / (n + self.summary.count)

    def behavior_frequency(self, tau: float, level: float = 0.90) -> RiskEstimate:
        """Share of queries with failure probability above ``tau``; see :func:`.risks.behavior_frequency`."""
        _check_level(level)
        return behavior_frequency(self, tau, level)

    def aggregate_risk(self, level: float = 0.90) -> RiskEstimate:
        """P(at least one failure in n queries asked once each); see :func:`.risks.aggregate_risk`."""
        _check_level(level)
        return aggregate_risk(self, level)

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """Numbers behind the warnings."""
        return diagnose(self)

    @cached_property
    def warnings(self) -> tuple[Finding, ...]:
        """What the reader should know; the missed-mode note is always the last."""
        return forecast_warnings(self)

    def to_dict(self, level: float = 0.90) -> dict[str, Any]:
        """JSON-ready form, documented key by key in ``docs/forecasting.md``; ``nan`` becomes None.

        :param level: coverage of the intervals, probability
        """
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
            "diagnostics": self.diagnostics.to_dict(),
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
    :param method: name of a forecaster, or one with options of its own such as ``GumbelTail(debias=True)``. None:
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
    if isinstance(p, TailSummary):
        if any(x is not None for x in (log_p, psi, failures, samples)):
            raise ValueError("give a summary or scores, not both")
        summary = p
    else:
        summary = summarize_scores(p, log_p=log_p, psi=psi, failures=failures, samples=samples, capacity=capacity)
    sizes = _deployment_sizes(n_deploy)
    if method is None or isinstance(method, str):
        forecaster = make_forecaster(choose_method(summary) if method is None else method, tail_k)
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


def choose_method(summary: TailSummary) -> str:
    """Default method for a summary: ``shape_prior`` unless coarse counts call for ``binomial_tail``.

    Coarse means fewer than eight distinct values among the ten largest. With more, the sampling noise matters little;
    with fewer it dominates the largest scores, and coverage of a nominal 90 % can fall to nothing
    (``benchmarks/counts.py``).
    """
    coarse = summary.count_table and np.unique(summary.top[:10]).size < min(8, summary.top.size)
    return "binomial_tail" if coarse else "shape_prior"


def summarize_scores(
    p: Any = None,
    *,
    log_p: Any = None,
    psi: Any = None,
    failures: Any = None,
    samples: Any = None,
    capacity: int = TailSummary.DEFAULT_CAPACITY,
) -> TailSummary:
    """Summary of scores given in exactly one form; parameters as in :func:`forecast`.

    :raises ValueError: no form or several, a scalar, NaN or values out of range
    """
    given = [name for name, x in (("p", p), ("log_p", log_p), ("psi", psi), ("failures", failures)) if x is not None]
    if len(given) != 1:
        what = f"got {' and '.join(given)}" if given else "got none"
        raise ValueError(f"give the scores in exactly one form, p, log_p, psi or failures with samples: {what}")
    if (failures is None) != (samples is None):
        raise ValueError("failures and samples belong together: give both")
    if failures is not None:
        j = samples if np.ndim(samples) == 0 else _vector(samples, "samples")
        return TailSummary.from_counts(_vector(failures, "failures"), j, capacity)
    if p is not None:
        return TailSummary.from_scores(psi_from_p(_vector(p, "p")), capacity)
    if log_p is not None:
        return TailSummary.from_scores(psi_from_log_p(_vector(log_p, "log_p")), capacity)
    return TailSummary.from_scores(_vector(psi, "psi"), capacity)


def _vector(x: Any, name: str) -> NDArray[np.float64]:
    """Any array-like as a float64 vector."""
    if is_tensor(x):
        x = x.detach().cpu().double().numpy()
    elif hasattr(x, "to_numpy"):  # polars and pandas series
        x = x.to_numpy()
    try:
        vector = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, its shape is {vector.shape}")
    return vector


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


def _plain(x: Any) -> Any:
    """Nested containers with every non-finite number as None, for strict JSON."""
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if isinstance(x, float | np.floating):
        return float(x) if np.isfinite(x) else None
    return x
