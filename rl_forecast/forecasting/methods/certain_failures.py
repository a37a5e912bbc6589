"""Queries that fail for certain: scores with ``p = 1``, which no tail model contains.

They are an atom at ``psi = +inf``. With c of them among m scores, the chance that n new queries hold none is that of
the c-th order statistic, ``prod_{i<c} (m - i) / (m + n - i)``; given none, the tail of the finite scores holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rl_forecast.forecasting.methods.base import FittedTail
from rl_forecast.forecasting.methods.ensemble import TailEnsemble, order_statistic_log_cdf

if TYPE_CHECKING:
    from rl_forecast.summary import TailSummary

__all__ = ["CertainFailureFit", "FitsFiniteScores", "without_certain_failures"]

FitT = TypeVar("FitT", bound=FittedTail, covariant=True)


def without_certain_failures(summary: TailSummary) -> TailSummary:
    """The summary of the scores with ``p < 1``."""
    finite = summary.top[summary.top < np.inf]
    return replace(summary, count=summary.count - summary.n_pos_inf, top=finite, n_pos_inf=0)


@dataclass(frozen=True)
class CertainFailureFit:
    """A fitted tail beside an atom of certain failures.

    :param finite: the tail of the scores with ``p < 1``
    :param n_certain: number c of scores with ``p = 1``
    :param n_eval: number m of all scores
    """

    finite: FittedTail
    n_certain: int
    n_eval: int

    @property
    def tail_scale(self) -> float:
        """Scale of the finite scores' tail, psi."""
        return self.finite.tail_scale

    @property
    def ensemble(self) -> TailEnsemble:
        """The tails of the finite scores; the atom is not among them."""
        return self.finite.ensemble

    def _log_none_certain(self, n_deploy: int) -> float:
        return float(order_statistic_log_cdf(self.n_certain, self.n_eval, n_deploy)[-1])

    def point(self, n_deploy: int) -> float:
        """Predictive median of the maximum, psi; ``+inf`` where a certain failure is more likely than not."""
        return self.quantile(0.5, n_deploy)

    def quantile(self, level: float, n_deploy: int) -> float:
        """Predictive quantile of the maximum, psi; ``+inf`` stands for a certain failure."""
        conditional = level / np.exp(self._log_none_certain(n_deploy))
        return self.finite.quantile(float(conditional), n_deploy) if conditional < 1.0 else float("inf")

    def exceedance(self, psi: float, n_deploy: int) -> float:
        """Predictive probability that the maximum exceeds ``psi``."""
        none_certain = float(np.exp(self._log_none_certain(n_deploy)))
        return 1.0 - none_certain * (1.0 - self.finite.exceedance(psi, n_deploy))


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
