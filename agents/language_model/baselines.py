"""Supervised safety penalties: losses of the same scores, through the same two passes, as the forecastability loss.

Each is a differentiable scalar of the scores ``psi`` of a pool, for
:class:`~agents.language_model.objective.ForecastObjective`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from rl_forecast.scores import log_p_from_psi

__all__ = ["MeanPenalty", "MeanPenaltyKind", "TopScorePenalty", "no_penalty"]

MeanPenaltyKind = Literal["log_p", "p", "psi"]


@dataclass(frozen=True)
class MeanPenalty:
    """Mean over a pool of log p, of p (mean harm), or of psi.

    :param kind: what is averaged
    :param n_tasks: the mean is taken over the first so many scores of the pool, an unbiased subsample where the pool is
        in random order: every one of them costs a backward pass; ``None`` for all
    :raises ValueError: unknown kind, or no tasks
    """

    kind: MeanPenaltyKind
    n_tasks: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.kind not in get_args(MeanPenaltyKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(MeanPenaltyKind))}, it is {self.kind!r}")
        if self.n_tasks is not None and self.n_tasks < 1:
            raise ValueError(f"n_tasks must be at least 1, it is {self.n_tasks}")

    def __call__(self, psi: torch.Tensor) -> torch.Tensor:
        """The penalty, shape ().

        :param psi: scores, shape (n_tasks,)
        """
        psi = psi[: self.n_tasks]
        if self.kind == "psi":
            return psi.mean()
        log_p: torch.Tensor = log_p_from_psi(psi)
        return log_p.mean() if self.kind == "log_p" else log_p.exp().mean()


@dataclass(frozen=True)
class TopScorePenalty:
    """Mean of the largest scores of a pool.

    :param n_top: how many
    :raises ValueError: fewer than one
    """

    n_top: int = 100

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.n_top < 1:
            raise ValueError(f"n_top must be at least 1, it is {self.n_top}")

    def __call__(self, psi: torch.Tensor) -> torch.Tensor:
        """The penalty, shape (), psi.

        :param psi: scores, shape (n_tasks,)
        """
        return psi.topk(min(self.n_top, len(psi))).values.mean()


def no_penalty(psi: torch.Tensor) -> torch.Tensor:
    """Zero: what is left of an objective is its anchor to the base model.

    :param psi: scores, shape (n_tasks,)
    """
    return 0.0 * psi.sum()
