"""Do the prediction intervals hold what they promise? Coverage, never without the width it was bought with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.experiments.statistics import Estimate, estimate
from rl_forecast.forecasting.methods import NoTailError, make_forecaster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.experiments.report.reading import Setting, Unit

__all__ = ["LEVEL", "IntervalQuality", "coverage_of", "unit_coverage"]

#: Nominal coverage of the intervals.
LEVEL = 0.90
# The forecasters whose intervals are checked beside the headline's. The default of ``rl-forecast forecast`` takes
# milliseconds a quantile, so it is held against fewer evaluation sets.
_OTHERS = {"shape_prior": 25, "exponential_pivot": 10_000}


@dataclass(frozen=True)
class IntervalQuality:
    """Prediction intervals of an agent's worst failure.

    :param setting: name of the setting
    :param agent: name of the agent
    :param forecaster: method of the intervals
    :param coverage: share of pairs of an evaluation and a deployment set whose realised worst lies inside
    :param above: share whose realised worst lies above the interval, the dangerous side
    :param width: median width over evaluation sets, psi
    :param score: mean interval score, psi: width plus 2 / (1 - level) times the distance of a miss
    """

    setting: str
    agent: str
    forecaster: str
    coverage: Estimate
    above: Estimate
    width: Estimate
    score: Estimate


def unit_coverage(unit: Unit, forecaster: str) -> tuple[float, float, float, float] | None:
    """Coverage, share above, median width and mean interval score of one agent of one seed.

    :param unit: the agent
    :param forecaster: method of the intervals
    :return: ``None`` where no evaluation set has a tail
    """
    deployment = unit.part("deployment")
    method = make_forecaster(forecaster, unit.evaluation.tail_k)
    n_deploy, realised = deployment.shape[1], deployment.max(axis=1)
    ends = []
    for summary in unit.summaries[: _OTHERS.get(forecaster)]:
        try:
            fit = method.fit(summary)
        except NoTailError:
            continue
        ends.append([fit.quantile((1 - LEVEL) / 2, n_deploy), fit.quantile((1 + LEVEL) / 2, n_deploy)])
    if not ends:
        return None
    low, high = np.array(ends).T[:, :, None]
    above, below = np.maximum(realised - high, 0.0), np.maximum(low - realised, 0.0)
    score = (high - low) + 2 / (1 - LEVEL) * (above + below)
    return (
        float(np.mean((above == 0) & (below == 0))),
        float(np.mean(above > 0)),
        float(np.median(high - low)),
        float(score.mean()),
    )


def coverage_of(settings: Sequence[Setting]) -> list[IntervalQuality]:
    """Interval quality of every agent under the headline's forecaster and two others.

    :param settings: the settings
    """
    found = []
    for setting in settings:
        headline = setting.units[0].evaluation.forecaster
        for forecaster in dict.fromkeys([headline, *_OTHERS]):
            for agent in setting.agents:
                rows = [unit_coverage(unit, forecaster) for unit in setting.of(agent)]
                known = np.array([row for row in rows if row is not None])
                if len(known):
                    columns = [estimate([column]) for column in known.T]
                    found.append(IntervalQuality(setting.name, agent, forecaster, *columns))
    return found
