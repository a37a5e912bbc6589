"""The numbers of a report: metrics over seeds, quality of the prediction intervals, terms of the error, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_forecast.degeneracy import find_degeneracy
from rl_forecast.experiments.metrics import KINDS, METRICS, Metric
from rl_forecast.experiments.report.reading import Setting, Unit
from rl_forecast.experiments.statistics import Estimate, estimate, sign_flip_p
from rl_forecast.findings import Finding
from rl_forecast.forecasting.decomposition import ErrorParts, decompose_error
from rl_forecast.forecasting.methods import NoTailError, make_forecaster

#: Nominal coverage of the prediction intervals.
LEVEL = 0.90
# The forecasters whose intervals are checked beside the headline's. The default of ``rl-forecast forecast`` takes
# milliseconds a quantile, so it is held against fewer evaluation sets.
_OTHERS = {"shape_prior": 25, "exponential_pivot": 10_000}


def values_of(setting: Setting, agent: str, metric: Metric) -> NDArray[np.float64] | None:
    """A metric of every seed, in their order; ``None`` if it is clipped, undefined or missing for one of them."""
    # A mean over the seeds for which a metric happens to exist would flatter the agent.
    values = [metric.value(unit.metrics) for unit in setting.of(agent)]
    return None if not values or None in values else np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class Summary:
    """A metric of an agent in one setting, or in several together.

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
    """Every metric of every agent that all settings have; the seeds of each setting are a stratum of the bootstrap."""
    first = settings[0]
    found = []
    for metric in (METRICS[key] for key in KINDS[first.kind].report):
        if all(unit.metrics.get(metric.name) is None for s in settings for unit in s.units):
            continue
        for agent in (agent for agent in first.agents if all(agent in s.agents for s in settings)):
            strata = [values for s in settings if (values := values_of(s, agent, metric)) is not None]
            n_undefined = sum(metric.value(unit.metrics) is None for s in settings for unit in s.of(agent))
            value, difference, p = None, None, None
            if len(strata) == len(settings):
                value = estimate(strata)
                differences = _differences(settings, agent, metric)
                if differences.size:
                    difference = float(differences.mean())
                    p = sign_flip_p(differences) if differences.size > 1 else None
            found.append(Summary(name, agent, metric, value, n_undefined, difference, p))
    return found


def _differences(settings: Sequence[Setting], agent: str, metric: Metric) -> NDArray[np.float64]:
    """Agent minus reference, paired by setting and seed; empty where the reference itself is undefined."""
    pairs: list[float] = []
    for setting in settings:
        if agent == setting.reference or values_of(setting, setting.reference, metric) is None:
            return np.array([])
        other = {unit.seed: unit.metrics[metric.name] for unit in setting.of(setting.reference)}
        pairs += [unit.metrics[metric.name] - other[unit.seed] for unit in setting.of(agent) if unit.seed in other]
    return np.array(pairs)


@dataclass(frozen=True)
class IntervalQuality:
    """Prediction intervals of an agent's worst failure.

    :param coverage: share of pairs of an evaluation and a deployment set whose realised worst lies inside
    :param above: share whose realised worst lies above the interval, the dangerous side
    :param width: median width over evaluation sets, psi
    :param score: mean interval score, psi: width plus 2 / (1 - level) times the distance of a miss
    """

    agent: str
    forecaster: str
    coverage: Estimate
    above: Estimate
    width: Estimate
    score: Estimate


def coverage_of(setting: Setting) -> list[IntervalQuality]:
    """Interval quality of every agent under the headline's forecaster and two others."""
    found = []
    for forecaster in dict.fromkeys([setting.units[0].evaluation.forecaster, *_OTHERS]):
        for agent in setting.agents:
            rows = [interval_quality(unit, forecaster) for unit in setting.of(agent)]
            known = np.array([row for row in rows if row is not None])
            if len(known):
                found.append(IntervalQuality(agent, forecaster, *(estimate([column]) for column in known.T)))
    return found


def interval_quality(unit: Unit, forecaster: str) -> tuple[float, float, float, float] | None:
    """Coverage, share above, median width and mean score of one agent of one seed; ``None`` without any tail."""
    deployment = unit.held_out.parts["deployment"]
    method = make_forecaster(forecaster, unit.evaluation.tail_k)
    n_deploy, realised = deployment.shape[1], deployment.max(axis=1)
    ends = []
    for summary in unit.held_out.summaries[: _OTHERS.get(forecaster)]:
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
    inside = (above == 0) & (below == 0)
    return float(inside.mean()), float(np.mean(above > 0)), float(np.median(high - low)), float(score.mean())


def error_terms_of(setting: Setting) -> dict[tuple[str, int], ErrorParts]:
    """Terms of the error of each agent and seed; none where rare tasks are not known, or another method forecast."""
    found = {}
    for unit in setting.units:
        if "rare" not in unit.scores.columns or unit.evaluation.forecaster != "gumbel_tail":
            return {}
        psi, total = unit.held_out.parts, unit.held_out.errors.in_space("psi").mean_absolute
        rare = {
            part: unit.scores.filter(unit.scores["part"] == part)["rare"].to_numpy().reshape(scores.shape)
            for part, scores in psi.items()
        }
        arrays = psi["evaluation"], psi["deployment"], rare["evaluation"], rare["deployment"]
        found[unit.agent, unit.seed] = decompose_error(*arrays, unit.evaluation.tail_k, total=total)
    return found


@dataclass(frozen=True)
class Warned:
    """One sign of degeneracy of one agent: the seeds that show it, and the finding of the one that shows it most."""

    setting: str
    agent: str
    seeds: tuple[int, ...]
    n_seeds: int
    finding: Finding


def warnings_of(setting: Setting) -> list[Warned]:
    """What :func:`find_degeneracy` finds in every agent of every seed, against the base agent of that seed."""
    found = []
    base = {unit.seed: unit.metrics for unit in setting.of("base")}
    for agent in setting.agents:
        seen: dict[str, list[tuple[float, int, Finding]]] = {}
        for unit in setting.of(agent):
            for finding in find_degeneracy(unit.metrics, base.get(unit.seed)):
                size = next(iter(finding.values.values()))
                seen.setdefault(finding.code, []).append((size, unit.seed, finding))
        for shown in seen.values():
            seeds = tuple(sorted(seed for _, seed, _ in shown))
            worst = max(shown, key=lambda row: row[:2])[2]
            found.append(Warned(setting.name, agent, seeds, len(setting.of(agent)), worst))
    return found
