"""Backtests on random splits: the metrics by hand, and what the splits cannot add."""

import json

import numpy as np
import pytest

from rl_forecast import TailSummary, make_forecaster
from rl_forecast.forecasting.backtest import backtest
from rl_forecast.scores import log_p_from_psi

PSI = np.random.default_rng(0).exponential(0.5, size=3_000) - 2.0


def test_metrics_are_those_of_a_plain_loop() -> None:
    m, n, splits, level = 100, 400, 25, 0.8
    result = backtest(PSI, m, n, ("gumbel_tail", "shape_prior"), splits, level=level, seed=7)
    rng = np.random.default_rng(7)
    errors, log_errors, inside, scores = [], [], [], []
    for _ in range(splits):
        x = rng.choice(PSI, m + n, replace=False)
        fit = make_forecaster("gumbel_tail").fit(TailSummary.from_scores(x[:m]))
        worst, low, high = x[m:].max(), fit.quantile(0.1, n), fit.quantile(0.9, n)
        errors.append(fit.point(n) - worst)
        log_errors.append((log_p_from_psi(fit.point(n)) - log_p_from_psi(worst)) / np.log(10))
        inside.append(low <= worst <= high)
        scores.append(high - low + 10 * (max(low - worst, 0) + max(worst - high, 0)))
    found = result.metrics[0]
    assert found.mean_absolute_error == pytest.approx(np.abs(errors).mean())
    assert found.mean_absolute_orders == pytest.approx(np.abs(log_errors).mean())
    assert found.bias == pytest.approx(np.mean(errors))
    assert found.under_prediction_rate == pytest.approx(np.mean(np.array(errors) < 0))
    assert found.coverage == pytest.approx(np.mean(inside))
    assert found.interval_score == pytest.approx(np.mean(scores))
    assert (result.n_blocks, result.n_scores) == (6, 3_000)


def test_splits_share_their_maxima() -> None:
    result = backtest(PSI, 1_000, 2_000, ("gumbel_tail",), n_splits=60)
    assert result.n_blocks == 1
    # two thirds of the splits have the largest score of all in their deployment part
    assert result.n_distinct_maxima <= 10


def test_degenerate_splits_are_counted_and_certain_failures_are_no_error() -> None:
    coarse = np.where(np.arange(400) < 4, 1.0, 0.0)
    row = backtest(coarse, 20, 100, ("exponential_pivot",), n_splits=50).metrics[0]
    assert 0 < row.n_failed < 50
    certain = np.append(PSI[:500], np.full(50, np.inf))
    result = backtest(certain, 100, 200, ("shape_prior",), n_splits=20)
    assert result.metrics[0].coverage == 1.0  # p = 1 is in every deployment part, and forecast
    assert result.metrics[0].mean_absolute_error == 0.0
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("psi", "m", "n", "message"),
    [
        (PSI, 2_000, 1_001, "fewer than m"),
        (np.append(PSI, np.nan), 10, 10, "NaN"),
        (PSI, 1, 10, "n_eval must be at least 2"),
        (PSI, 10, 0, "n_deploy"),
    ],
)
def test_impossible_backtests_are_refused(psi: np.ndarray, m: int, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backtest(psi, m, n)
