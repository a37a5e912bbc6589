"""What a forecast needs to know of an evaluation, in a few kilobytes: count, moments and the largest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["TailSummary"]


@dataclass(frozen=True)
class TailSummary:
    """Sufficient summary of a set of evaluation scores.

    :param count: number m of scores, those with ``psi = -inf`` included
    :param top: shape (K,), psi, the K largest scores in descending order, ``-inf`` included
    :param n_neg_inf: how many scores are ``-inf`` (``p = 0``)
    :param sum_psi: sum of the finite psi scores
    :param sum_psi_squared: sum of their squares
    """

    count: int
    top: NDArray[np.float64]
    n_neg_inf: int
    sum_psi: float
    sum_psi_squared: float

    DEFAULT_CAPACITY = 1000

    @classmethod
    def from_scores(cls, psi: ArrayLike, capacity: int = DEFAULT_CAPACITY) -> TailSummary:
        """Summarise psi scores.

        :param psi: shape (m,), psi scores, in any order
        :param capacity: number K of largest scores kept
        :raises ValueError: empty, not one-dimensional, or NaN
        """
        psi = np.asarray(psi, dtype=np.float64)
        if psi.ndim != 1 or psi.size == 0:
            raise ValueError(f"psi must be a non-empty vector, its shape is {psi.shape}")
        if np.isnan(psi).any():
            raise ValueError(f"{int(np.isnan(psi).sum())} of {psi.size} scores are NaN")
        largest = psi if psi.size <= capacity else np.partition(psi, psi.size - capacity)[-capacity:]
        finite = psi[np.isfinite(psi)]
        return cls(
            count=int(psi.size),
            top=np.sort(largest)[::-1],
            n_neg_inf=int(np.isneginf(psi).sum()),
            sum_psi=float(finite.sum()),
            sum_psi_squared=float(np.square(finite).sum()),
        )
