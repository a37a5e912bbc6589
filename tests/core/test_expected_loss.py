"""The exact expected loss against enumeration of every partition."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rl_forecast.loss.expected_loss import ExpectedQuadraticLoss, blup_coefficients, quadratic_form
from rl_forecast.loss.partitions import draw_partitions

QQ = (0.9, -0.3, 1.7, -0.8)


def scores(n: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_exponential(n)


def enumerated_errors(psi: NDArray[np.float64], n_eval: int, coefficients: tuple[float, ...]) -> list[float]:
    errors = []
    for subset in combinations(range(len(psi)), n_eval):
        x = np.sort(psi[list(subset)])[::-1][: len(coefficients)]
        errors.append(float(np.dot(coefficients, x) - np.delete(psi, subset).max()))
    return errors


@pytest.mark.parametrize(
    ("n_tasks", "n_eval", "coefficients"),
    [
        (12, 6, blup_coefficients(4, 6, 6)),
        (11, 3, blup_coefficients(3, 3, 8)),
        (11, 9, blup_coefficients(5, 9, 2)),
        (10, 5, QQ),
        (10, 4, QQ),
        (9, 8, (1.0,)),
        (3, 2, (0.3, 0.4)),
        (2, 1, (2.0,)),
    ],
)
def test_loss_error_and_gradient_equal_enumeration(n_tasks: int, n_eval: int, coefficients: tuple[float, ...]) -> None:
    psi = scores(n_tasks)
    errors = enumerated_errors(psi, n_eval, coefficients)
    weight, terms = ExpectedQuadraticLoss(n_tasks, n_eval, coefficients).task_weights(psi)
    assert terms.loss.item() == pytest.approx(np.mean(np.square(errors)), rel=1e-12, abs=1e-12)
    assert terms.mean_error.item() == pytest.approx(np.mean(errors), rel=1e-12, abs=1e-12)
    step = 1e-5
    for i in range(n_tasks):
        nudge = np.zeros(n_tasks)
        nudge[i] = step
        high, low = (np.mean(np.square(enumerated_errors(psi + s * nudge, n_eval, coefficients))) for s in (1, -1))
        assert weight[i] == pytest.approx((high - low) / (2 * step), abs=1e-7)


def test_many_tasks_equal_the_average_over_drawn_partitions() -> None:
    """Where single binomials overflow and the window is a small part of the tasks."""
    n_tasks, n_eval, k = 3000, 300, 10
    loss = ExpectedQuadraticLoss.exponential(n_tasks, n_eval, k)
    matrix, _ = quadratic_form(n_tasks, n_eval, loss.coefficients)
    assert matrix.shape[0] < n_tasks / 4
    psi = np.sort(scores(n_tasks, seed=1))[::-1].copy()
    parts = draw_partitions(
        n_tasks, n_eval, n_tasks - n_eval, np.random.default_rng(2), tail_k=k, n_partitions=100_000, method="exact"
    )
    error = psi[parts.eval_rank] @ np.array(loss.coefficients) - psi[parts.deploy_rank]
    _, terms = loss.task_weights(psi)
    for value, sample in ((terms.loss, error**2), (terms.mean_error, error)):
        assert abs(value.item() - sample.mean()) < 4 * sample.std() / math.sqrt(len(sample))


def test_matrix_ignores_a_common_shift_of_forecasts_that_follow_it() -> None:
    matrix, mu = quadratic_form(500, 100, blup_coefficients(10, 100, 400))
    ones = np.ones(len(mu))
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix @ ones, 0.0, atol=1e-9)
    assert mu @ ones == pytest.approx(0.0, abs=1e-9)
    assert np.linalg.eigvalsh(matrix).min() > -1e-9


def test_blup_is_unbiased_on_an_exponential_tail() -> None:
    """Mean of the expected error over task sets, a few standard errors from zero."""
    loss = ExpectedQuadraticLoss.exponential(400, 100)
    assert sum(loss.coefficients) == pytest.approx(1.0, abs=1e-12)
    harmonic = [sum(1 / j for j in range(1, n + 1)) for n in (300, 100, 9)]
    assert loss.coefficients[0] * 9 == pytest.approx(harmonic[0] - harmonic[1] + harmonic[2], rel=1e-12)
    errors = [loss.task_weights(scores(400, seed))[1].mean_error.item() for seed in range(500)]
    assert abs(np.mean(errors)) < 3.5 * np.std(errors) / math.sqrt(500)


def test_gradcheck_and_single_precision() -> None:
    loss = ExpectedQuadraticLoss.exponential(60, 20, 5)
    psi = torch.tensor(scores(60, seed=3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda psi: loss(psi).loss, (psi,))
    double, _ = loss.task_weights(psi)
    single, terms = loss.task_weights(psi.float())
    assert single.dtype == terms.loss.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)
    assert double.requires_grad is False


def test_what_a_linear_form_cannot_take_is_refused() -> None:
    loss = ExpectedQuadraticLoss.exponential(30, 10, 4)
    psi = torch.tensor(scores(30))
    for bad in (math.inf, -math.inf):
        broken = torch.where(psi < psi.median(), bad, psi)
        with pytest.raises(ValueError, match="finite"):
            loss(broken)
    with pytest.raises(ValueError, match="NaN"):
        loss(torch.where(psi == psi.min(), math.nan, psi))
    with pytest.raises(ValueError, match="shape"):
        loss(psi[1:])
    with pytest.raises(ValueError, match="coefficients"):
        ExpectedQuadraticLoss(30, 3, (0.25,) * 4)
    with pytest.raises(ValueError, match="coefficients"):
        quadratic_form(30, 30, (1.0,))
    with pytest.raises(ValueError, match="finite"):
        ExpectedQuadraticLoss(30, 10, (math.nan, 1.0))
    with pytest.raises(ValueError, match="raise n_eval"):
        ExpectedQuadraticLoss.exponential(10**6, 1000)(torch.zeros(10**6))
    with pytest.raises(ValueError, match="tail_k"):
        blup_coefficients(1, 10, 20)


def test_minus_infinity_below_the_window_does_not_matter() -> None:
    loss = ExpectedQuadraticLoss.exponential(3000, 300, 5)
    psi = np.sort(scores(3000, seed=4))[::-1].copy()
    finite, terms = loss.task_weights(psi)
    psi[2000:] = -math.inf
    masked, same = loss.task_weights(psi)
    assert terms.loss == same.loss
    np.testing.assert_array_equal(finite, masked)
