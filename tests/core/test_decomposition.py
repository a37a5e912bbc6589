"""What an error consists of: finite-k terms against tables and simulation, and the parts of a measured error."""

import numpy as np
import pytest

from rl_forecast.forecasting.decomposition import decompose_error, finite_k_terms, log_linear_error, slope_moments
from rl_forecast.forecasting.warnings import missed_mode

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


@pytest.mark.parametrize(("k", "tau", "sd", "midpoint", "expected"), TAU)
def test_slope_inflation(k: int, tau: float, sd: float, midpoint: float, expected: float) -> None:
    assert slope_moments(k)[0] == pytest.approx(tau, abs=5.01e-7)
    assert slope_moments(k)[1] == pytest.approx(sd, abs=5.01e-5)
    assert slope_moments(k, "midpoint")[0] == pytest.approx(midpoint, abs=5.01e-5)
    assert slope_moments(k, "expected")[0] == pytest.approx(expected, abs=5.01e-5)


@pytest.mark.parametrize("k", ERROR)
def test_bias_variance_and_under_prediction(k: int) -> None:
    for ratio, (bias, sd, under) in zip((1, 10, 100, 1_000), ERROR[k], strict=True):
        terms = finite_k_terms(k, 1_000, 1_000 * ratio)
        assert terms.bias == pytest.approx(bias, abs=0.01)
        assert np.sqrt(terms.variance) == pytest.approx(sd, abs=0.01)
        assert terms.under_prediction_probability == pytest.approx(under, abs=0.006)


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


# --- the parts of a measured error add up by construction, so each is checked where it should be alone

K, M, N = 10, 200, 4000


def _sets(sigma: float, shape: float = 0.0, rare: float = 0.0, shift: float = 0.0, seed: int = 0):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    found = []
    for n_sets, size in ((300, M), (40, N)):
        log_survival = rng.exponential(size=(n_sets, size))
        scores = sigma * (log_survival + shape * log_survival**2 / 2)
        is_rare = rng.random(scores.shape) < rare
        found.append((scores + shift * is_rare, is_rare))
    (evaluation, evaluation_rare), (deployment, deployment_rare) = found
    return decompose_error(evaluation, deployment, evaluation_rare, deployment_rare, K)


def test_the_floor_is_that_of_a_simulated_log_linear_tail() -> None:
    split = _sets(sigma=0.7)
    assert split.floor == log_linear_error(K, M, N)
    assert split.sigma == pytest.approx(0.7, rel=0.03)
    assert split.total == pytest.approx(split.untrainable, rel=0.06)
    assert split.rare == 0
    # An absolute error is below the root mean squared one, whose value is exact, and not by much.
    assert 0.6 < split.floor / finite_k_terms(K, M, N).root_mean_squared_error < 1


def test_the_parts_add_up_and_stand_where_they_belong() -> None:
    wide, bent = _sets(sigma=1.4), _sets(sigma=0.7, shape=0.3)
    assert wide.untrainable == pytest.approx(2 * _sets(sigma=0.7).untrainable, rel=0.03)
    assert bent.curvature > 0.3
    mixed = _sets(sigma=0.7, rare=0.005, shift=12.0)
    assert mixed.sigma == pytest.approx(0.7, rel=0.03)
    assert abs(mixed.curvature) < 0.15
    assert mixed.rare > 2
    for split in (wide, bent, mixed):
        assert split.total == pytest.approx(split.untrainable + split.curvature + split.rare)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="one shape"):
        decompose_error(np.zeros((2, 20)), np.zeros((2, 20)), np.zeros((2, 19), bool), np.zeros((2, 20), bool), 5)
