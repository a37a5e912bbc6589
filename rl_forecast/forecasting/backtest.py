"""How good would a forecast have been? Random splits of the scores at hand into evaluation and deployment.

The splits overlap: their number adds no information beyond that of the file, whose honest sample size is the number of
disjoint blocks of m + n scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_forecast.forecasting.methods import Forecaster, NoTailError, make_forecaster
from rl_forecast.scores import log_p_from_psi
from rl_forecast.summary import TailSummary

# Unlike training and held-out sets, whose error in log10 p ends at p = 1e-6, a file may be about p = 1e-40: only p = 0
# needs a floor.
_LOWEST_LOG10 = -300.0


@dataclass(frozen=True)
class BacktestMetrics:
    """How one method did over all splits; error = forecast minus realised maximum, psi.

    :param n_failed: splits whose evaluation held no tail to fit
    :param mean_absolute_orders: orders of magnitude of the probability; below 1e-300 all count as equal
    :param bias: mean error
    :param under_prediction_rate: share of splits with a forecast below the realised maximum
    :param coverage: share of splits whose interval holds the realised maximum
    :param above_interval: share of splits whose realised maximum lies above the interval
    :param interval_score: mean width plus ``2 / (1 - level)`` times the distance outside, psi; lower is better
    """

    method: str
    n_failed: int
    mean_absolute_error: float
    mean_absolute_orders: float
    bias: float
    under_prediction_rate: float
    coverage: float
    above_interval: float
    interval_score: float


@dataclass(frozen=True)
class Backtest:
    """Result of :func:`backtest`.

    :param n_blocks: disjoint blocks of m + n scores in the file: the honest sample size
    :param n_distinct_maxima: distinct realised maxima among the splits
    :param level: nominal coverage
    :param metrics: one entry for each method
    """

    n_scores: int
    n_eval: int
    n_deploy: int
    n_splits: int
    n_blocks: int
    n_distinct_maxima: int
    level: float
    metrics: tuple[BacktestMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``nan`` becomes None."""
        state = asdict(self)
        for row in state["metrics"]:
            row.update({k: None for k, v in row.items() if isinstance(v, float) and not np.isfinite(v)})
        return {"schema": "rl-forecast/backtest/1", **state}


def backtest(
    psi: ArrayLike,
    n_eval: int,
    n_deploy: int,
    methods: Sequence[str] = ("shape_prior", "exponential_pivot", "gumbel_tail", "log_normal"),
    n_splits: int = 500,
    tail_k: int | None = None,
    level: float = 0.90,
    seed: int | np.random.Generator = 0,
    advance: Callable[[int], None] | None = None,
) -> Backtest:
    """Backtest forecasters on random splits; every method sees the same splits.

    :param psi: shape (N,), psi scores
    :param n_eval: evaluation scores m of each split
    :param n_deploy: deployment scores n of each split, drawn from the others
    :param methods: names of forecasters
    :param tail_k: number of largest scores used; None: each method's own
    :param level: coverage of the intervals, probability
    :param advance: called with the number of splits done
    :raises ValueError: fewer than m + n scores, NaN, m below 2, no split, an unknown method, level outside (0, 1)

    >>> psi = np.random.default_rng(0).gumbel(size=5_000)
    >>> result = backtest(psi, n_eval=100, n_deploy=1_000, methods=["exponential_pivot"], n_splits=50)
    >>> result.n_blocks, result.n_splits  # the honest sample size is 4, not 50
    (4, 50)
    """
    x = np.asarray(psi, dtype=np.float64)
    forecasters = [make_forecaster(name, tail_k) for name in methods]
    if x.ndim != 1 or np.isnan(x).any():
        raise ValueError("psi must be a vector without NaN")
    if n_eval < 2 or n_deploy < 1 or n_splits < 1 or not 0 < level < 1:
        raise ValueError("n_eval must be at least 2, n_deploy and n_splits at least 1, level between 0 and 1")
    if x.size < n_eval + n_deploy:
        raise ValueError(f"{x.size} scores are fewer than m + n = {n_eval + n_deploy}: take a smaller m or n")
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
    realised = np.empty(n_splits)
    for i in range(n_splits):
        chosen = x[rng.choice(x.size, n_eval + n_deploy, replace=False)]
        realised[i] = chosen[n_eval:].max()
        summary = TailSummary.from_scores(chosen[:n_eval])
        for name, forecaster in zip(methods, forecasters, strict=True):
            rows[name].append(_row(forecaster, summary, n_deploy, level))
        if advance is not None:
            advance(i + 1)
    return Backtest(
        n_scores=int(x.size),
        n_eval=n_eval,
        n_deploy=n_deploy,
        n_splits=n_splits,
        n_blocks=int(x.size // (n_eval + n_deploy)),
        n_distinct_maxima=int(np.unique(realised).size),
        level=level,
        metrics=tuple(_metrics(name, np.array(row), realised, level) for name, row in rows.items()),
    )


def _row(forecaster: Forecaster, summary: TailSummary, n: int, level: float) -> tuple[float, float, float]:
    try:
        fitted = forecaster.fit(summary)
    except NoTailError:
        return float("nan"), float("nan"), float("nan")
    return fitted.point(n), fitted.quantile(0.5 - level / 2, n), fitted.quantile(0.5 + level / 2, n)


def _metrics(name: str, rows: NDArray[np.float64], realised: NDArray[np.float64], level: float) -> BacktestMetrics:
    fitted = ~np.isnan(rows[:, 0])
    (point, low, high), truth = rows[fitted].T, realised[fitted]
    if not truth.size:
        return BacktestMetrics(name, int(rows.shape[0]), *(float("nan"),) * 7)
    with np.errstate(invalid="ignore"):
        # equal infinities (p = 1 forecast and realised, or p = 0) are no error
        error = np.where(point == truth, 0.0, point - truth)
        orders = np.subtract(*(np.maximum(log_p_from_psi(v) / np.log(10.0), _LOWEST_LOG10) for v in (point, truth)))
        # where n is far below m the lower end can lie below all that was kept: it then excludes nothing
        bottom = np.where(np.isnan(low), -np.inf, low)
        outside = np.where(truth < bottom, bottom - truth, np.where(truth > high, truth - high, 0.0))
        score = high - low + 2.0 / (1.0 - level) * outside
    return BacktestMetrics(
        method=name,
        n_failed=int((~fitted).sum()),
        mean_absolute_error=float(np.abs(error).mean()),
        mean_absolute_orders=float(np.abs(orders).mean()),
        bias=float(error.mean()),
        under_prediction_rate=float((point < truth).mean()),
        coverage=float(((bottom <= truth) & (truth <= high)).mean()),
        above_interval=float((truth > high).mean()),
        interval_score=float(score.mean()),
    )
