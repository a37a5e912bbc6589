"""Jones et al.'s line: against scipy's regression, its exact pivot against tables and simulation."""

import numpy as np
import pytest
from scipy import stats

from rl_forecast.forecasting.methods.gumbel_tail import (
    GumbelTail,
    PlottingPosition,
    line_draws,
    line_pivot_quantile,
    log_plotting_positions,
)
from rl_forecast.summary import TailSummary

# k, n/m, pivot (M - Q) / T at .05, .5, .95 (m = 1000); the last three by the finer computation
PIVOTS = [
    (10, 1, -1.467, -0.088, 3.484),
    (10, 10, -2.532, -0.456, 4.583),
    (10, 100, -3.763, -0.834, 5.891),
    (20, 1, -1.529, -0.055, 3.157),
    (20, 10, -2.411, -0.337, 3.729),
    (20, 100, -3.409, -0.627, 4.467),
    (50, 10, -2.140, -0.153, 3.219),
]


@pytest.mark.parametrize(("k", "ratio", "q05", "q50", "q95"), PIVOTS)
def test_tabulated_pivots(k: int, ratio: int, q05: float, q50: float, q95: float) -> None:
    found = [line_pivot_quantile(level, k, 1_000, 1_000 * ratio) for level in (0.05, 0.5, 0.95)]
    np.testing.assert_allclose(found[:2], [q05, q50], atol=0.005)
    assert found[2] == pytest.approx(q95, abs=0.04)


def test_line_is_least_squares_of_log_survival() -> None:
    psi = np.random.default_rng(0).gumbel(size=300)
    fit = GumbelTail(10).fit_finite(TailSummary.from_scores(psi))
    top = np.sort(psi)[::-1][:10]
    expected = stats.linregress(top, np.log(np.arange(1, 11) / 300))
    assert (fit.slope, fit.intercept) == pytest.approx((expected.slope, expected.intercept))
    # equation 5 with its sign put right: where the line reaches 1 / n
    assert fit.slope * fit.point(12_345) + fit.intercept == pytest.approx(-np.log(12_345))


@pytest.mark.parametrize("position", ["rank", "midpoint", "expected"])
def test_interval_covers_on_an_exponential_tail(position: PlottingPosition) -> None:
    rng = np.random.default_rng(8)
    m, n, reps = 200, 4_000, 3_000
    maxima = -np.log(-np.expm1(np.log(rng.random(reps)) / n))
    inside = above = 0
    for realised in maxima:
        fit = GumbelTail(10, position, debias=True).fit(TailSummary.from_scores(rng.exponential(size=m)))
        inside += fit.quantile(0.05, n) <= realised <= fit.quantile(0.95, n)
        above += realised > fit.point(n)
    assert abs(inside / reps - 0.90) < 4 * np.sqrt(0.09 / reps) + 1e-3
    assert abs(above / reps - 0.50) < 4 * np.sqrt(0.25 / reps) + 1e-3


def test_expected_positions_are_the_means_of_log_survival() -> None:
    m, k = 50, 5
    log_survival = np.log(np.sort(np.random.default_rng(1).random((200_000, m)), axis=1)[:, :k])
    np.testing.assert_allclose(log_plotting_positions(k, m, "expected"), log_survival.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.exp(log_plotting_positions(k, m, "midpoint")), (np.arange(k) + 0.5) / m)
    with pytest.raises(ValueError, match="plotting_position"):
        log_plotting_positions(k, m, "weibull")  # type: ignore[arg-type]


def test_draws_are_lines_through_sorted_exponentials() -> None:
    k, m = 5, 40
    x = np.sort(np.random.default_rng(0).exponential(size=(100_000, m)), axis=1)[:, ::-1][:, :k]
    dx, y = x - x.mean(axis=1, keepdims=True), np.log(np.arange(1, k + 1) / m)
    plain = np.square(dx).sum(axis=1) / np.abs(dx @ (y - y.mean())), x.mean(axis=1)
    levels = [0.1, 0.5, 0.9]
    for drawn, simulated in zip(line_draws(k, m), plain, strict=True):
        np.testing.assert_allclose(np.quantile(drawn, levels), np.quantile(simulated, levels), rtol=0.01)
    np.testing.assert_allclose(np.cov(line_draws(k, m)), np.cov(plain), rtol=0.05)
