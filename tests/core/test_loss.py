"""The forecastability loss against its slow definitions: autograd, double loops over subsets, enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_forecast.error_spaces import ERROR_SPACES, ErrorSpace, to_error_space
from rl_forecast.forecasting.methods import GumbelTail
from rl_forecast.loss.forecastability import (
    ForecastabilityLoss,
    ForecastabilityTerms,
    GradientMode,
    Penalty,
    gumbel_tail_forecast,
    one_sided_anchor,
)
from rl_forecast.loss.partitions import Partitions
from rl_forecast.summary import TailSummary

PENALTIES: tuple[Penalty, ...] = ("squared", "huber")


def scores(n: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """Exponential psi scores in random order, float64."""
    return torch.tensor(shift + scale * np.random.default_rng(seed).standard_exponential(n))


def descending(n_rows: int, k: int, seed: int = 0) -> torch.Tensor:
    return scores(n_rows * k, seed).reshape(n_rows, k).sort(dim=1, descending=True).values


def written_out(x: torch.Tensor, n_eval: int, n_deploy: int) -> torch.Tensor:
    """The forecast as the textbook has it: fit ``log S = a x + b``, solve for ``S = 1 / n``."""
    y = torch.log(torch.arange(1, x.shape[1] + 1, dtype=x.dtype) / n_eval)
    dx, dy = x - x.mean(dim=1, keepdim=True), y - y.mean()
    a = (dx * dy).sum(dim=1) / (dx * dx).sum(dim=1)
    b = y.mean() - a * x.mean(dim=1)
    return -(math.log(n_deploy) + b) / a


def transformed(psi: torch.Tensor, space: ErrorSpace) -> torch.Tensor:
    """Error spaces by way of the probability itself."""
    if space == "psi":
        return psi
    p = torch.exp(-torch.exp(-psi))
    if space == "log10_p":
        return torch.log10(p.clamp(min=1e-6))
    return torch.logit(p.clamp(1e-6, 1 - 1e-3))


def penalised(error: torch.Tensor, penalty: Penalty) -> torch.Tensor:
    if penalty == "squared":
        return error**2
    return torch.where(error.abs() <= 1.0, error**2 / 2, error.abs() - 0.5)


def gradient_of(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x)
    return gradient


def task_weights(
    loss: ForecastabilityLoss, psi: torch.Tensor, generator: np.random.Generator | Partitions
) -> tuple[torch.Tensor, ForecastabilityTerms]:
    """Gradient of the loss by the scores, and its terms."""
    leaf = psi.detach().clone().requires_grad_()
    terms = loss(leaf, generator)
    (weight,) = torch.autograd.grad(terms.loss, leaf)
    return weight, replace(terms, loss=terms.loss.detach())


# --- the tail forecast and its closed-form gradient


@pytest.mark.parametrize(("n_eval", "n_deploy", "k"), [(100, 100, 10), (50, 5000, 10), (20, 7, 2), (30, 300, 30)])
def test_forecast_and_gradient_equal_autograd_through_the_written_out_fit(n_eval: int, n_deploy: int, k: int) -> None:
    x = descending(20, k)
    weight = torch.linspace(-1.0, 2.0, 20, dtype=torch.float64)
    forecast, _ = gumbel_tail_forecast(x, n_eval, n_deploy)
    torch.testing.assert_close(forecast, written_out(x, n_eval, n_deploy), rtol=1e-10, atol=1e-10)
    closed = gradient_of(lambda x: weight @ gumbel_tail_forecast(x, n_eval, n_deploy)[0], x)
    torch.testing.assert_close(closed, gradient_of(lambda x: weight @ written_out(x, n_eval, n_deploy), x))


def test_forecast_is_the_reference_forecaster() -> None:
    x = descending(1, 10)
    fit = GumbelTail(tail_k=10).fit(TailSummary.from_scores(x[0].numpy()))
    # the reference counts 10 evaluation tasks
    forecast, scale = gumbel_tail_forecast(x, 10, 1000)
    assert forecast.item() == pytest.approx(fit.point(1000), rel=1e-12)
    assert scale.item() == pytest.approx(fit.tail_scale, rel=1e-12)


def test_gradcheck_of_the_closed_form_also_with_masked_rows() -> None:
    x = descending(6, 5)
    x[3, 3:] = x[4, 2:] = -math.inf

    def finite_part(x: torch.Tensor) -> torch.Tensor:
        return gumbel_tail_forecast(torch.where(mask, x, -math.inf), 40, 400)[0]

    mask = x > -math.inf
    leaf = torch.where(mask, x, 0.0).requires_grad_()
    assert torch.autograd.gradcheck(finite_part, (leaf,))


@settings(deadline=None)
@given(
    x=st.lists(st.floats(-5, 20), min_size=2, max_size=12).map(lambda v: sorted(v, reverse=True)),
    n_eval=st.integers(12, 10**6),
    n_deploy=st.integers(1, 10**9),
)
def test_identities_of_the_gradient(x: list[float], n_eval: int, n_deploy: int) -> None:
    """It sums to 1 (the forecast moves with the scores); sum x dQ/dx = Q (and stretches with them). Ties included."""
    row = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    forecast, scale = gumbel_tail_forecast(row, n_eval, n_deploy)
    (gradient,) = torch.autograd.grad(forecast.sum(), row)
    assert torch.isfinite(gradient).all()
    size = gradient.abs().sum().item()
    assert gradient.sum().item() == pytest.approx(1.0, abs=1e-9 * size)
    assert (row * gradient).sum().item() == pytest.approx(
        forecast.item(), abs=1e-9 * size * (1 + abs(x[0]) + abs(x[-1]))
    )
    assert scale.item() >= 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e-30, 1e4])
def test_equal_scores_have_no_tail(dtype: torch.dtype, value: float) -> None:
    x = torch.full((3, 7), value, dtype=dtype, requires_grad=True)
    forecast, scale = gumbel_tail_forecast(x, 100, 1000)
    (gradient,) = torch.autograd.grad(forecast.sum(), x)
    assert (scale == 0).all()
    assert (forecast == x[:, 0]).all()
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / 7))


def test_spread_of_rounding_size_is_a_tie() -> None:
    x = torch.full((1, 5), 3.0, dtype=torch.float32)
    x[0, 0] = torch.nextafter(x[0, 0], torch.tensor(4.0))
    gradient = gradient_of(lambda x: gumbel_tail_forecast(x, 100, 1000)[0].sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.2))
    # partial ties leave a slope, and its gradient
    x = torch.tensor([[3.0, 2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    closed = gradient_of(lambda x: gumbel_tail_forecast(x, 100, 1000)[0].sum(), x)
    torch.testing.assert_close(closed, gradient_of(lambda x: written_out(x, 100, 1000).sum(), x))


def test_scores_of_minus_infinity_are_left_out_of_the_fit() -> None:
    x = descending(3, 6)
    x[1, 4:] = x[2, 1:] = -math.inf
    forecast, scale = gumbel_tail_forecast(x, 50, 500)
    torch.testing.assert_close(forecast[1:2], written_out(x[1:2, :4], 50, 500))
    assert forecast[2] == x[2, 0]
    assert scale[2] == 0.0
    gradient = gradient_of(lambda x: gumbel_tail_forecast(x, 50, 500)[0].sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient[x == -math.inf] == 0).all()
    torch.testing.assert_close(gradient.sum(dim=1), torch.ones(3, dtype=torch.float64))


# --- error spaces


@pytest.mark.parametrize("space", ERROR_SPACES)
def test_error_spaces_equal_the_way_through_the_probability(space: ErrorSpace) -> None:
    psi = torch.linspace(-4.0, 8.0, 97, dtype=torch.float64)
    torch.testing.assert_close(to_error_space(psi, space), transformed(psi, space), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(to_error_space(psi.numpy(), space), to_error_space(psi, space), rtol=1e-14)


@pytest.mark.parametrize("space", ERROR_SPACES[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_spaces_stay_finite_with_their_gradient_far_outside(space: ErrorSpace, dtype: torch.dtype) -> None:
    psi = torch.tensor([-math.inf, -1e4, -100.0, 100.0, 1e4], dtype=dtype)
    assert torch.isfinite(to_error_space(psi, space)).all()
    gradient = gradient_of(lambda psi: to_error_space(psi, space).sum(), psi)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


# --- the whole loss


@pytest.mark.parametrize("gradient", ["full", "stop_realised"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("space", ERROR_SPACES)
@pytest.mark.parametrize("sizes", [(30, 30), (15, 25)])
def test_loss_and_gradient_equal_the_double_loop_over_explicit_subsets(
    sizes: tuple[int, int], space: ErrorSpace, penalty: Penalty, gradient: GradientMode
) -> None:
    n_eval, n_deploy = sizes
    psi = scores(60, seed=1)
    loss = ForecastabilityLoss(
        n_eval, n_deploy, tail_k=6, n_partitions=32, error_space=space, penalty=penalty, gradient=gradient
    )
    order, rng = psi.argsort(descending=True), np.random.default_rng(2)
    subsets = [np.split(rng.permutation(60), [n_eval, n_eval + n_deploy])[:2] for _ in range(32)]  # as ranks
    eval_rank, deploy_rank = [np.sort(e)[:6] for e, _ in subsets], [d.min() for _, d in subsets]
    parts = Partitions(60, n_eval, n_deploy, np.array(eval_rank), np.array(deploy_rank), np.ones(32, dtype=bool), 60)

    def double_loop(psi: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for evaluation, deployment in subsets:
            x = psi[order[evaluation]].sort(descending=True).values[:6]
            realised = psi[order[deployment]].max()
            if gradient == "stop_realised":
                realised = realised.detach()
            error = transformed(written_out(x[None], n_eval, n_deploy), space) - transformed(realised, space)
            total = total + penalised(error, penalty).sum() / 32
        return total

    weight, terms = task_weights(loss, psi, parts)
    torch.testing.assert_close(terms.loss, double_loop(psi), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weight, gradient_of(double_loop, psi), rtol=1e-8, atol=1e-10)
    assert terms.under_prediction_rate == (terms.realised > terms.forecast).double().mean()
    for name in ("forecast", "realised", "error", "tail_scale"):
        assert not getattr(terms, name).requires_grad


@pytest.mark.parametrize(("n_tasks", "n_eval", "n_deploy"), [(60, 20, 40), (1200, 600, 600), (1200, 200, 700)])
def test_loss_is_distributed_as_over_naive_permutations(n_tasks: int, n_eval: int, n_deploy: int) -> None:
    """Drawn exactly, and by Sobol labels without and with unused tasks."""
    psi = scores(n_tasks, seed=6)
    torch_rng = torch.Generator().manual_seed(0)
    naive = []
    for _ in range(3000):
        permutation = torch.randperm(n_tasks, generator=torch_rng)
        x = psi[permutation[:n_eval]].topk(10).values
        realised = psi[permutation[n_eval : n_eval + n_deploy]].max()
        naive.append((written_out(x[None], n_eval, n_deploy) - realised).item())
    loss = ForecastabilityLoss(n_eval, n_deploy, n_partitions=16384)
    fast = loss(psi, np.random.default_rng(7)).error.numpy()
    for moment in (1, 2):
        slow = np.power(naive, moment)
        assert abs(slow.mean() - np.power(fast, moment).mean()) < 4 * slow.std() / math.sqrt(3000)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-20, 20), n_unused=st.sampled_from([0, 7]))
def test_order_of_tasks_and_origin_of_psi_do_not_matter(seed: int, shift: float, n_unused: int) -> None:
    rng = np.random.default_rng(seed)
    psi = torch.tensor(rng.standard_exponential(50 + n_unused))
    order = torch.tensor(rng.permutation(len(psi)))
    loss = ForecastabilityLoss(20, 30, n_partitions=8)
    parts = loss.partitions(len(psi), rng)
    weight, terms = task_weights(loss, psi, parts)
    permuted, _ = task_weights(loss, psi[order], parts)
    np.testing.assert_allclose(permuted, weight[order], rtol=1e-12, atol=1e-12)
    shifted_weight, shifted = task_weights(loss, psi + shift, parts)
    size = float(weight.abs().sum())
    assert shifted.loss.item() == pytest.approx(terms.loss.item(), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(shifted_weight, weight, atol=1e-9 * (1 + size))
    # a psi-space error does not see a common shift at all
    assert weight.sum().item() == pytest.approx(0.0, abs=1e-10 * (1 + size))


def test_stop_realised_passes_nothing_through_the_realised_maximum() -> None:
    psi = scores(60, seed=10)
    psi[17] = 40.0
    full = ForecastabilityLoss(20, 40, tail_k=5, n_partitions=64)
    parts = full.partitions(60, np.random.default_rng(11))
    rows = parts.deploy_rank == 0
    assert 0 < rows.sum() < 64
    # keep the partitions whose deployment part holds the worst task: it never enters a forecast
    held = Partitions(60, 20, 40, parts.eval_rank, parts.deploy_rank, rows, parts.window)
    stopped = ForecastabilityLoss(20, 40, tail_k=5, n_partitions=64, gradient="stop_realised")
    weight_full, terms_full = task_weights(full, psi, held)
    weight, terms = task_weights(stopped, psi, held)
    assert terms.loss == terms_full.loss
    assert weight_full[17] > 1.0
    assert weight[17] == 0.0
    torch.testing.assert_close(weight[:17], weight_full[:17])


def test_psi_cap_caps_values_and_passes_gradients_straight_through() -> None:
    psi = scores(100, seed=12, scale=2.0)
    capped = ForecastabilityLoss(40, 60, tail_k=8, psi_cap=3.0)
    plain = ForecastabilityLoss(40, 60, tail_k=8)
    parts = plain.partitions(100, np.random.default_rng(13))
    weight, terms = task_weights(capped, psi, parts)
    by_hand, expected = task_weights(plain, psi.clamp(max=3.0), parts)
    assert terms.loss == expected.loss
    assert (terms.realised <= 3.0).all()
    above = psi > 3.0
    assert above.sum() > 5
    assert (weight[above] != 0).any()
    # ties at the cap may be shared out in any order, their sum may not
    torch.testing.assert_close(weight[~above], by_hand[~above])
    torch.testing.assert_close(weight[above].sum(), by_hand[above].sum())
    # certain failure still feels the loss
    psi[above] = math.inf
    saturated, _ = task_weights(capped, psi, parts)
    torch.testing.assert_close(saturated[~above], by_hand[~above])
    torch.testing.assert_close(saturated[above].sum(), by_hand[above].sum())


# --- degenerate scores


@pytest.mark.parametrize("space", ERROR_SPACES)
def test_all_equal_scores_are_perfectly_forecast(space: ErrorSpace) -> None:
    psi = torch.full((50,), 0.3, dtype=torch.float32)
    weight, terms = task_weights(ForecastabilityLoss(20, 30, error_space=space), psi, np.random.default_rng(0))
    assert terms.loss == 0.0
    assert (terms.tail_scale == 0).all()
    assert terms.n_valid == 64
    assert (weight == 0).all()


@pytest.mark.parametrize("space", ERROR_SPACES)
def test_scores_of_minus_infinity_are_masked(space: ErrorSpace) -> None:
    psi = scores(60, seed=14)
    psi[torch.arange(60) % 8 != 0] = -math.inf  # 8 finite scores
    loss = ForecastabilityLoss(30, 30, tail_k=10, n_partitions=256, error_space=space)
    parts = loss.partitions(60, np.random.default_rng(15))
    weight, terms = task_weights(loss, psi, parts)
    finite_in_row = (parts.eval_rank < 8).sum(axis=1)
    expected = finite_in_row >= 2
    if space == "psi":
        expected &= parts.deploy_rank < 8
    np.testing.assert_array_equal(terms.valid.numpy(), expected)
    assert 0 < terms.n_valid < 256
    assert terms.n_valid == expected.sum()
    torch.testing.assert_close(terms.loss, torch.nanmean(terms.error.square()))
    assert torch.isnan(terms.error[~terms.valid]).all()
    assert torch.isfinite(weight).all()
    assert (weight[psi == -math.inf] == 0).all()
    assert weight.abs().sum() > 0


def test_a_deployment_part_without_failures_sits_at_the_floor() -> None:
    psi = torch.full((40,), -math.inf, dtype=torch.float64)
    psi[:3] = torch.tensor([3.0, 2.0, 1.0])
    rows = np.array([[0, 1, 2]])
    parts = Partitions(40, 10, 30, rows, np.array([3]), np.array([True]), 4)
    for space in ERROR_SPACES[1:]:
        loss = ForecastabilityLoss(10, 30, tail_k=3, n_partitions=1, error_space=space)
        weight, terms = task_weights(loss, psi, parts)
        assert terms.n_valid == 1
        floor = -6.0 if space == "log10_p" else math.log(1e-6 / (1 - 1e-6))
        expected = transformed(written_out(psi[None, :3], 10, 30), space) - floor
        torch.testing.assert_close(terms.error, expected, rtol=1e-9, atol=1e-9)
        assert (weight[:3] != 0).all()
        assert (weight[3:] == 0).all()
    _, terms = task_weights(ForecastabilityLoss(10, 30, tail_k=3, n_partitions=1), psi, parts)
    assert terms.n_valid == 0


@pytest.mark.parametrize("n_finite", [0, 1])
def test_no_valid_partition_gives_zero_loss_and_zero_gradient(n_finite: int) -> None:
    psi = torch.full((40,), -math.inf)
    psi[:n_finite] = 1.0
    leaf = psi.requires_grad_()
    terms = ForecastabilityLoss(20, 20)(leaf, np.random.default_rng(0))
    torch.autograd.backward(terms.loss)
    assert terms.loss == 0.0
    assert terms.n_valid == 0
    assert leaf.grad is not None
    assert (leaf.grad == 0).all()
    assert torch.isnan(terms.forecast).all()


def test_scores_that_are_no_scores_are_refused() -> None:
    loss = ForecastabilityLoss(20, 30)
    rng = np.random.default_rng(0)
    psi = scores(50)
    for bad, message in ((math.nan, "1 NaN"), (math.inf, r"\+inf")):
        broken = psi.clone()
        broken[7] = bad
        with pytest.raises(ValueError, match=message):
            loss(broken, rng)
    with pytest.raises(ValueError, match="NaN"):
        ForecastabilityLoss(20, 30, psi_cap=3.0)(torch.where(psi == psi.min(), math.nan, psi), rng)
    with pytest.raises(ValueError, match="do not fit"):
        loss(psi[:49], rng)
    with pytest.raises(ValueError, match="shape"):
        loss(psi[None], rng)
    with pytest.raises(TypeError, match="float16"):
        loss(psi.half(), rng)
    with pytest.raises(ValueError, match="drawn for"):
        loss(scores(60), loss.partitions(50, rng))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_eval": 1}, "n_eval >= 2"),
        ({"tail_k": 1}, "tail_k >= 2"),
        ({"n_deploy": 0}, "at least 1"),
        ({"n_partitions": 0}, "at least 1"),
        ({"error_space": "p"}, "unknown error space"),
        ({"penalty": "absolute"}, "unknown penalty"),
        ({"gradient": "stop_forecast"}, "raises failures"),
        ({"psi_cap": math.inf}, "psi_cap"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastabilityLoss(**{"n_eval": 20, "n_deploy": 30, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_give_the_same_weights_there(dtype: torch.dtype) -> None:
    psi = scores(2000, seed=25).to(dtype)
    for space in ERROR_SPACES:
        loss = ForecastabilityLoss(300, 900, error_space=space, penalty="huber", psi_cap=5.0)
        parts = loss.partitions(2000, np.random.default_rng(26))
        weight, terms = task_weights(loss, psi, parts)
        on_gpu, gpu_terms = task_weights(loss, psi.cuda(), parts)
        assert on_gpu.device.type == gpu_terms.error.device.type == "cuda"
        assert on_gpu.dtype == dtype
        torch.testing.assert_close(on_gpu.cpu(), weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(gpu_terms.loss.cpu(), terms.loss, rtol=1e-4, atol=1e-4)
    assert one_sided_anchor(psi.cuda(), psi.cuda() - 0.1).item() == pytest.approx(100 * 0.01 / 2000, rel=1e-3)


def test_the_automatic_number_of_partitions_is_the_first_quiet_one() -> None:
    """Partition noise below a tenth of the noise of drawing the tasks, measured on other scores than the rule's."""
    m, n = 100, 900
    rng = np.random.default_rng(1)
    tasks = [torch.tensor(-np.sort(-rng.gumbel(size=m + n))) for _ in range(60)]

    def noise(sets: list[torch.Tensor], r: int) -> float:
        loss = ForecastabilityLoss(m, n, n_partitions=r)
        return float(torch.stack([task_weights(loss, psi, rng)[0] for psi in sets]).var(dim=0).sum().sqrt())

    chosen = len(ForecastabilityLoss(m, n, n_partitions="auto")(tasks[0], rng).error)
    assert chosen > 64  # a small evaluation part moves much with its partition
    ratio = noise(tasks, 1024) / np.mean([noise([psi] * 20, chosen) for psi in tasks[:6]])
    assert 6 < ratio < 30
    half = len(ForecastabilityLoss(500, 500, n_partitions="auto")(tasks[0], rng).error)
    assert 16 <= half < chosen
    with pytest.raises(ValueError, match="'auto'"):
        ForecastabilityLoss(10, 10, n_partitions="many")  # type: ignore[arg-type]


# --- the anchor


def test_anchor_counts_the_worst_violations_only() -> None:
    base = torch.zeros(200, dtype=torch.float64)
    psi = scores(200, seed=24, shift=-1.0)
    rise = psi.clamp(min=0).sort(descending=True).values
    assert (rise > 0).sum() > 20
    assert one_sided_anchor(psi, base, worst=20).item() == pytest.approx(rise[:20].square().sum().item() / 200)
    assert one_sided_anchor(psi, base, worst=1000).item() == pytest.approx(rise.square().sum().item() / 200)
    gradient = gradient_of(lambda psi: one_sided_anchor(psi, base, worst=20), psi)
    assert (gradient >= 0).all()
    assert (gradient > 0).sum() == 20
    assert torch.autograd.gradcheck(lambda psi: one_sided_anchor(psi, base), (psi.requires_grad_(),))


def test_anchor_at_infinite_scores() -> None:
    floor = -math.log(-math.log(1e-6))
    psi = torch.tensor([-math.inf, -math.inf, 1.0, 1.0, -5.0, 1.0])
    base = torch.tensor([-math.inf, 0.0, -math.inf, math.inf, -math.inf, 0.5])
    expected = ((1.0 - floor) ** 2 + 0.5**2) / 6
    assert one_sided_anchor(psi, base).item() == pytest.approx(expected, rel=1e-6)
    gradient = gradient_of(lambda psi: one_sided_anchor(psi, base), psi)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 2 * (1 - floor) / 6, 0.0, 0.0, 1 / 6]))


def test_anchor_refuses_what_it_cannot_judge() -> None:
    psi = torch.zeros(3)
    for bad_psi, bad_base in ((math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0)):
        with pytest.raises(ValueError, match="NaN"):
            one_sided_anchor(psi + bad_psi, psi + bad_base)
    with pytest.raises(ValueError, match="shape"):
        one_sided_anchor(psi, psi[:2])
    with pytest.raises(ValueError, match="worst"):
        one_sided_anchor(psi, psi, worst=0)
