"""Scores and gradients of several processes, put together so that each sees what one alone would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agents.language_model.encoding import EncodedTasks
    from agents.language_model.scorer import ContinuationScorer

__all__ = ["GradientTerm", "Gradients", "put_together", "shared_scores"]


def _world() -> tuple[int, int]:
    """Rank of this process, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def shared_scores(scorer: ContinuationScorer, encoded: EncodedTasks) -> torch.Tensor:
    """Log p of all tasks, each process having scored its share.

    :param scorer: scores without gradient
    :param encoded: the same tasks on every process
    :return: log p, shape (n_tasks,), the same on every process
    """
    rank, n_processes = _world()
    if n_processes == 1:
        return scorer.score(encoded)
    # every n-th by length, so that all have as much to do
    own = np.argsort(encoded.row_length[encoded.first_row[:-1]], kind="stable")[rank::n_processes]
    return put_together(own, scorer.score(encoded[own]), len(encoded))


def put_together(own: NDArray[np.int64], part: torch.Tensor, n: int) -> torch.Tensor:
    """Scores of all tasks out of those that each process has.

    :param own: positions that this process has, shape (n_own,); each position belongs to at most one process
    :param part: their scores, shape (n_own,)
    :param n: number of tasks
    :return: shape (n,), the same on every process; 0 where no process had a score
    """
    whole = torch.zeros(n, dtype=part.dtype, device=part.device)
    whole[torch.as_tensor(own, device=part.device)] = part
    if _world()[1] > 1:
        distributed.all_reduce(whole)
    return whole


@dataclass
class GradientTerm:
    """What a term added to the gradients.

    :param norm: Euclidean norm over all parameters
    """

    norm: float = math.nan


class Gradients:
    """The gradients of a model, so that a term can be computed apart and added.

    :param model: its trainable parameters
    """

    def __init__(self, model: Any) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def share_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the tasks to backpropagate are the share of this process."""
        rank, n_processes = _world()
        return positions[rank::n_processes]

    @contextmanager
    def apart(self) -> Iterator[GradientTerm]:
        """Gradients computed inside are summed over the processes, measured, and added to those from before.

        Set aside first, because gradients from before may already be averages over the processes (DDP's), and because
        a term whose gradient norm nobody sees can silently have no effect. Costs a second set of gradients.
        """
        before = [p.grad for p in self._parameters]
        for p in self._parameters:
            p.grad = None
        term = GradientTerm()
        try:
            yield term
            self._sum_over_processes()
            squares = [p.grad.detach().float().square().sum() for p in self._parameters if p.grad is not None]
            term.norm = math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
        except BaseException:
            for p, old in zip(self._parameters, before, strict=True):
                p.grad = old
            raise
        for p, old in zip(self._parameters, before, strict=True):
            if old is not None:
                # into the old tensor: DDP keeps views of it
                p.grad = old if p.grad is None else old.add_(p.grad)

    def _sum_over_processes(self) -> None:
        if _world()[1] == 1:
            return
        # a parameter that no process has touched keeps no gradient, as it would in one process
        touched = torch.tensor([float(p.grad is not None) for p in self._parameters], device=self._parameters[0].device)
        distributed.all_reduce(touched)
        for p, somewhere in zip(self._parameters, touched.tolist(), strict=True):
            if somewhere:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                distributed.all_reduce(p.grad)
