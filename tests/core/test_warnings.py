"""Each warning appears where it should and stays away where it should not."""

import numpy as np
import pytest

from rl_forecast import TailSummary, forecast
from rl_forecast.forecasting.methods import ExponentialPivot, LogNormal
from rl_forecast.forecasting.warnings import k_stability
from rl_forecast.scores import format_count, format_probability, psi_from_log_p, psi_from_p


def codes(**arguments: object) -> set[str]:
    return {w.code for w in forecast(**arguments).warnings}  # type: ignore[arg-type]


RNG = np.random.default_rng(0)
EXPONENTIAL = RNG.exponential(size=1_000)


def test_a_log_linear_tail_near_the_data_has_only_the_note() -> None:
    assert codes(psi=EXPONENTIAL, n_deploy=2_000) == {"missed_mode"}


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("no_extrapolation", {"psi": EXPONENTIAL, "n_deploy": [100, 2_000]}),
        ("far_extrapolation", {"psi": EXPONENTIAL, "n_deploy": 10**7}),
        ("few_scores", {"psi": EXPONENTIAL[:8], "n_deploy": 10}),
        ("zero_probability", {"psi": np.append(EXPONENTIAL, -np.inf), "n_deploy": 10}),
        ("certain_failures", {"psi": np.append(EXPONENTIAL, np.inf), "n_deploy": 10}),
        ("poor_fit", {"psi": np.expm1(EXPONENTIAL), "n_deploy": 10_000, "method": "log_normal"}),
        ("ties", {"psi": np.round(EXPONENTIAL), "n_deploy": 10}),
        ("upward_tail", {"psi": np.expm1(0.5 * EXPONENTIAL), "n_deploy": 10_000}),
        ("downward_tail", {"psi": -np.exp(-0.4 * EXPONENTIAL), "n_deploy": 10_000, "method": "gumbel_tail"}),
        ("estimated_scores", {"failures": RNG.binomial(50, 0.1, 100), "samples": 50, "n_deploy": 10}),
        ("unscored", {"p": TailSummary.from_scores(EXPONENTIAL, n_unscored=3), "n_deploy": 10}),
    ],
)
def test_each_warning_has_its_cause(code: str, arguments: dict[str, object]) -> None:
    assert code in codes(**arguments)
    assert code not in codes(psi=EXPONENTIAL, n_deploy=2_000)


@pytest.mark.parametrize("method", ["shape_prior", "exponential_pivot", "log_normal"])
def test_no_warning_advises_the_method_in_use(method: str) -> None:
    fc = forecast(psi=np.append(np.random.default_rng(0).gumbel(size=500), 100.0), n_deploy=10_000, method=method)
    (poor,) = (w for w in fc.warnings if w.code == "poor_fit")
    assert poor.values["probability"] < 0.005
    assert ("use shape_prior" in poor.sentence) == (method != "shape_prior")


def test_instability_over_k_is_seen() -> None:
    # a far cluster of twelve scores: k = 10 sees its small scale, k = 50 the gap
    psi = np.concatenate([RNG.exponential(size=1_000), 40.0 + 0.1 * RNG.exponential(size=12)])
    assert "unstable_over_k" in codes(psi=psi, n_deploy=100_000, method="exponential_pivot")


def test_false_alarms_about_the_shape_are_rare() -> None:
    rng = np.random.default_rng(1)
    alarms = [
        "upward_tail" in codes(psi=rng.exponential(size=500), n_deploy=1_000, method="exponential_pivot")
        for _ in range(60)
    ]
    assert np.mean(alarms) < 0.15


def test_the_missed_mode_note_is_always_last_and_quantified() -> None:
    fc = forecast(psi=EXPONENTIAL - 2.0, n_deploy=[10, 10**6])
    note = fc.warnings[-1]
    assert (note.code, note.severity) == ("missed_mode", "note")
    assert note.values["missed_weight"] == pytest.approx(0.003)
    assert note.values["expected_in_deployment"] == pytest.approx(3_000)
    assert note.values["lifted_risk"] > fc.worst_query_risk[1]
    assert "3/m = 0.003" in note.sentence


def test_stability_points_are_the_forecasts_themselves() -> None:
    summary = TailSummary.from_scores(EXPONENTIAL)
    points = k_stability(summary, ExponentialPivot(), 10_000)
    assert [p.tail_k for p in points] == [10, 20, 50, 100, 200, 500]
    fc = forecast(summary, n_deploy=10_000, method="exponential_pivot", tail_k=50)
    assert points[2].point == fc.worst_query_psi[0]
    assert k_stability(summary, LogNormal(), 10_000) == ()


@pytest.mark.parametrize(
    ("psi", "text"),
    [
        (psi_from_p(0.01234), "0.0123"),
        (psi_from_log_p(np.log(10.0) * -523.4), "4.0e-524"),
        (psi_from_log_p(-2e-5), "1 - 2e-05"),
        (np.inf, "1"),
        (-np.inf, "0"),
        (np.nan, "-"),
    ],
)
def test_probabilities_in_words(psi: float, text: str) -> None:
    assert format_probability(float(psi)) == text
    assert [format_count(n) for n in (10, 99_999, 1_000_000, 2.5e9, 1e12)] == ["10", "99999", "1e6", "2.5e9", "1e12"]
