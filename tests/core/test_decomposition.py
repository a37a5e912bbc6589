"""Finite-k error terms: tabulated constants, simulation, and the response to a bend."""

import numpy as np
import pytest

from rl_forecast.forecasting.decomposition import TRAINABLE, curvature_bias, finite_k_terms, missed_mode, slope_moments

TAU = [  # k, tau (rank), sd, tau (midpoint), tau (expected)
    (2, 1.442695, 1.4427, 0.9102, 1.0000),
    (5, 1.436362, 0.8382, 1.0491, 1.1063),
    (10, 1.317775, 0.5649, 1.0516, 1.0873),
    (20, 1.218681, 0.3829, 1.0420, 1.0636),
    (50, 1.126795, 0.2301, 1.0273, 1.0380),
]
ERROR = {  # k: (bias, sd, P(under-predict)) for n/m = 1, 10, 100, 1000 at m = 1000
    2: [(0.000, 1.81, 0.50), (1.020, 4.58, 0.51), (2.039, 7.79, 0.51), (3.059, 11.07, 0.509)],
    5: [(0.092, 1.79, 0.47), (1.097, 3.37, 0.41), (2.102, 5.19, 0.39), (3.107, 7.07, 0.38)],
    10: [(0.062, 1.72, 0.47), (0.794, 2.74, 0.41), (1.525, 3.92, 0.38), (2.257, 5.16, 0.37)],
    20: [(-0.018, 1.63, 0.48), (0.486, 2.27, 0.426), (0.990, 3.03, 0.395), (1.493, 3.85, 0.376)],
    50: [(-0.153, 1.51, 0.508), (0.139, 1.84, 0.46), (0.431, 2.25, 0.43), (0.723, 2.70, 0.41)],
}
CURVATURE = {  # k: (least squares, mean excess) at n/m = 1, 10, 100
    10: [(-0.50, -1.94), (-4.51, -8.80), (-13.89, -21.0)],
    20: [(-1.33, -3.53), (-6.89, -12.05), (-17.89, -25.9)],
    50: [(-3.22, -6.36), (-11.01, -17.02), (-24.15, -33.0)],
}


@pytest.mark.parametrize(("k", "tau", "sd", "midpoint", "expected"), TAU)
def test_slope_inflation(k: int, tau: float, sd: float, midpoint: float, expected: float) -> None:
    assert slope_moments(k)[0] == pytest.approx(tau, abs=5.01e-7)
    assert slope_moments(k)[1] == pytest.approx(sd, abs=5.01e-5)
    assert slope_moments(k, "midpoint")[0] == pytest.approx(midpoint, abs=5.01e-5)
    assert slope_moments(k, "expected")[0] == pytest.approx(expected, abs=5.01e-5)


def test_slope_inflation_at_two_and_a_hundred() -> None:
    assert slope_moments(2)[0] == pytest.approx(1.0 / np.log(2.0), abs=1e-10)  # T = z / log 2 exactly
    assert slope_moments(100) == pytest.approx((1.081488, 0.1571), abs=5.01e-5)


@pytest.mark.parametrize("k", ERROR)
def test_bias_variance_and_under_prediction(k: int) -> None:
    for ratio, (bias, sd, under) in zip((1, 10, 100, 1_000), ERROR[k], strict=True):
        terms = finite_k_terms(k, 1_000, 1_000 * ratio)
        assert terms.bias == pytest.approx(bias, abs=0.01)
        assert np.sqrt(terms.variance) == pytest.approx(sd, abs=0.01)
        assert terms.under_prediction_probability == pytest.approx(under, abs=0.006)


def test_the_parts_of_the_typical_case() -> None:
    terms = finite_k_terms(10, 1_000, 10_000)
    parts = (terms.bias_slope, terms.bias_plotting, terms.bias_quantile)
    assert parts == pytest.approx((1.212, 0.159, -0.577), abs=1e-3)
    assert not any(TRAINABLE[name] for name in list(TRAINABLE)[:6])
    assert TRAINABLE["tail scale sigma"]


def test_terms_agree_with_brute_force() -> None:
    k, m, n, reps = 5, 60, 600, 200_000
    rng = np.random.default_rng(11)
    x = np.sort(rng.exponential(size=(reps, m)), axis=1)[:, ::-1][:, :k]
    y = np.log(np.arange(1, k + 1) / m)
    dx, dy = x - x.mean(axis=1, keepdims=True), y - y.mean()
    scale = np.square(dx).sum(axis=1) / np.abs(dx @ dy)
    maximum = -np.log(-np.expm1(np.log(rng.random(reps)) / n))
    error = x.mean(axis=1) + scale * (np.log(n) + y.mean()) - maximum
    terms = finite_k_terms(k, m, n)
    assert error.mean() == pytest.approx(terms.bias, abs=4 * error.std() / np.sqrt(reps))
    assert error.std() == pytest.approx(np.sqrt(terms.variance), rel=0.02)
    assert (error < 0).mean() == pytest.approx(terms.under_prediction_probability, abs=1e-3 + 4 * 0.5 / np.sqrt(reps))


@pytest.mark.parametrize("k", CURVATURE)
def test_response_to_curvature(k: int) -> None:
    for ratio, (line, mean_excess) in zip((1, 10, 100), CURVATURE[k], strict=True):
        assert curvature_bias(k, 1_000, 1_000 * ratio) == pytest.approx(line, abs=0.1)
        found = curvature_bias(k, 1_000, 1_000 * ratio, "exponential_pivot")
        assert found == pytest.approx(mean_excess, abs=0.06)


def test_missed_mode_table() -> None:
    table = [(0.5, 5, 0.609, 0.07), (0.5, 10, 0.610, 2.49), (1, 10, 0.373, 3.14), (3, 10, 0.053, 4.21)]
    for expected, shift, missed, rise in table:
        effect = missed_mode(expected / 1_000, shift, 1_000, 10_000)
        assert effect.probability_missed == pytest.approx(missed, abs=0.01)
        assert effect.under_prediction == pytest.approx(rise, abs=0.01)
    assert missed_mode(3 / 1_000, 1.0, 1_000, 10).probability_missed == pytest.approx(0.05, abs=0.001)  # rule of three


@pytest.mark.parametrize("arguments", [(1, 100, 10), (200, 100, 10), (5, 100, 0)])
def test_impossible_sizes_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"tail_k|n_deploy"):
        finite_k_terms(*arguments)
