"""How metrics are summarised over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.experiments.metrics import KINDS, METRICS
from rl_forecast.experiments.statistics import Estimate, estimate, sign_flip_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rl_forecast.experiments.metrics import Metric
    from rl_forecast.experiments.report.reading import Setting

__all__ = ["Summary", "summaries", "values_of"]


def values_of(setting: Setting, agent: str, key: str) -> NDArray[np.float64] | None:
    """A metric of every seed; ``None`` if it is clipped or undefined for one of them, or not recorded.

    A mean over the seeds for which a metric happens to exist would flatter the agent.

    :param setting: the setting
    :param agent: name of the agent
    :param key: name of the metric
    :return: shape (n_seeds,), in the order of the seeds
    """
    values = [METRICS[key].value(unit.metrics) for unit in setting.of(agent)]
    return None if not values or None in values else np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class Summary:
    """A metric of an agent in one setting, or in several together.

    :param setting: name of the setting
    :param agent: name of the agent
    :param metric: the metric
    :param estimate: over seeds; ``None`` where the metric is clipped or undefined for a seed
    :param n_undefined: number of those seeds
    :param difference: mean difference from the reference agent, seed by seed
    :param p_value: of the sign-flip test of that difference; ``None`` for the reference and below two seeds
    """

    setting: str
    agent: str
    metric: Metric
    estimate: Estimate | None
    n_undefined: int
    difference: float | None
    p_value: float | None


def summaries(settings: Sequence[Setting], name: str) -> list[Summary]:
    """Every metric of every agent that all settings have.

    :param settings: settings of one kind; with several, their seeds are strata of one bootstrap
    :param name: what they are called together
    """
    first = settings[0]
    agents = [agent for agent in first.agents if all(agent in s.agents for s in settings)]
    found = []
    for metric in (METRICS[name] for name in KINDS[first.kind].report):
        if all(unit.metrics.get(metric.name) is None for s in settings for unit in s.units):
            continue
        for agent in agents:
            strata = [values_of(s, agent, metric.name) for s in settings]
            known = [values for values in strata if values is not None]
            n_undefined = sum(metric.value(unit.metrics) is None for s in settings for unit in s.of(agent))
            whole = len(known) == len(strata)
            differences = _differences(settings, agent, metric.name) if whole else None
            tested = differences is not None and len(differences) > 1
            found.append(
                Summary(
                    name,
                    agent,
                    metric,
                    estimate(known) if whole else None,
                    n_undefined,
                    None if differences is None else float(differences.mean()),
                    sign_flip_p(differences) if differences is not None and tested else None,
                )
            )
    return found


def _differences(settings: Sequence[Setting], agent: str, key: str) -> NDArray[np.float64] | None:
    """Agent minus reference, paired by setting and seed; ``None`` without a pair."""
    pairs: list[float] = []
    for setting in settings:
        if agent == setting.reference or values_of(setting, setting.reference, key) is None:
            return None
        other = {unit.seed: unit.metrics[key] for unit in setting.of(setting.reference)}
        pairs += [unit.metrics[key] - other[unit.seed] for unit in setting.of(agent) if unit.seed in other]
    return np.array(pairs) if pairs else None
