"""The forecastability loss: how badly the worst score of one random part of the tasks is forecast from another.

Our reading of arXiv 2605.15134, whose text was not available. The tasks are split at random into an evaluation part
and a deployment part; the tail of the evaluation part forecasts the worst deployment score ``Q`` (Jones et al. 2025,
arXiv 2502.16797), the deployment part realises it, ``M``; the loss is the mean penalty of ``e = f(Q) - f(M)`` over R
such partitions. Scores are sorted once and every partition only indexes into them.

Low loss is not low risk. The loss falls where the tail narrows, and where many middling scores rise to meet a few high
ones: watch the tail scale and the mean risk, and consider :func:`one_sided_anchor`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rl_forecast.error_spaces import ErrorSpace, error_space_bounds, to_error_space
from rl_forecast.loss.partitions import Partitions, draw_partitions
from rl_forecast.loss.settings import GradientMode, Penalty

# Scores that are sorted, in multiples of tail_k.
_WINDOW = 30
# A row whose spread is within this many roundings of its largest score is a tie: its slope would be made of rounding.
_TIE_ROUNDINGS = 16.0


@dataclass(frozen=True)
class ForecastabilityTerms:
    """The loss and what to watch beside it. Only ``loss`` carries a gradient; rows that are not valid hold NaN.

    :param loss: mean penalty over the valid partitions, shape (); 0 with zero gradient where none is valid
    :param forecast: worst score Q, shape (R,), psi
    :param realised: worst score M, shape (R,), psi
    :param error: ``f(Q) - f(M)`` in the error space, shape (R,)
    :param tail_scale: scale T of the fitted tail, shape (R,), psi per e-fold more tasks
    :param valid: shape (R,), bool; a row needs two finite evaluation scores and, in the psi space, a finite M
    :param n_valid: shape (), int64
    :param under_prediction_rate: share of valid rows with ``M > Q``, shape ()
    """

    loss: torch.Tensor
    forecast: torch.Tensor
    realised: torch.Tensor
    error: torch.Tensor
    tail_scale: torch.Tensor
    valid: torch.Tensor
    n_valid: torch.Tensor
    under_prediction_rate: torch.Tensor


class _StraightThroughCap(torch.autograd.Function):
    """``min(x, cap)`` whose gradient is that of ``x``: a saturated task must still feel the loss."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cap: float) -> torch.Tensor:
        return x.clamp(max=cap)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


@dataclass(frozen=True)
class ForecastabilityLoss:
    """Mean penalty of the worst-score forecast over random partitions; a frozen functor of its settings.

    :param n_eval: evaluation size m, at least 2
    :param n_deploy: deployment size n; tasks beyond ``m + n`` are left out of each partition at random
    :param tail_k: number k of largest evaluation scores the tail is fitted to, at least 2 (Jones et al. use 10)
    :param n_partitions: number R of partitions per call, a power of two for best spread; or ``"auto"``, the smallest
        one whose gradient noise is below a tenth of the noise of drawing the tasks (measured once, in seconds)
    :param error_space: where forecast and realised maximum are compared: ``"psi"`` (the paper's), ``"log10_p"`` or
        ``"log_odds"``, see :mod:`rl_forecast.error_spaces`. Beyond a bound of the space the error has no gradient.
    :param penalty: ``"squared"`` is ``e^2``; ``"huber"`` is ``e^2 / 2`` up to an error of 1 and linear beyond
    :param gradient: ``"full"``, or ``"stop_realised"``: through the forecast only. Through the realised maximum only
        is *not* offered: it lowers the error by raising the deployment's failures to the forecast, and drove a tenth of
        the tasks to certain failure.
    :param psi_cap: values above are capped, but gradients pass as if they were not, so that a task at certain failure
        neither dominates the loss nor is lost to it. ``None`` for no cap.
    :raises ValueError: a setting outside its range

    >>> psi = torch.linspace(-3.0, 3.0, 1_200, requires_grad=True)
    >>> terms = ForecastabilityLoss(n_eval=200, n_deploy=1_000)(psi, np.random.default_rng(0))
    >>> terms.loss.backward()  # a few tasks carry the gradient, whatever their number
    >>> psi.grad.shape, int((psi.grad != 0).sum()) < 200
    (torch.Size([1200]), True)
    """

    n_eval: int
    n_deploy: int
    tail_k: int = 10
    n_partitions: int | Literal["auto"] = 64
    error_space: ErrorSpace = "psi"
    penalty: Penalty = "squared"
    gradient: GradientMode = "full"
    psi_cap: float | None = None

    def __post_init__(self) -> None:
        if self.n_eval < 2 or self.tail_k < 2:
            raise ValueError(f"a tail needs n_eval >= 2 and tail_k >= 2, they are {self.n_eval} and {self.tail_k}")
        if self.n_deploy < 1:
            raise ValueError(f"n_deploy must be at least 1, it is {self.n_deploy}")
        r = self.n_partitions
        if r != "auto" and not (isinstance(r, int) and r >= 1):
            raise ValueError(f"n_partitions must be at least 1 or 'auto', it is {self.n_partitions!r}")
        error_space_bounds(self.error_space)
        if self.penalty not in get_args(Penalty):
            raise ValueError(f"unknown penalty {self.penalty!r}: choose one of {', '.join(get_args(Penalty))}")
        if self.gradient not in get_args(GradientMode):
            raise ValueError(
                f"unknown gradient {self.gradient!r}: choose one of {', '.join(get_args(GradientMode))}. Stopping the "
                "forecast's gradient alone is not offered: it raises failures to meet the forecast."
            )
        if self.psi_cap is not None and not math.isfinite(self.psi_cap):
            raise ValueError(f"psi_cap must be finite or None, it is {self.psi_cap}")

    def partitions(self, n_tasks: int, generator: np.random.Generator) -> Partitions:
        """Fresh partitions of at least ``n_eval + n_deploy`` tasks; the generator is advanced."""
        r = self.n_partitions
        if r == "auto":
            r = _automatic_n_partitions(n_tasks, self.n_eval, self.n_deploy, self.tail_k)
        return draw_partitions(n_tasks, self.n_eval, self.n_deploy, generator, tail_k=self.tail_k, n_partitions=r)

    def __call__(self, psi: torch.Tensor, generator: np.random.Generator | Partitions) -> ForecastabilityTerms:
        """Loss of one set of scores.

        :param psi: scores, shape (n_tasks,), float32 or float64, any device; differentiable. ``-inf`` (p = 0) is left
            out of a row's tail; as realised maximum it sits at the floor of the error space, and psi has none
        :param generator: draws fresh partitions and is advanced; or partitions drawn before, to use again
        :raises TypeError: psi is not a float32 or float64 tensor
        :raises ValueError: shape that does not fit, NaN, or ``+inf`` (p = 1) without a ``psi_cap``
        """
        if not isinstance(psi, torch.Tensor) or psi.dtype not in (torch.float32, torch.float64):
            kind = getattr(psi, "dtype", type(psi).__name__)
            raise TypeError(f"psi must be a float32 or float64 tensor, it is {kind}")
        if psi.ndim != 1:
            raise ValueError(f"psi must have shape (n_tasks,), it has {tuple(psi.shape)}")
        parts = generator if isinstance(generator, Partitions) else self.partitions(psi.shape[0], generator)
        sizes = (parts.n_tasks, parts.n_eval, parts.n_deploy, parts.tail_k)
        wanted = (psi.shape[0], self.n_eval, self.n_deploy, min(self.tail_k, self.n_eval))
        if sizes != wanted:
            raise ValueError(f"partitions were drawn for (N, m, n, k) = {sizes}, the loss is called with {wanted}")
        # Wider than the partitions need: topk orders equal scores by the size of its window, and one size for all
        # partitions keeps it the same tied tasks that get the gradient.
        top = torch.topk(psi, min(psi.shape[0], max(parts.window, _WINDOW * self.tail_k)), sorted=True).values
        if top[0].isnan():  # topk orders NaN above every number
            raise ValueError(f"psi holds {int(psi.isnan().sum())} NaN")
        if self.psi_cap is not None:
            top = _StraightThroughCap.apply(top, self.psi_cap)  # type: ignore[no-untyped-call]
        elif top[0].item() == math.inf:
            raise ValueError("psi holds +inf (p = 1): set psi_cap, or keep log p below 0")

        x = top[torch.as_tensor(parts.eval_rank, device=psi.device)]
        realised = top[torch.as_tensor(parts.deploy_rank, device=psi.device)]
        valid = torch.as_tensor(parts.ok, device=psi.device) & (x.detach()[:, 1] > -math.inf)
        if self.error_space == "psi":
            valid = valid & (realised.detach() > -math.inf)
        forecast, tail_scale = gumbel_tail_forecast(x, self.n_eval, self.n_deploy)
        # double-where: rows that do not count hold harmless numbers, so their zero weight meets no infinity
        forecast, realised = torch.where(valid, forecast, 0.0), torch.where(valid, realised, 0.0)
        target = realised.detach() if self.gradient == "stop_realised" else realised
        error = to_error_space(forecast, self.error_space) - to_error_space(target, self.error_space)
        if self.penalty == "squared":
            penalty = error.square()
        else:
            penalty = functional.huber_loss(error, torch.zeros_like(error), reduction="none")
        n_valid = valid.sum()
        weight = valid.to(error.dtype) / n_valid.clamp(min=1)
        loss = (penalty * weight).sum()
        with torch.no_grad():
            nan = torch.full_like(error, math.nan)
            return ForecastabilityTerms(
                loss=loss,
                forecast=torch.where(valid, forecast, nan),
                realised=torch.where(valid, realised, nan),
                error=torch.where(valid, error, nan),
                tail_scale=torch.where(valid, tail_scale, nan),
                valid=valid,
                n_valid=n_valid,
                under_prediction_rate=((realised > forecast) * weight).sum(),
            )


class _GumbelTailForecast(torch.autograd.Function):
    """Least squares on the finite scores of each row, with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, n_eval: int, n_deploy: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = x > -math.inf
        weight = mask.to(x.dtype)
        count = weight.sum(dim=1, keepdim=True)
        safe_count = count.clamp(min=1.0)
        position = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        y = (position.log() - math.log(n_eval)) * weight
        y_mean = y.sum(dim=1, keepdim=True) / safe_count
        # measured from the row's largest score, so that equal scores give differences of exactly zero
        start = torch.where(mask[:, :1], x[:, :1], 0.0)
        z = torch.where(mask, x - start, 0.0)
        z_mean = z.sum(dim=1, keepdim=True) / safe_count
        dx, dy = (z - z_mean) * weight, (y - y_mean) * weight
        d = (dx * dy).sum(dim=1, keepdim=True).abs()
        largest = torch.where(mask, x, 0.0).abs().amax(dim=1, keepdim=True)
        tied = d <= _TIE_ROUNDINGS * torch.finfo(x.dtype).eps * largest
        # double-where: a tied row is divided by one instead of zero, and its scale is zero by definition
        safe_d = torch.where(tied, 1.0, d)
        scale = torch.where(tied, 0.0, (dx * dx).sum(dim=1, keepdim=True) / safe_d)
        c = math.log(n_deploy) + y_mean
        forecast = start + z_mean + c * scale
        if ctx.needs_input_grad[0]:
            # d T / d x_i = 2 (x_i - mean) / d + T (y_i - mean) / d, never squaring d: it underflows in float32
            slope = torch.where(tied, 0.0, (2.0 * dx + scale * dy) / safe_d)
            ctx.save_for_backward((1.0 / safe_count + c * slope) * weight)
        scale = scale.squeeze(1)
        ctx.mark_non_differentiable(scale)
        return forecast.squeeze(1), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_forecast: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (jacobian,) = ctx.saved_tensors
        return grad_forecast.unsqueeze(1) * jacobian, None, None


def gumbel_tail_forecast(x: torch.Tensor, n_eval: int, n_deploy: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Forecast of the worst deployment score by least squares on the largest evaluation scores, differentiable.

    The line ``log S = a x + b`` through ``(x_i, y_i = log(i / m))`` (Jones et al. 2025, arXiv 2502.16797; the plotting
    position is our reading) reaches ``1 / n`` at

        Q = mean(x) + c T,   T = Sxx / d,   d = |Sxy|,   c = log n + mean(y)

    with the gradient ``dQ/dx_i = 1/k + c [2 (x_i - mean(x)) / d + Sxx (y_i - mean(y)) / d^2]``. It sums to 1 over i,
    and ``sum_i x_i dQ/dx_i = Q``: the forecast moves and stretches with the scores. Differentiable once. A row uses its
    k_eff finite scores; where they are equal, T = 0, Q is their mean and the gradient 1 / k_eff.

    :param x: shape (R, k), psi, each row the k largest evaluation scores in descending order, ``-inf`` last
    :return: forecast Q, shape (R,), psi, and tail scale T, shape (R,), psi, without gradient; zeros in a row without a
        finite score
    """
    forecast: tuple[torch.Tensor, torch.Tensor] = _GumbelTailForecast.apply(x, n_eval, n_deploy)  # type: ignore[no-untyped-call]
    return forecast


@lru_cache(maxsize=64)
def _automatic_n_partitions(n_tasks: int, n_eval: int, n_deploy: int, tail_k: int, largest: int = 1024) -> int:
    """Smallest power of two whose partition noise is below a tenth of the noise of drawing the tasks.

    Both are measured on the gradient by rank, on standard exponential scores: a loss in psi is equivariant under shift
    and scale, so the choice depends on the sizes alone. The noise of every R is measured, not extrapolated: with Sobol
    gaps it falls faster than ``1 / sqrt(R)``.
    """
    rng = np.random.default_rng(0)
    # 32 replicates: the noise is then known to about an eighth, while the rule works in factors of two
    tasks = [torch.tensor(np.sort(rng.exponential(size=n_tasks))[::-1].copy()) for _ in range(32)]

    def noise(sets: list[torch.Tensor], r: int) -> float:
        loss = ForecastabilityLoss(n_eval, n_deploy, tail_k, n_partitions=r)
        gradients = []
        with torch.enable_grad():
            for psi in sets:
                leaf = psi.detach().requires_grad_()
                gradients.append(torch.autograd.grad(loss(leaf, rng).loss, leaf)[0])
        return float(torch.stack(gradients).var(dim=0).sum().sqrt())

    limit, r = 0.1 * noise(tasks, largest), 1
    # over several task sets: how noisy partitions are depends on the few scores at the top
    while 2 * r <= largest and np.sqrt(np.mean([noise([psi] * 8, r) ** 2 for psi in tasks[:4]])) >= limit:
        r *= 2
    return r


def one_sided_anchor(psi: torch.Tensor, psi_base: torch.Tensor, worst: int = 100) -> torch.Tensor:
    """Penalty on scores raised above those of a base policy: ``sum of the worst relu(psi - psi_base)^2 / N``.

    Forecasting improves when middling failures rise to meet a rare bad mode; this makes it cost something.

    :param psi: scores, shape (n_tasks,); ``-inf`` violates nothing and gets no gradient
    :param psi_base: base scores of the same tasks, same shape, not differentiated. A base of ``-inf`` (p = 0) would
        make any failure infinitely worse, so it counts as p = 1e-6, the floor of the error spaces; ``+inf`` cannot be
        violated.
    :param worst: number of largest violations that count
    :return: shape (), psi squared; differentiable in ``psi``
    :raises ValueError: shapes differ, no tasks, ``worst`` below 1, NaN, or a psi of ``+inf``

    >>> one_sided_anchor(torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, -1.0, 0.0]))  # 2 psi too high, one of three
    tensor(1.3333)
    """
    if psi.ndim != 1 or psi.shape != psi_base.shape or psi.numel() == 0:
        raise ValueError(f"psi and psi_base must have one shape (n_tasks,), they have {psi.shape} and {psi_base.shape}")
    if worst < 1:
        raise ValueError(f"worst must be at least 1, it is {worst}")
    base = psi_base.detach().to(psi.dtype)
    base = torch.where(base == -math.inf, error_space_bounds("log10_p")[0], base)
    if bool((psi.detach().isnan() | base.isnan() | (psi.detach() == math.inf)).any()):
        raise ValueError("psi and psi_base must not hold NaN, and psi must stay below +inf")
    violation = torch.where(psi > base, psi - base, 0.0)
    return torch.topk(violation, min(worst, psi.numel())).values.square().sum() / psi.numel()
