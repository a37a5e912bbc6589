"""Errors of forecasts against realised maxima, by hand and in every space."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl_forecast.forecasting.evaluate_forecasts import HeldOutErrors, evaluate_forecasts
from rl_forecast.forecasting.methods import make_forecaster


def _psi(p: float) -> float:
    return -math.log(-math.log(p))


def _errors(forecast: list[float], realised: list[float]) -> HeldOutErrors:
    return HeldOutErrors(np.array(forecast), np.array(realised), np.ones(len(forecast)))


def test_all_pairs_count() -> None:
    errors = _errors([1.0, 3.0], [0.0, 2.0, 4.5])
    # error = forecast - realised: 1, -1, -3.5, 3, 1, -1.5
    psi = errors.in_space("psi")
    assert psi.mean_absolute == pytest.approx((1 + 1 + 3.5 + 3 + 1 + 1.5) / 6)
    assert psi.bias == pytest.approx((1 - 1 - 3.5 + 3 + 1 - 1.5) / 6)
    assert errors.under_prediction_rate == pytest.approx(3 / 6)
    assert psi.under_by_1 == pytest.approx(2 / 6)


def test_spaces_agree_with_their_definitions() -> None:
    errors = _errors([_psi(1e-2)], [_psi(1e-4)])
    assert errors.in_space("log10_p").bias == pytest.approx(2.0)
    expected = math.log(0.01 / 0.99) - math.log(1e-4 / (1 - 1e-4))
    assert errors.in_space("log_odds").bias == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown error space 'p'"):
        errors.in_space("p")


def test_risks_below_the_floor_count_as_equal_and_say_so() -> None:
    errors = _errors([_psi(1e-9), _psi(1e-12)], [_psi(1e-20)])
    for space in ("log10_p", "log_odds"):
        result = errors.in_space(space)
        assert result.mean_absolute == pytest.approx(0.0, abs=1e-12)
        assert result.both_at_lower_clip == 1.0
    assert errors.in_space("psi").both_at_lower_clip == 0.0


def test_certain_failure_is_clipped_at_the_top_and_says_so() -> None:
    errors = _errors([_psi(0.9999), 40.0], [30.0, _psi(0.5)])
    result = errors.in_space("log_odds")
    assert result.both_at_upper_clip == pytest.approx(0.5)
    assert result.mean_absolute == pytest.approx(math.log(0.999 / 0.001) / 2)


def test_evaluations_without_a_tail_are_counted_and_left_out() -> None:
    rng = np.random.default_rng(0)
    good, flat = rng.gumbel(size=50), np.full(50, -np.inf)
    errors = evaluate_forecasts(np.stack([good, flat]), rng.gumbel(size=(3, 100)), make_forecaster("gumbel_tail", 10))
    assert errors.n_failed_fits == 1
    assert np.isfinite(errors.in_space("psi").mean_absolute)
    nothing = evaluate_forecasts(flat[None], rng.gumbel(size=(3, 100)), make_forecaster("gumbel_tail", 10))
    assert np.isnan(nothing.in_space("psi").mean_absolute)
    assert np.isnan(nothing.under_prediction_rate)


def test_bad_scores_are_refused() -> None:
    forecaster = make_forecaster("gumbel_tail", 10)
    with pytest.raises(ValueError, match="rows of a matrix"):
        evaluate_forecasts(np.zeros(5), np.zeros((1, 5)), forecaster)
    with pytest.raises(ValueError, match="1 deployment scores are NaN"):
        evaluate_forecasts(np.zeros((1, 5)), np.array([[0.0, np.nan]]), forecaster)
