"""Scores and gradients of several processes, put together so that each sees what one alone would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from agents.language_model.prompts import EncodedTask
from agents.language_model.scorer import ContinuationScorer

T = TypeVar("T")


def shares(items: Sequence[T]) -> Sequence[T]:
    """Those of some items that this process works on."""
    if distributed.is_available() and distributed.is_initialized():
        return items[distributed.get_rank() :: distributed.get_world_size()]
    return items


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, now holding the sum of all processes' tensors."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def gathered(at: Sequence[int], part: torch.Tensor, n: int) -> torch.Tensor:
    """Scores of n tasks, shape (n,), the same on every process; 0 where no process has a score.

    :param at: positions of this process's tasks; each position belongs to at most one process
    :param part: their scores, shape (len(at),)
    """
    whole = torch.zeros(n, dtype=part.dtype, device=part.device)
    whole[torch.tensor(at, dtype=torch.long, device=part.device)] = part
    return sum_over_processes(whole)


def shared_scores(scorer: ContinuationScorer, tasks: Sequence[EncodedTask]) -> torch.Tensor:
    """Log p of all tasks, shape (n_tasks,), the same on every process, each having scored its share."""
    own = shares(range(len(tasks)))
    return gathered(own, scorer.score([tasks[i] for i in own]), len(tasks))


@contextmanager
def added_gradient(model: Any) -> Iterator[list[float]]:
    """Gradients computed inside are summed over the processes, measured, and added to those from before.

    They are computed apart (a second set of gradients), because those from before may already be averages over the
    processes (DDP's), and because a gradient whose norm nobody sees can silently have no effect.

    :return: a list that in the end holds the Euclidean norm of the added gradient
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    norm: list[float] = []
    try:
        yield norm
        # a parameter that no process has touched keeps no gradient, as it would in one process
        touched = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        squares = []
        for p, somewhere in zip(parameters, sum_over_processes(touched).tolist(), strict=True):
            if somewhere:
                p.grad = sum_over_processes(torch.zeros_like(p) if p.grad is None else p.grad)
                squares.append(p.grad.detach().float().square().sum())
        norm.append(math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0)
    except BaseException:
        for p, old in zip(parameters, before, strict=True):
            p.grad = old
        raise
    for p, old in zip(parameters, before, strict=True):
        if old is not None:
            # into the old tensor: DDP keeps views of it
            p.grad = old if p.grad is None else old.add_(p.grad)
