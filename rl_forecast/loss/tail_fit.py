"""Torch pieces of the forecastability loss: sorted scores, and the tail forecast with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["gumbel_tail_forecast", "sorted_window"]

# A row whose spread is within this many roundings of its largest score is a tie: its slope would be made of rounding.
_TIE_ROUNDINGS = 16.0


def sorted_window(psi: torch.Tensor, window: int) -> torch.Tensor:
    """The ``window`` largest scores, descending: the only pass over all scores that the loss needs.

    :param psi: scores, shape (n_tasks,), differentiable
    :raises TypeError: not a float32 or float64 tensor
    :raises ValueError: NaN
    """
    if not isinstance(psi, torch.Tensor) or psi.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"psi must be a float32 or float64 tensor, it is {getattr(psi, 'dtype', type(psi).__name__)}")
    top = torch.topk(psi, window, sorted=True).values
    # topk orders NaN above every number, so one look finds any
    if math.isnan(top[0].item()):
        raise ValueError(f"psi holds {int(psi.isnan().sum())} NaN")
    return top


class _GumbelTailForecast(torch.autograd.Function):
    """Least squares on masked rows, with its gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, mask: torch.Tensor, n_eval: int, n_deploy: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
    def backward(ctx: Any, grad_forecast: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (jacobian,) = ctx.saved_tensors
        return grad_forecast.unsqueeze(1) * jacobian, None, None, None


_forecast: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _GumbelTailForecast.apply


def gumbel_tail_forecast(x: torch.Tensor, n_eval: int, n_deploy: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Forecast of the worst deployment score by least squares on the largest evaluation scores, differentiable.

    The line ``log S = a x + b`` through ``(x_i, y_i = log(i / m))`` (Jones et al. 2025, arXiv 2502.16797; the plotting
    position is our reading) reaches ``1 / n`` at

        Q = mean(x) + c T,   T = Sxx / d,   d = |Sxy|,   c = log n + mean(y)

    with the gradient ``dQ/dx_i = 1/k + c [2 (x_i - mean(x)) / d + Sxx (y_i - mean(y)) / d^2]``. It sums to 1 over i,
    and ``sum_i x_i dQ/dx_i = Q``: the forecast moves and stretches with the scores. Differentiable once.

    Guards: scores of ``-inf`` (p = 0) are left out, so a row uses its k_eff finite ones; a row of equal scores has no
    slope, so T = 0, Q is their mean and the gradient 1 / k_eff.

    :param x: shape (R, k), psi, each row the k largest evaluation scores in descending order, ``-inf`` last
    :param n_eval: evaluation size m
    :param n_deploy: deployment size n
    :return: forecast Q, shape (R,), psi, and tail scale T, shape (R,), psi, without gradient. A row without a finite
        score gives zeros.
    """
    return _forecast(x, x.detach() > -math.inf, n_eval, n_deploy)
