"""Summaries: merging shards is the same as summarising the whole."""

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_forecast.forecasting.forecast import forecast
from rl_forecast.scores import log_survival_from_psi
from rl_forecast.summary import TailSummary

scores = st.lists(
    st.one_of(st.floats(-7, 30), st.sampled_from([-np.inf, np.inf, 0.0, 1.0])), min_size=1, max_size=60
).map(np.array)


def assert_same(a: TailSummary, b: TailSummary) -> None:
    assert (a.count, a.n_neg_inf, a.n_pos_inf, a.n_unscored) == (b.count, b.n_neg_inf, b.n_pos_inf, b.n_unscored)
    np.testing.assert_array_equal(a.top, b.top)
    assert a.count_table == b.count_table
    for name in ("mean_psi", "sum_squared_deviations", "sum_log_survival", "sum_log_survival_squared"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-11, abs=1e-11)


@given(scores, scores, scores)
@settings(max_examples=150)
def test_merge_is_the_whole_in_any_order(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    parts = [TailSummary.from_scores(x, capacity=20) for x in (a, b, c)]
    whole = TailSummary.from_scores(np.concatenate([a, b, c]), capacity=20)
    assert_same(parts[0].merge(parts[1]).merge(parts[2]), whole)
    assert_same(parts[2].merge(parts[0].merge(parts[1])), whole)


def test_forecast_of_merged_shards_is_bit_equal_to_that_of_the_whole() -> None:
    psi = np.random.default_rng(3).gumbel(size=5_000)
    shards = [TailSummary.from_scores(x) for x in np.array_split(psi, 7)]
    merged = reduce(TailSummary.merge, (shards[i] for i in (4, 0, 6, 2, 1, 5, 3)))
    one, other = (forecast(x, n_deploy=[10**4, 10**6]) for x in (merged, TailSummary.from_scores(psi)))
    np.testing.assert_array_equal(one.worst_query_psi, other.worst_query_psi)
    np.testing.assert_array_equal(one.prediction_interval(), other.prediction_interval())


def test_moments_are_those_of_the_scores() -> None:
    psi = np.random.default_rng(0).normal(1e6, 1.0, size=1_000)  # a sum of squares would lose all digits here
    summary = reduce(TailSummary.merge, (TailSummary.from_scores(x) for x in np.array_split(psi, 9)))
    assert summary.mean_psi == pytest.approx(psi.mean(), rel=1e-14)
    assert summary.sum_squared_deviations == pytest.approx(psi.var() * psi.size, rel=1e-9)


def test_counts_merge_and_keep_their_table() -> None:
    rng = np.random.default_rng(1)
    f, j = rng.integers(0, 5, size=40), rng.integers(5, 8, size=40)
    whole = TailSummary.from_counts(f, j)
    assert_same(TailSummary.from_counts(f[:13], j[:13]).merge(TailSummary.from_counts(f[13:], j[13:])), whole)
    assert sum(whole.count_table.values()) == 40
    assert whole.count_table[(6, 2)] == int(((j == 6) & (f == 2)).sum())
    with pytest.raises(ValueError, match="do not merge"):
        whole.merge(TailSummary.from_scores([1.0]))


def test_aggregate_sums_skip_certain_failures() -> None:
    summary = TailSummary.from_scores([np.inf, 0.0, -np.inf])
    assert summary.sum_log_survival == pytest.approx(float(log_survival_from_psi(0.0)))
    assert (summary.n_pos_inf, summary.n_neg_inf, summary.n_finite) == (1, 1, 1)


@given(scores)
def test_json_round_trip(psi: np.ndarray) -> None:
    summary = TailSummary.from_scores(psi, capacity=10, n_unscored=3)
    assert_same(TailSummary.from_dict(json.loads(json.dumps(summary.to_dict(), allow_nan=False))), summary)


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": "other"},
        {"count": 2},
        {"count": -1},
        {"n_neg_inf": 10},
        {"top": [1.0, 2.0, 3.0]},
        {"top": "text"},
        {"mean_psi": float("nan")},
        {"n_pos_inf": 1},
        {"count_table": [[5, 9, 3]]},
        {"count_table": [[5, 2, 1]]},
        {"capacity": 0},
        {"sum_log_survival": None},
    ],
)
def test_a_damaged_summary_is_refused(damage: dict[str, object]) -> None:
    state = TailSummary.from_scores([3.0, 2.0, 1.0]).to_dict()
    with pytest.raises(ValueError, match="tail summary"):
        TailSummary.from_dict(state | damage)


@pytest.mark.parametrize("bad", [[], [[1.0]], [np.nan, 1.0]])
def test_bad_scores_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"vector|NaN"):
        TailSummary.from_scores(bad)
