"""Scores against high-precision arithmetic and against each other."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_forecast.scores import (
    log_odds_from_psi,
    log_p_from_psi,
    log_p_two_sided,
    log_survival_from_psi,
    psi_from_counts,
    psi_from_log_p,
    psi_from_p,
)


@given(st.floats(-1e6, -1e-12))
def test_psi_is_the_double_logarithm_in_high_precision(log_p: float) -> None:
    expected = -mpmath.log(-mpmath.mpf(log_p))
    assert float(psi_from_log_p(log_p)) == pytest.approx(float(expected), rel=1e-14, abs=1e-14)


@given(st.one_of(st.floats(-6.0, 40.0), st.floats(700.0, 5_000.0)))
def test_log_survival_in_high_precision(psi: float) -> None:
    with mpmath.workdps(3_000):
        expected = mpmath.log(1 - mpmath.exp(-mpmath.exp(-mpmath.mpf(psi))))
    assert float(log_survival_from_psi(psi)) == pytest.approx(float(expected), rel=1e-11, abs=1e-300)


def test_round_trip_and_ends() -> None:
    log_p = np.array([-np.inf, -800.0, -1.0, -1e-9, 0.0])
    psi = psi_from_log_p(log_p)
    assert psi[0] == -np.inf
    assert psi[-1] == np.inf
    np.testing.assert_allclose(log_p_from_psi(psi), log_p, rtol=1e-13)
    np.testing.assert_array_equal(psi_from_p([0.0, 1.0]), [-np.inf, np.inf])


@pytest.mark.parametrize("bad", [[0.1], [np.nan], [-1.0, np.inf]])
def test_log_p_above_zero_or_nan_is_refused_by_value(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="at most 0"):
        psi_from_log_p(np.array(bad))


@pytest.mark.parametrize("bad", [-1e-9, 1.0000001, np.nan])
def test_p_outside_the_unit_interval_is_refused_by_value(bad: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        psi_from_p([0.5, bad])


def test_jeffreys_scores() -> None:
    np.testing.assert_allclose(psi_from_counts([0, 3, 10], 10), psi_from_p([0.5 / 11, 3.5 / 11, 10.5 / 11]))


@pytest.mark.parametrize(
    ("failures", "samples", "message"),
    [
        ([-1], 10, "failures must be whole"),
        ([1.5], 10, "failures must be whole"),
        ([1], 0, "samples must be whole"),
        ([3], 2, "more failures than samples: 3 of 2"),
        ([np.nan], 2, "failures must be whole"),
    ],
)
def test_impossible_counts_are_refused(failures: list[float], samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        psi_from_counts(failures, samples)


def test_torch_and_numpy_agree_and_torch_differentiates() -> None:
    log_p = torch.tensor([-20.0, -0.5, -1e-3], dtype=torch.float64, requires_grad=True)
    psi = psi_from_log_p(log_p)
    np.testing.assert_allclose(psi.detach().numpy(), psi_from_log_p(log_p.detach().numpy()))
    psi.sum().backward()
    # d psi / d log p = -1 / log p
    np.testing.assert_allclose(log_p.grad.numpy(), -1.0 / log_p.detach().numpy())  # type: ignore[union-attr]


def test_two_sided_keeps_the_digits_of_the_small_side() -> None:
    p, q = np.array([1e-300, 1.0]), np.array([1.0, 1e-20])
    assert log_p_two_sided(p, q)[0] == pytest.approx(-300 * math.log(10))
    assert log_p_two_sided(p, q)[1] == pytest.approx(-1e-20)
    tp = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    tq = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    log_p_two_sided(tp.clamp(1e-9), tq.clamp(1e-9)).sum().backward()
    assert torch.isfinite(tp.grad).all()  # type: ignore[arg-type]


def test_log_odds_keep_their_digits_at_both_ends() -> None:
    np.testing.assert_allclose(log_odds_from_psi(psi_from_p([1e-300, 0.3])), [-300 * math.log(10), math.log(0.3 / 0.7)])
    assert log_odds_from_psi(psi_from_log_p(-1e-20)) == pytest.approx(20 * math.log(10))
