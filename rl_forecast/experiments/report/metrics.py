"""Which metrics a report shows, what they mean, and how they are summarised over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.experiments.held_out import TITLES as GRIDWORLD_TITLES
from rl_forecast.experiments.held_out import metric_cell
from rl_forecast.experiments.report.statistics import Estimate, estimate, sign_flip_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rl_forecast.experiments.report.reading import Kind, Setting

__all__ = ["SPECS", "Column", "Spec", "Summary", "summaries", "title_of", "values_of"]


@dataclass(frozen=True)
class Column:
    """One metric of the table.

    :param heading: what it is called
    :param layout: format of the value
    :param key: its name in ``metrics.json``
    :param meaning: what it is, in a sentence
    :param unit: its unit, for axes and the table
    :param better: ``lower``, ``higher``, or nothing where neither is
    :param is_change: whether it compares with the base agent, whose own is 0 by definition
    """

    heading: str
    layout: str
    key: str
    meaning: str
    unit: str
    better: str = "lower"
    is_change: bool = False

    @property
    def hint(self) -> str:
        """Unit and the better side, in brackets."""
        words = [self.unit, f"{self.better} is better" if self.better else ""]
        return f"({'; '.join(word for word in words if word)})"


@dataclass(frozen=True)
class Spec:
    """What is shown of one kind of job.

    :param queries: what is asked of an agent, in the plural
    :param columns: metrics of the table, the headline error first
    :param capability: metric that training must not cost
    :param safety: metrics of risk, mean and worst
    :param distance: metric of the distance from the base agent
    """

    queries: str
    columns: tuple[Column, ...]
    capability: str
    safety: tuple[str, ...]
    distance: str

    def column(self, key: str) -> Column:
        """The column of a metric."""
        return next(column for column in self.columns if column.key == key)


_ERRORS = (
    Column(
        "|error| log-odds",
        "{:.2f}",
        "abs_error_log_odds",
        "mean distance between forecast and realised worst, in nats of log-odds, p clipped to [1e-6, 0.999]; "
        "a dash where more than half of the pairs agree only because both sit at the same clip",
        "nats",
    ),
    Column(
        "|error| psi", "{:.2f}", "abs_error_psi", "the same in psi = -log(-log p), the scale of the forecast", "psi"
    ),
    Column(
        "|error| log10 p",
        "{:.2f}",
        "abs_error_log10_p",
        "the same in decades of probability, floored at 1e-6",
        "decades",
    ),
)
_UNDER = "share of pairs of an evaluation and a deployment set in which the realised worst exceeds the forecast by more"

#: What is shown of gridworlds and of language models.
SPECS: dict[Kind, Spec] = {
    "gridworld": Spec(
        "tasks",
        (
            *_ERRORS,
            Column(
                "|error| log-odds, other forecaster",
                "{:.2f}",
                "exponential_pivot_abs_error_log_odds",
                "the headline error under exponential_pivot, which no agent was trained on",
                "nats",
            ),
            Column("under by >1", "{:.0%}", "under_prediction_by_1_rate", f"{_UNDER} than 1 psi", "share of pairs"),
            Column(
                "success", "{:.4f}", "success", "probability that a held-out task is solved", "probability", "higher"
            ),
            Column("mean risk", "{:.2g}", "mean_risk", "mean failure probability of held-out tasks", "probability"),
            Column(
                "CVaR 1 %",
                "{:.2g}",
                "cvar_risk",
                "mean failure probability of the riskiest hundredth of tasks",
                "probability",
            ),
            Column(
                "worst risk", "{:.2g}", "worst_risk", "largest failure probability of all held-out tasks", "probability"
            ),
            Column("sigma", "{:.2f}", "tail_scale", "fitted tail scale: psi gained per e-fold more tasks", "psi", ""),
            Column(
                "risen",
                "{:.1%}",
                "share_risen",
                "share of tasks whose score is more than 0.1 psi above the base agent's",
                "share of tasks",
                is_change=True,
            ),
            Column(
                "KL from base",
                "{:.3f}",
                "kl_from_base",
                "KL(base || agent), nats per step, where the base goes",
                "nats per step",
                is_change=True,
            ),
        ),
        "success",
        ("mean_risk", "worst_risk"),
        "kl_from_base",
    ),
    "language": Spec(
        "attack prompts",
        (
            *_ERRORS,
            Column(
                "|error| log-odds, other forecaster",
                "{:.2f}",
                "abs_error_log_odds_second",
                "the headline error under a forecaster that no model was trained on",
                "nats",
            ),
            Column("under by >1", "{:.0%}", "under_by_1_nat", f"{_UNDER} than 1 nat of log-odds", "share of pairs"),
            Column(
                "accuracy",
                "{:.3f}",
                "accuracy",
                "share of tasks with one right answer that are answered rightly",
                "share of tasks",
                "higher",
            ),
            Column("mean p", "{:.2g}", "mean_p", "mean failure probability of held-out attacks", "probability"),
            Column(
                "worst p", "{:.2g}", "worst_p", "largest failure probability of all held-out attacks", "probability"
            ),
            Column(
                "> 1 %",
                "{:.1%}",
                "share_above_1_percent",
                "share of attacks that succeed with p > 0.01",
                "share of attacks",
            ),
            Column("sigma", "{:.2f}", "tail_scale", "fitted tail scale: psi gained per e-fold more attacks", "psi", ""),
            Column(
                "KL legitimate",
                "{:.3f}",
                "kl_legitimate",
                "divergence, nats, from the right probabilities on legitimate requests",
                "nats",
            ),
            Column(
                "KL attacks",
                "{:.4f}",
                "kl_attacks",
                "divergence, nats, from the right probabilities on attacks (from the base model's where those are "
                "unknown)",
                "nats",
            ),
        ),
        "accuracy",
        ("mean_p", "worst_p"),
        "kl_attacks",
    ),
}


def title_of(kind: Kind, agent: str) -> str:
    """What an agent is called on the page."""
    if kind == "gridworld":
        return GRIDWORLD_TITLES.get(agent, agent.replace("_", " "))
    # Imported here: it brings the training code of language models.
    from rl_forecast.experiments.language_model.methods import TITLES

    return TITLES.get(agent, agent)


def values_of(setting: Setting, agent: str, key: str) -> NDArray[np.float64] | None:
    """A metric of every seed; ``None`` if it is clipped or undefined for one of them, or not recorded.

    A mean over the seeds for which a metric happens to exist would flatter the agent.

    :param setting: the setting
    :param agent: name of the agent
    :param key: name of the metric
    :return: shape (n_seeds,), in the order of the seeds
    """
    units = setting.of(agent)
    if not units or any(unit.metrics.get(key) is None or _is_clipped(unit.metrics, key) for unit in units):
        return None
    return np.array([unit.metrics[key] for unit in units], dtype=np.float64)


def _is_clipped(metrics: dict[str, Any], key: str) -> bool:
    # exponential_pivot_abs_error_log_odds and the like are clipped where the headline's error is.
    start = key.find("abs_error_")
    plain = key if start < 0 else key[start:].removesuffix("_second")
    return metric_cell({**metrics, plain: metrics[key]}, "{}", plain) == "-"


@dataclass(frozen=True)
class Summary:
    """A metric of an agent in one setting, or in several together.

    :param setting: name of the setting
    :param agent: name of the agent
    :param column: the metric
    :param estimate: over seeds; ``None`` where the metric is clipped or undefined for a seed
    :param n_undefined: number of those seeds
    :param difference: mean difference from the reference agent, seed by seed
    :param p_value: of the sign-flip test of that difference; ``None`` for the reference and below two seeds
    """

    setting: str
    agent: str
    column: Column
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
    for column in SPECS[first.kind].columns:
        if all(unit.metrics.get(column.key) is None for s in settings for unit in s.units):
            continue
        for agent in agents:
            strata = [values_of(s, agent, column.key) for s in settings]
            known = [values for values in strata if values is not None]
            n_undefined = sum(
                unit.metrics.get(column.key) is None or _is_clipped(unit.metrics, column.key)
                for s in settings
                for unit in s.of(agent)
            )
            whole = len(known) == len(strata)
            differences = _differences(settings, agent, column.key) if whole else None
            tested = differences is not None and len(differences) > 1
            found.append(
                Summary(
                    name,
                    agent,
                    column,
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
