"""forecast(): every input form, every risk, and what is refused."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from rl_forecast import TailSummary, forecast
from rl_forecast.forecasting.methods import GPD, GumbelTail
from rl_forecast.scores import log_p_from_psi, log_survival_from_psi

PSI = np.random.default_rng(0).exponential(0.4, size=1_000) - 2.0
LOG_P = log_p_from_psi(PSI)


@pytest.mark.parametrize(
    "form",
    [
        list(LOG_P),
        tuple(LOG_P),
        LOG_P.astype(np.float32),
        torch.tensor(LOG_P, requires_grad=True),
        torch.tensor(LOG_P, dtype=torch.float32),
        pl.Series(LOG_P),
        pd.Series(LOG_P, index=range(7, 1_007)),
    ],
    ids=["list", "tuple", "float32", "torch", "torch32", "polars", "pandas"],
)
def test_every_container_and_form_gives_the_same_forecast(form: object) -> None:
    expected = forecast(psi=PSI, n_deploy=[10_000, 1_000_000]).worst_query_psi
    np.testing.assert_allclose(forecast(log_p=form, n_deploy=[10_000, 1e6]).worst_query_psi, expected, atol=2e-5)
    for other in (np.exp(LOG_P), TailSummary.from_scores(PSI)):
        found = forecast(other, n_deploy=np.array([10**4, 10**6])).worst_query_psi
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_units_agree_and_log10_does_not_underflow() -> None:
    fc = forecast(psi=PSI - 6.0, n_deploy=[5_000, 50_000])
    assert fc.prediction_interval().shape == (2, 2)
    np.testing.assert_allclose(
        fc.prediction_interval(unit="log10"), log_p_from_psi(fc.prediction_interval(unit="psi")) / np.log(10)
    )
    assert fc.worst_query_risk[0] < 1e-20
    assert np.isfinite(fc.worst_query_log10_risk).all()
    for i in (0, 1):
        low, high = fc.prediction_interval(0.8, "psi")[i]
        assert low < fc.worst_query_psi[i] < high
    with pytest.raises(ValueError, match="unit"):
        fc.prediction_interval(unit="percent")  # type: ignore[arg-type]


def test_exceedance_of_the_point_is_one_half() -> None:
    fc = forecast(psi=PSI, n_deploy=[10_000, 100_000])
    for i in (0, 1):
        assert fc.exceedance(float(fc.worst_query_risk[i]))[i] == pytest.approx(0.5, abs=1e-6)
    assert fc.exceedance(0.0) == pytest.approx([1.0, 1.0])
    assert fc.new_record_probability == pytest.approx([10 / 11, 100 / 101])


def test_behavior_frequency_inside_the_data_is_a_binomial_interval() -> None:
    fc = forecast(psi=PSI, n_deploy=10)
    tau = 0.05
    risk = fc.behavior_frequency(tau, level=0.95)
    above = int((np.exp(LOG_P) > tau).sum())
    exact = stats.binomtest(above, 1_000).proportion_ci(0.95, method="exact")
    assert (risk.estimate, risk.low, risk.high) == pytest.approx((above / 1_000, exact.low, exact.high))
    assert risk.basis == "counted"


@pytest.mark.parametrize("method", ["exponential_pivot", "gumbel_tail", "shape_prior"])
def test_behavior_frequency_beyond_the_data_covers_the_truth(method: str) -> None:
    """Exponential scores: the true frequency at psi = t is exp(-t); t lies beyond nearly every sample."""
    rng = np.random.default_rng(7)
    t, m, reps, inside, used = 9.0, 300, 250, 0, 0
    tau = float(np.exp(log_p_from_psi(t)))
    for _ in range(reps):
        fc = forecast(psi=rng.exponential(size=m), n_deploy=1, method=method)
        risk = fc.behavior_frequency(tau)
        if risk.basis == "tail":
            used += 1
            inside += risk.low <= np.exp(-t) <= risk.high
    assert used > 225
    assert inside / used >= 0.86
    if method != "shape_prior":
        assert inside / used <= 0.945


def test_behavior_frequency_says_what_the_summary_cannot_know() -> None:
    fc = forecast(psi=PSI, n_deploy=10, capacity=100)
    with pytest.raises(ValueError, match="larger capacity"):
        fc.behavior_frequency(1e-6)
    with pytest.raises(ValueError, match="tau"):
        fc.behavior_frequency(1.0)


@pytest.mark.parametrize("method", ["exponential_pivot", "shape_prior", "gumbel_tail"])
def test_aggregate_risk_covers_the_truth_and_says_something(method: str) -> None:
    rng = np.random.default_rng(9)
    location, scale, m, n, reps = -2.5, 0.3, 300, 50, 150
    mean, _ = integrate.quad(lambda x: np.exp(-x) * float(log_survival_from_psi(location + scale * x)), 0, 60)
    truth = -np.expm1(n * mean)
    rows = []
    for _ in range(reps):
        risk = forecast(psi=location + rng.exponential(scale, size=m), n_deploy=n, method=method).aggregate_risk()
        rows.append([np.asarray(x)[0] for x in (risk.low, risk.estimate, risk.high)])
    low, estimate, high = np.array(rows).T
    assert 0.85 <= np.mean((low <= truth) & (truth <= high)) <= 0.97
    assert np.median(estimate) == pytest.approx(truth, rel=0.2)
    assert truth / 2 < np.median(low)  # an interval from 0 to 1 would cover, too
    assert np.median(high) < 3 * truth


def test_aggregate_risk_of_counts_is_that_of_the_pooled_rate() -> None:
    failures = np.array([0] * 95 + [1] * 3 + [4] * 2)
    risk = forecast(failures=failures, samples=10, n_deploy=[1, 100]).aggregate_risk()
    rate = failures.sum() / 1_000
    np.testing.assert_allclose(risk.estimate, 1 - (1 - rate) ** np.array([1, 100]))
    # failures come in clusters: the interval is wider than that of 1000 independent samples
    naive = stats.binomtest(int(failures.sum()), 1_000).proportion_ci(0.9, method="exact")
    assert float(risk.high[0]) > naive.high  # type: ignore[index]
    assert float(risk.low[0]) < naive.low  # type: ignore[index]


def test_degenerate_scores_leave_the_distribution_free_statement() -> None:
    for p in ([0.0] * 50, [0.2] * 50, [0.1], [0.0, 0.1]):
        fc = forecast(p, n_deploy=[50, 1_000])
        assert fc.status == "degenerate"
        assert np.isnan(fc.worst_query_risk).all()
        assert np.isnan(fc.prediction_interval()).all()
        assert fc.new_record_probability == pytest.approx([50 / (50 + len(p)), 1_000 / (1_000 + len(p))])
        assert fc.warnings[0].code == "degenerate"
        assert fc.warnings[-1].code == "missed_mode"
        assert fc.to_dict()["forecasts"][0]["worst_query_risk"]["point"] is None


def test_certain_failures_make_the_aggregate_risk_one() -> None:
    fc = forecast([1.0, 0.5, 0.3, 0.2, 0.1] * 4, n_deploy=[1, 1_000])
    assert fc.worst_query_risk[1] == 1.0
    np.testing.assert_array_equal(fc.aggregate_risk().estimate, [1.0, 1.0])
    assert "certain_failures" in {w.code for w in fc.warnings}


def test_coarse_counts_choose_the_binomial_likelihood() -> None:
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-rng.normal(-4, 1.5, 500)))
    assert forecast(failures=rng.binomial(10, p), samples=10, n_deploy=10).method == "binomial_tail"
    assert forecast(failures=rng.binomial(1_000, p), samples=1_000, n_deploy=10).method == "shape_prior"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one form"),
        ({"p": [0.1, 0.2], "log_p": [-1.0, -2.0]}, "got p and log_p"),
        ({"failures": [1]}, "samples belong together"),
        ({"p": []}, "non-empty"),
        ({"p": [[0.1]]}, "non-empty vector"),
        ({"p": ["a", "b"]}, "must be numbers"),
        ({"p": [0.1, float("nan")]}, "found nan"),
        ({"p": [0.1, 1.5]}, "found 1.5"),
        ({"log_p": [-1.0, 0.5]}, "found 0.5"),
        ({"psi": [0.1, float("nan")]}, "NaN"),
        ({"p": [0.1, 0.2], "n_deploy": 0}, "at least 1, found 0"),
        ({"p": [0.1, 0.2], "n_deploy": [10, 2.5]}, "found 2.5"),
        ({"p": [0.1, 0.2], "n_deploy": "many"}, "found 'many'"),
        ({"p": [0.1, 0.2], "n_deploy": []}, "empty"),
        ({"p": [0.1, 0.2], "n_deploy": float("inf")}, "found inf"),
        ({"p": [0.1, 0.2], "method": "shape"}, "did you mean 'shape_prior'"),
        ({"p": [0.1, 0.2], "tail_k": 1}, "at least 2"),
        ({"failures": [2], "samples": 1}, "more failures"),
        ({"failures": [2, 1], "samples": [3]}, "samples"),
        ({"p": TailSummary.from_scores([0.0, 1.0]), "psi": [0.0]}, "not both"),
    ],
)
def test_bad_input_is_refused_with_its_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecast(**({"n_deploy": 10} | arguments))  # type: ignore[arg-type]


@given(
    st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1e-300, 1 - 1e-16])), min_size=1, max_size=40),
    st.integers(1, 10**9),
    st.sampled_from(["shape_prior", "exponential_pivot", "gumbel_tail", "log_normal"]),
)
@settings(max_examples=120, deadline=None)
def test_any_probabilities_give_an_ordered_forecast_or_none(p: list[float], n: int, method: str) -> None:
    fc = forecast(p, n_deploy=n, method=method)
    json.dumps(fc.to_dict(), allow_nan=False)
    low, high = fc.prediction_interval()[0]
    if fc.status == "ok":
        assert np.isnan(low) or 0 <= low <= high <= 1
        exceeded = fc.exceedance(0.5)[0]
        assert 0 <= exceeded <= 1 or (np.isnan(exceeded) and min(x for x in p if x > 0) > 0.5)
    risk = fc.aggregate_risk()
    assert 0 <= risk.low[0] <= risk.estimate[0] + 1e-12  # type: ignore[index]
    assert risk.estimate[0] <= risk.high[0] + 1e-12 <= 1 + 2e-12  # type: ignore[index]


def test_json_keys_are_stable() -> None:
    """The documented keys: a change here is a change of the public format."""
    out = forecast(psi=PSI, n_deploy=[10_000]).to_dict()
    assert list(out) == [
        "schema", "status", "reason", "method", "tail_k", "level", "n_eval", "n_unscored", "largest_risk_seen",
        "tail_scale_psi", "forecasts", "warnings", "diagnostics",
    ]  # fmt: skip
    assert list(out["forecasts"][0]) == [
        "n_deploy", "worst_query_risk", "worst_query_log10_risk", "worst_query_psi", "aggregate_risk",
        "new_record_probability",
    ]  # fmt: skip
    assert set(out["warnings"][0]) == {"code", "severity", "sentence", "values"}


def test_a_forecaster_with_options_of_its_own_is_taken() -> None:
    fc = forecast(psi=PSI, n_deploy=10_000, method=GumbelTail(debias=True, plotting_position="midpoint"))
    assert fc.method == "gumbel_tail"
    assert fc.exceedance(float(fc.worst_query_risk[0]))[0] == pytest.approx(0.5, abs=2e-3)
    assert [p.tail_k for p in fc.diagnostics.stability] == [10, 20, 50, 100, 200, 500]
    assert fc.diagnostics.stability[0].point == fc.worst_query_psi[0]  # its options hold there as well
    by_threshold = forecast(psi=PSI, n_deploy=10_000, method=GPD(threshold=-1.0))
    assert by_threshold.fitted is not None
    assert by_threshold.fitted.ensemble.threshold == -1.0
    with pytest.raises(ValueError, match="set it on the forecaster"):
        forecast(psi=PSI, n_deploy=10, method=GPD(), tail_k=20)
