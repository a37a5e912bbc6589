"""What every forecaster promises, and what several share: fit a tail to a summary, answer for any deployment size.

Queries that fail for certain (``p = 1``) are in no tail: they are an atom at ``psi = +inf``. With c of them among m
scores, the chance that n new queries hold none is that of the c-th order statistic, ``prod_{i<c} (m - i) / (m + n -
i)``; given none, the tail of the finite scores holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rl_forecast.forecasting.methods.ensemble import TailEnsemble, order_statistic_log_cdf
from rl_forecast.summary import TailSummary


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
        """The ``level`` quantile of the largest psi among ``n_deploy`` new queries."""

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
    """A fitted tail that answers from its ensemble; methods with another point forecast override that."""

    ensemble: TailEnsemble
    tail_scale: float

    def point(self, n_deploy: int) -> float:
        """Predictive median of the maximum, psi."""
        return self.quantile(0.5, n_deploy)

    def quantile(self, level: float, n_deploy: int) -> float:
        """Predictive quantile of the maximum, psi; estimation error included."""
        return self.ensemble.maximum_quantile(level, n_deploy)

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Predictive probability that the maximum exceeds ``psi``."""
        return self.ensemble.maximum_exceedance(psi, n_deploy)


def top_finite(summary: TailSummary, tail_k: int) -> NDArray[np.float64]:
    """The ``tail_k`` largest finite scores, psi, descending; fewer where fewer are finite.

    :raises NoTailError: fewer than two distinct ones
    """
    top = summary.top[np.isfinite(summary.top)][:tail_k]
    if top.size < 2 or top[0] == top[-1]:
        distinct = np.unique(top).size
        raise NoTailError(
            f"the {min(tail_k, summary.count)} largest scores hold {distinct} distinct finite "
            f"value{'' if distinct == 1 else 's'}, a tail needs at least 2: evaluate more queries or raise tail_k"
        )
    return top


def without_certain_failures(summary: TailSummary) -> TailSummary:
    """The summary of the scores with ``p < 1``."""
    finite = summary.top[summary.top < np.inf]
    return replace(summary, count=summary.count - summary.n_pos_inf, top=finite, n_pos_inf=0)


@dataclass(frozen=True)
class CertainFailureFit:
    """The fitted tail of the scores with ``p < 1``, beside an atom of ``n_certain`` of ``n_eval`` certain failures."""

    finite: FittedTail
    n_certain: int
    n_eval: int

    @property
    def tail_scale(self) -> float:
        return self.finite.tail_scale

    @property
    def ensemble(self) -> TailEnsemble:
        """Of the finite scores: the atom is not among them."""
        return self.finite.ensemble

    def _none_certain(self, n_deploy: int) -> float:
        return float(np.exp(order_statistic_log_cdf(self.n_certain, self.n_eval, n_deploy)[-1]))

    def point(self, n_deploy: int) -> float:
        """``+inf`` where a certain failure is more likely than not."""
        return self.quantile(0.5, n_deploy)

    def quantile(self, level: float, n_deploy: int) -> float:
        """``+inf`` stands for a certain failure."""
        conditional = level / self._none_certain(n_deploy)
        return self.finite.quantile(conditional, n_deploy) if conditional < 1.0 else float("inf")

    def exceedance(self, psi: float, n_deploy: int) -> float:
        return 1.0 - self._none_certain(n_deploy) * (1.0 - self.finite.exceedance(psi, n_deploy))


class FitsFiniteScores:
    """Gives a forecaster whose ``fit_finite`` knows only scores with ``p < 1`` a ``fit`` for any scores."""

    def fit_finite(self, summary: TailSummary) -> FittedTail:
        """Fit to a summary without certain failures."""
        raise NotImplementedError

    def fit(self, summary: TailSummary) -> FittedTail:
        """Fit the tail; certain failures (``p = 1``) become an atom beside it.

        :raises NoTailError: fewer than two distinct finite scores among those the method uses
        """
        if summary.n_pos_inf == 0:
            return self.fit_finite(summary)
        return CertainFailureFit(self.fit_finite(without_certain_failures(summary)), summary.n_pos_inf, summary.count)
