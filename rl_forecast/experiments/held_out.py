"""Held-out tasks of a run, and the table of all agents that people see."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rl_forecast.experiments.metrics import KINDS, LEGEND, METRICS, title_of
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rl_forecast.experiments.language_model.config import LanguageEvaluationConfig
    from rl_forecast.experiments.metrics import Kind
    from rl_forecast.experiments.settings import EvaluationConfig

__all__ = ["evaluation_title", "held_out_tasks", "metrics_table", "print_metrics"]


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


# Columns of a terminal that hold one agent a row without cutting numbers.
_WIDE = 165


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


def print_metrics(console: Console, metrics: dict[str, dict[str, Any]], title: str, kind: Kind = "gridworld") -> None:
    """Print the table of all agents.

    :param console: where the rest of the output went
    :param metrics: agent name to its metrics
    :param title: what was evaluated
    :param kind: which job
    """
    # Away from a terminal rich assumes 80 columns; a file has no width.
    target = console if console.is_terminal else Console(width=_WIDE)
    target.print(metrics_table(metrics, title, kind, tall=target.width < _WIDE))


def metrics_table(metrics: dict[str, dict[str, Any]], title: str, kind: Kind, tall: bool = False) -> Table:
    """The table people see.

    :param metrics: agent name to its metrics
    :param title: what was evaluated
    :param kind: which job
    :param tall: one row per metric instead of one row per agent, for narrow terminals
    """
    table = Table(title=title, title_justify="left", caption=LEGEND, caption_justify="left", header_style="bold")
    shown = [METRICS[name] for name in KINDS[kind].table]
    if tall:
        table.add_column("")
        for agent in metrics:
            table.add_column(title_of(agent), justify="right")
        for metric in shown:
            table.add_row(metric.heading, *(metric.text(row) for row in metrics.values()))
        return table
    table.add_column("agent", no_wrap=True)
    for metric in shown:
        table.add_column(textwrap.fill(metric.heading, 8, break_long_words=False), justify="right", no_wrap=True)
    for agent, row in metrics.items():
        table.add_row(title_of(agent), *(metric.text(row) for metric in shown))
    return table
