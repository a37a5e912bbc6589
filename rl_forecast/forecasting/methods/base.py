"""What every forecaster promises: fit a tail to a summary, answer for any deployment size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rl_forecast.forecasting.methods.ensemble import TailEnsemble
    from rl_forecast.summary import TailSummary

__all__ = ["EnsembleFit", "FittedTail", "Forecaster", "NoTailError", "top_finite"]


class NoTailError(ValueError):
    """The scores hold no tail to fit: too few, or too few distinct ones."""


class FittedTail(Protocol):
    """A tail fitted to one evaluation; all scores are psi."""

    @property
    def tail_scale(self) -> float:
        """Scale sigma of the tail: the psi gained per e-fold more queries."""

    @property
    def ensemble(self) -> TailEnsemble:
        """The tails that the scores leave possible, with weights."""

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

        :raises NoTailError: fewer than two distinct finite scores among those the method uses
        """


@dataclass(frozen=True)
class EnsembleFit:
    """A fitted tail whose every answer, the point included, is read off its ensemble.

    :param ensemble: the tails left possible
    :param tail_scale: scale of the tail, psi
    """

    ensemble: TailEnsemble
    tail_scale: float

    def point(self, n_deploy: int) -> float:
        """Predictive median of the maximum of ``n_deploy`` new scores, psi."""
        return self.quantile(0.5, n_deploy)

    def quantile(self, level: float, n_deploy: int) -> float:
        """Predictive quantile of the maximum of ``n_deploy`` new scores, psi; estimation error included."""
        return self.ensemble.maximum_quantile(level, n_deploy)

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Predictive probability that the maximum of ``n_deploy`` new scores exceeds ``psi``."""
        return self.ensemble.maximum_exceedance(psi, n_deploy)


def top_finite(summary: TailSummary, tail_k: int) -> NDArray[np.float64]:
    """The ``tail_k`` largest finite scores, fewer where fewer are finite.

    :return: shape (k_eff,), psi, descending
    :raises NoTailError: fewer than two distinct ones: no tail can be fitted
    """
    top = summary.top[np.isfinite(summary.top)][:tail_k]
    if top.size < 2 or top[0] == top[-1]:
        distinct = np.unique(top).size
        raise NoTailError(
            f"the {min(tail_k, summary.count)} largest scores hold {distinct} distinct finite "
            f"value{'' if distinct == 1 else 's'}, a tail needs at least 2: evaluate more queries or raise tail_k"
        )
    return top
