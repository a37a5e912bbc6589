"""Step 3 of the main job: held-out scores of every agent, the metrics of the table, and the table itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from rl_forecast.forecasting.evaluate_forecasts import HeldOutErrors, held_out_errors
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rl_forecast.experiments.language_model.config import LanguageEvaluationConfig
    from rl_forecast.experiments.settings import EvaluationConfig

__all__ = [
    "COLUMNS",
    "PARTS",
    "TITLES",
    "AgentResult",
    "Columns",
    "agent_result",
    "defined",
    "evaluation_title",
    "finite",
    "held_out_tasks",
    "metric_cell",
    "metrics_table",
    "print_metrics",
]

#: What the agents are called in tables and figures.
TITLES = {
    "base": "base",
    "ppo": "PPO",
    "forecast_ppo": "ForecastPPO",
    "top_risk": "top-risk penalty",
    "mean_risk": "mean-risk penalty",
    "cvar": "CVaR penalty",
    "failure_cost": "failure cost",
    "lagrangian": "PPO-Lagrangian",
    "anchor": "anchor only",
}

#: Held-out tasks serve one of two purposes, never both.
PARTS = ("evaluation", "deployment")

# A task's score has risen if it exceeds the base agent's by more than this, psi.
_RISE = 0.1


def held_out_tasks(
    config: EvaluationConfig, seed: int, evaluation_split: str = "held_out"
) -> dict[str, NDArray[np.int64]]:
    """Ids of the evaluation and deployment tasks.

    Evaluation tasks come from the first half of the seed's sequence, deployment tasks from the second, so either part
    can be enlarged and keeps the tasks it has.

    :param config: sizes of the sets
    :param seed: seed of the run
    :param evaluation_split: split of the evaluation tasks; deployment tasks are always held out
    """
    evaluation, deployment = SPLITS[evaluation_split], SPLITS["held_out"]
    return {
        "evaluation": evaluation.task_ids(config.n_eval * config.n_eval_sets, seed),
        "deployment": deployment.task_ids(
            config.n_deploy * config.n_deploy_sets, seed, first=(deployment.stop - deployment.start) // 2
        ),
    }


@dataclass(frozen=True, eq=False)
class AgentResult:
    """One row of the table.

    :param errors: forecasts against realised maxima
    :param metrics: the columns of the table and of ``metrics.json``
    """

    errors: HeldOutErrors
    metrics: dict[str, Any]


def agent_result(scores: pl.DataFrame, base: pl.DataFrame, config: EvaluationConfig) -> AgentResult:
    """Metrics of an agent.

    :param scores: columns ``part``, ``task_id``, ``psi``, ``log_p``, ``success``, ``rare`` of the agent
    :param base: the same tasks scored for the base agent, in the same order
    :param config: sizes of the sets and the forecaster
    """
    sets = {
        part: scores.filter(pl.col("part") == part)["psi"].to_numpy().reshape(n_sets, -1)
        for part, n_sets in zip(PARTS, (config.n_eval_sets, config.n_deploy_sets), strict=True)
    }
    forecaster = make_forecaster(config.forecaster, config.tail_k)
    errors = held_out_errors(sets["evaluation"], sets["deployment"], forecaster)
    psi, log10_p, log_odds = (errors.in_space(space) for space in ("psi", "log10_p", "log_odds"))
    risk = np.exp(scores["log_p"].to_numpy())
    rare = scores["rare"].to_numpy()
    success = scores["success"].to_numpy()
    metrics: dict[str, Any] = {
        "abs_error_psi": psi.mean_absolute,
        "abs_error_log10_p": log10_p.mean_absolute,
        "abs_error_log_odds": log_odds.mean_absolute,
        "bias_psi": psi.bias,
        "bias_log10_p": log10_p.bias,
        "bias_log_odds": log_odds.bias,
        "under_prediction_rate": errors.under_prediction_rate,
        "under_prediction_by_1_rate": errors.under_prediction_by_1_rate,
        "both_at_lower_clip_log10_p": log10_p.both_at_lower_clip,
        "both_at_lower_clip_log_odds": log_odds.both_at_lower_clip,
        "both_at_upper_clip_log_odds": log_odds.both_at_upper_clip,
        "failed_fits": errors.n_failed_fits,
        "realised_worst_psi": float(errors.realised.mean()),
        "tail_scale": float(np.nanmean(errors.tail_scale)),
        "success": float(success.mean()),
        "success_rare": float(success[rare].mean()) if rare.any() else None,
        "mean_risk": float(risk.mean()),
        "mean_risk_common": float(risk[~rare].mean()),
        "mean_risk_rare": float(risk[rare].mean()) if rare.any() else None,
        "worst_risk": float(risk.max()),
        "share_risen": float(np.mean(scores["psi"].to_numpy() > base["psi"].to_numpy() + _RISE)),
    }
    return AgentResult(errors, {key: finite(value) for key, value in metrics.items()})


def finite(value: Any) -> Any:
    """The value, or ``None`` where it is undefined: JSON has no NaN or infinity."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def defined(value: float | None) -> float:
    """The inverse of :func:`finite`: an undefined metric is NaN."""
    return float("nan") if value is None else value


#: Heading, format and metric of the columns of a table.
Columns = tuple[tuple[str, str, str], ...]

#: Heading, format and metric of each column; :data:`LEGEND` explains the headings.
COLUMNS: Columns = (
    ("|error|\npsi", "{:.2f}", "abs_error_psi"),
    ("|error|\nlog10 p", "{:.2f}", "abs_error_log10_p"),
    ("|error|\nlog-odds", "{:.2f}", "abs_error_log_odds"),
    ("bias\npsi", "{:+.2f}", "bias_psi"),
    ("under", "{:.0%}", "under_prediction_rate"),
    ("under\nby >1", "{:.0%}", "under_prediction_by_1_rate"),
    ("at low\nclip", "{:.0%}", "both_at_lower_clip_log_odds"),
    ("at high\nclip", "{:.0%}", "both_at_upper_clip_log_odds"),
    ("worst\npsi", "{:+.2f}", "realised_worst_psi"),
    ("sigma", "{:.2f}", "tail_scale"),
    ("success", "{:.4f}", "success"),
    ("mean\nrisk", "{:.1e}", "mean_risk"),
    ("worst\nrisk", "{:.1e}", "worst_risk"),
    ("risen", "{:.1%}", "share_risen"),
)

# Columns of a terminal that hold one agent a row without cutting numbers.
_WIDE = 150

LEGEND = (
    "error = forecast - realised worst, over all pairs of an evaluation and a deployment set; under: share of pairs "
    "with error < 0; at low/high clip: share of pairs whose forecast and realised worst are both p <= 1e-6 or both "
    "p >= 0.999 (an error is '-' above one half); sigma: tail scale; risk: probability of failure; risen: share of "
    "tasks whose psi is more than 0.1 above the base agent's"
)


def evaluation_title(config: EvaluationConfig | LanguageEvaluationConfig, seed: int, unit: str = "tasks") -> str:
    """What a table shows, in one line.

    :param config: sizes of the sets and the forecaster
    :param seed: seed of the run
    :param unit: what is evaluated
    """
    return (
        f"{config.forecaster}, k = {config.tail_k}: forecast from m = {config.n_eval} {unit} "
        f"({config.n_eval_sets} sets) against the worst of n = {config.n_deploy} "
        f"({config.n_deploy_sets} sets), seed {seed}"
    )


def print_metrics(
    console: Console,
    metrics: dict[str, dict[str, Any]],
    title: str,
    titles: Mapping[str, str] = TITLES,
    columns: Columns = COLUMNS,
    legend: str = LEGEND,
) -> None:
    """Print the table of all agents.

    :param console: where the rest of the output went
    :param metrics: agent name to its metrics
    :param title: what was evaluated
    :param titles: what the agents are called
    :param columns: heading, format and metric of each column
    :param legend: explains the headings
    """
    # Away from a terminal rich assumes 80 columns; a file has no width.
    target = console if console.is_terminal else Console(width=_WIDE)
    rows = {titles.get(name, name): row for name, row in metrics.items()}
    target.print(metrics_table(rows, title, target.width < _WIDE, columns, legend))


def metrics_table(
    results: dict[str, dict[str, Any]],
    title: str,
    tall: bool = False,
    columns: Columns = COLUMNS,
    legend: str = LEGEND,
) -> Table:
    """The table people see.

    :param results: agent name to its metrics
    :param title: what was evaluated
    :param tall: one row a metric instead of one row an agent, for narrow terminals
    :param columns: heading, format and metric of each column
    :param legend: explains the headings
    """
    table = Table(title=title, title_justify="left", caption=legend, caption_justify="left", header_style="bold")
    if tall:
        table.add_column("")
        for name in results:
            table.add_column(name, justify="right")
        for heading, layout, key in columns:
            table.add_row(heading.replace("\n", " "), *(metric_cell(row, layout, key) for row in results.values()))
        return table
    table.add_column("agent", no_wrap=True)
    for heading, _, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, metrics in results.items():
        table.add_row(name, *(metric_cell(metrics, layout, key) for _, layout, key in columns))
    return table


def metric_cell(metrics: dict[str, Any], layout: str, key: str) -> str:
    """A metric as text; ``-`` where it is undefined or more than half of its pairs are clipped.

    :param metrics: metrics of an agent
    :param layout: format of the value
    :param key: name of the metric
    """
    value = metrics[key]
    clipped = 0.0
    if key.startswith("abs_error_log"):
        space = key.removeprefix("abs_error_")
        clipped = max(
            metrics.get(f"both_at_lower_clip_{space}") or 0.0, metrics.get(f"both_at_upper_clip_{space}") or 0.0
        )
    return "-" if value is None or clipped > 0.5 else layout.format(value)
