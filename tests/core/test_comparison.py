"""Comparing sources of queries: probabilities against simulation, budgets against arithmetic."""

import numpy as np
import pytest

from rl_forecast import TailSummary
from rl_forecast.forecasting.compare import compare


def sources(*shifts: float, m: int = 500) -> dict[str, TailSummary]:
    rng = np.random.default_rng(0)
    return {f"s{i}": TailSummary.from_scores(rng.exponential(size=m) + s) for i, s in enumerate(shifts)}


def test_probability_of_the_worst_is_that_of_the_predictive_distributions() -> None:
    found = compare(sources(0.0, 1.0, 2.0), budget=10_000, method="exponential_pivot")
    rng = np.random.default_rng(1)
    levels = rng.random((4_000, 3))
    draws = np.empty_like(levels)
    for j, fc in enumerate(found.forecasts):
        grid = np.linspace(1e-4, 1 - 1e-4, 800)
        assert fc.fitted is not None
        draws[:, j] = np.interp(levels[:, j], grid, [fc.fitted.quantile(float(q), 10_000) for q in grid])
    simulated = np.bincount(draws.argmax(axis=1), minlength=3) / 4_000
    np.testing.assert_allclose(found.probability_worst, simulated, atol=0.03)
    assert sum(found.probability_worst) == pytest.approx(1.0)


def test_equal_sources_win_equally() -> None:
    one = next(iter(sources(0.0).values()))
    found = compare({"a": one, "b": one, "c": one}, budget=1_000)
    np.testing.assert_allclose(found.probability_worst, 1 / 3, atol=1e-3)


def test_the_budget_buys_whole_queries() -> None:
    found = compare(sources(0.0, 0.0), budget=1.0, costs=[0.1, 0.3])
    assert [fc.n_deploy for fc in found.forecasts] == [(10,), (3,)]


@pytest.mark.parametrize(
    ("shifts", "budget", "costs", "message"),
    [
        ((0.0,), 10, None, "at least two"),
        ((0.0, 0.0), 10, [1.0], "1 costs for 2 sources"),
        ((0.0, 0.0), 10, [1.0, 11.0], "buys no query of s1"),
    ],
)
def test_impossible_comparisons_are_refused(
    shifts: tuple[float, ...], budget: float, costs: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(sources(*shifts), budget, costs)


def test_a_source_without_a_tail_is_named() -> None:
    with pytest.raises(ValueError, match="flat: the 20 largest scores hold 1 distinct"):
        compare(sources(0.0) | {"flat": TailSummary.from_scores(np.zeros(50))}, 100)
