"""What every forecaster promises: fit a tail to a summary, answer for any deployment size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rl_forecast.summary import TailSummary

__all__ = ["FittedTail", "Forecaster", "top_finite"]


class FittedTail(Protocol):
    """A tail fitted to one evaluation; all scores are psi."""

    @property
    def tail_scale(self) -> float:
        """Scale sigma of the tail: the psi gained per e-fold more queries."""

    def point(self, n_deploy: int) -> float:
        """Forecast of the largest psi among ``n_deploy`` new queries."""

    def quantile(self, level: float, n_deploy: int) -> float:
        """The ``level`` quantile (probability) of the largest psi among ``n_deploy`` new queries."""

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Probability that the largest of ``n_deploy`` new queries exceeds ``psi``."""


class Forecaster(Protocol):
    """A method that extrapolates the tail of evaluation scores. Implementations are frozen dataclasses of settings."""

    @property
    def name(self) -> str:
        """Name by which configurations and command lines choose the method."""

    def fit(self, summary: TailSummary) -> FittedTail:
        """Fit the tail.

        :raises ValueError: fewer than two distinct finite scores among those the method uses
        """


def top_finite(summary: TailSummary, tail_k: int) -> NDArray[np.float64]:
    """The ``tail_k`` largest scores, fewer where fewer are finite.

    :return: shape (k_eff,), psi, descending
    :raises ValueError: fewer than two distinct finite scores: no tail can be fitted
    """
    top = summary.top[:tail_k]
    top = top[np.isfinite(top)]
    if top.size < 2 or top[0] == top[-1]:
        raise ValueError(
            f"the {min(tail_k, summary.count)} largest scores hold {np.unique(top).size} distinct finite value(s), "
            "a tail needs at least 2: evaluate more tasks or raise tail_k"
        )
    return top
