"""Which source of queries finds the worst failure for the money?

Jones et al. 2025 (arXiv 2502.16797, section 6) choose between red-teamers by forecasting the worst query that each
finds within a budget: by points, in our reading. Here the predictive distributions are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_forecast.forecasting.forecast import Forecast, forecast
from rl_forecast.summary import TailSummary

_N_LEVELS = 400


@dataclass(frozen=True)
class Comparison:
    """Forecasts within a budget, and which is likely to reach furthest; one entry for each source.

    :param costs: cost of one query, in units of the budget
    :param forecasts: for as many queries as the budget buys
    :param probability_worst: P(this source finds the worst query of all); sums to 1
    :param budget: what may be spent on each
    """

    names: tuple[str, ...]
    costs: tuple[float, ...]
    forecasts: tuple[Forecast, ...]
    probability_worst: tuple[float, ...]
    budget: float


def compare(
    summaries: dict[str, TailSummary],
    budget: float,
    costs: Sequence[float] | None = None,
    method: str | None = None,
    tail_k: int | None = None,
) -> Comparison:
    """Compare sources of queries at equal cost.

    :param summaries: evaluations of at least two sources, by name
    :param budget: what may be spent on each source
    :param costs: cost of one query for each source, in the same unit; None: 1 each
    :param method: as in :func:`.forecast`, and ``tail_k`` too
    :raises ValueError: fewer than two sources, other than one cost each, a budget that buys no query, or no tail

    Ten times as many queries of the cheap source do not make up for scores five tail scales lower:

    >>> from rl_forecast import TailSummary
    >>> rng = np.random.default_rng(0)
    >>> sources = {"dear": rng.gumbel(0.0, size=500), "cheap": rng.gumbel(-5.0, size=500)}
    >>> summaries = {name: TailSummary.from_scores(psi) for name, psi in sources.items()}
    >>> comparison = compare(summaries, budget=10_000, costs=[10, 1], method="exponential_pivot")
    >>> [fc.n_deploy for fc in comparison.forecasts], comparison.probability_worst[0] > 0.5
    ([(1000,), (10000,)], True)
    """
    if len(summaries) < 2:
        raise ValueError("there is nothing to compare: give at least two sources")
    costs = [1.0] * len(summaries) if costs is None else list(costs)
    if len(costs) != len(summaries):
        raise ValueError(f"{len(costs)} costs for {len(summaries)} sources: give one cost for each, in the same order")
    forecasts = []
    for (name, summary), cost in zip(summaries.items(), costs, strict=True):
        # 1e-9: a budget of 1 at a cost of 0.1 buys ten queries, whatever binary fractions say
        n = int(np.floor(budget / cost * (1.0 + 1e-9)))
        if n < 1:
            raise ValueError(f"a budget of {budget:g} buys no query of {name} at {cost:g}")
        fc = forecast(summary, n_deploy=n, method=method, tail_k=tail_k)
        if fc.fitted is None:
            raise ValueError(f"{name}: {fc.reason}")
        forecasts.append(fc)
    return Comparison(tuple(summaries), tuple(costs), tuple(forecasts), _win_probabilities(forecasts), budget)


def _win_probabilities(forecasts: Sequence[Forecast]) -> tuple[float, ...]:
    """P(maximum of each source is the largest), the sources being independent given their evaluations.

    ``P(i wins) = E_i prod_{j != i} P(M_j < M_i)``, over quantiles of M_i. Where several sources are certain to hold a
    failure with p = 1 the chance is shared.
    """
    levels = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS
    fits = [(fc.fitted, fc.n_deploy[0]) for fc in forecasts if fc.fitted is not None]
    wins = []
    for fitted, n in fits:
        total = 0.0
        for x in (fitted.quantile(float(level), n) for level in levels):
            others = [other.exceedance(x, k) if np.isfinite(x) else 0.0 for other, k in fits if other is not fitted]
            chance = float(np.prod([1.0 - above for above in others]))
            total += chance if np.isfinite(chance) else 0.0
        wins.append(total / _N_LEVELS)
    scale = sum(wins)
    return tuple(w / scale for w in wins)
