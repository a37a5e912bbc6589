"""The split of an error: closed by construction, so each part is checked where it should be alone."""

import numpy as np
import pytest

from rl_forecast.forecasting.decompose_error import error_split, log_linear_error
from rl_forecast.forecasting.decomposition import finite_k_terms

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
    return error_split(evaluation, deployment, evaluation_rare, deployment_rare, K)


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
        error_split(np.zeros((2, 20)), np.zeros((2, 20)), np.zeros((2, 19), bool), np.zeros((2, 20), bool), 5)
