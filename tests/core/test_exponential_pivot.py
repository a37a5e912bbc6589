"""The exact pivot against its tabulated constants, an independent integral and simulation."""

import numpy as np
import pytest
from scipy import integrate, stats

from rl_forecast.forecasting.methods.exponential_pivot import ExponentialPivot, pivot_quantile
from rl_forecast.summary import TailSummary

# k, n/m, W at .05, .5, .95, .99 in the limit of large m
TABLE = [
    (10, 1, 0.957, 2.736, 6.903, 10.175),
    (10, 10, 2.696, 5.185, 10.815, 15.113),
    (10, 100, 4.264, 7.615, 14.964, 20.485),
    (20, 1, 1.683, 3.422, 6.900, 9.280),
    (20, 10, 3.564, 5.811, 10.019, 12.789),
    (20, 100, 5.334, 8.189, 13.288, 16.541),
    (50, 10, 4.693, 6.671, 10.008, 12.064),
    (100, 10, 5.516, 7.335, 10.347, 12.190),
]


@pytest.mark.parametrize(("k", "ratio", "q05", "q50", "q95", "q99"), TABLE)
def test_tabulated_quantiles(k: int, ratio: int, q05: float, q50: float, q95: float, q99: float) -> None:
    found = [pivot_quantile(level, k, 10**7, ratio * 10**7) for level in (0.05, 0.5, 0.95, 0.99)]
    np.testing.assert_allclose(found, [q05, q50, q95, q99], atol=6e-4)


@pytest.mark.parametrize(("k", "m", "n", "w"), [(2, 50, 500, 3.0), (10, 100, 1_000, 6.0), (20, 1_000, 10_000, 9.0)])
def test_finite_m_distribution_is_the_double_integral(k: int, m: int, n: int, w: float) -> None:
    """P(W <= w) integrated over sigma and the rate by scipy's adaptive quadrature."""

    def inner(g: float) -> float:
        survival = np.exp(-w * g / (k - 1))
        beta = stats.beta(k, m - k + 1)
        return float(
            stats.gamma.pdf(g, k - 1)
            * integrate.quad(lambda u: beta.pdf(u) * (1 - u * survival) ** n, 0, 1, points=[k / m, 4 * k / m])[0]
        )

    expected, _ = integrate.quad(inner, 0, k - 1 + 20 * np.sqrt(k), limit=200)
    fit = ExponentialPivot(k).fit(TailSummary.from_scores(np.arange(m, dtype=float)))
    threshold, scale = fit.ensemble.threshold, fit.tail_scale
    assert 1.0 - fit.exceedance(threshold + scale * w, n) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("k", "m", "n"), [(2, 30, 300), (10, 100, 1_000), (20, 200, 200), (20, 200, 50)])
def test_coverage_on_an_exponential_tail(k: int, m: int, n: int) -> None:
    rng = np.random.default_rng(17)
    reps, below, inside = 4_000, 0, 0
    maxima = -np.log(-np.expm1(np.log(rng.random(reps)) / n))
    for realised in maxima:
        fit = ExponentialPivot(k).fit(TailSummary.from_scores(rng.exponential(size=m)))
        low, middle, high = (fit.quantile(q, n) for q in (0.05, 0.5, 0.95))
        inside += low <= realised <= high
        below += realised <= middle
    se = np.sqrt(0.09 / reps)
    assert abs(inside / reps - 0.90) < 4 * se
    assert abs(below / reps - 0.50) < 4 * np.sqrt(0.25 / reps)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
def test_levels_outside_the_unit_interval_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        pivot_quantile(level, 10, 100, 1_000)
