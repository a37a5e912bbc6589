"""The table of a sweep: medians and ranges over seeds, and paired sign-flip tests against ``task_only``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from rl_forecast.experiments.metrics import KINDS, METRICS
from rl_forecast.experiments.statistics import sign_flip_p

if TYPE_CHECKING:
    from rl_forecast.experiments.metrics import Metric
    from rl_forecast.experiments.run_folder import RunFolder
    from rl_forecast.experiments.sweep.config import SweepConfig

__all__ = ["comparison_markdown", "print_comparison"]

# Two-sided tests below this are marked.
_MARKED = 0.1


def comparison_markdown(results: pl.DataFrame, sweep: SweepConfig) -> str:
    """One table a world.

    :param results: one row per world, seed and method
    :param sweep: the sweep
    """
    return "\n".join(f"### {world}\n\n{_markdown(_cells(results, sweep, world))}\n" for world in sweep.worlds)


def print_comparison(results: pl.DataFrame, sweep: SweepConfig, folder: RunFolder) -> None:
    """Print the tables and write them as ``results.md`` and ``results.csv``.

    :param results: one row per world, seed and method
    :param sweep: the sweep
    :param folder: its folder
    """
    folder.write_text("results.md", comparison_markdown(results, sweep))
    folder.write("results.csv", results.write_csv)
    console = Console()
    # Away from a terminal rich assumes 80 columns; a file has no width.
    target = console if console.is_terminal else Console(width=30 + 30 * len(sweep.methods))
    for world in sweep.worlds:
        title = f"{world}: median (range) of {len(sweep.seeds)} seeds; * p < {_MARKED} against task_only"
        table = Table(title=title, title_justify="left")
        # A metric a row: there are more metrics than methods.
        names, *metrics = zip(*_cells(results, sweep, world), strict=True)
        table.add_column("")
        for name in names[1:]:
            table.add_column(name, justify="right")
        for cells in metrics:
            table.add_row(*cells)
        target.print(table)
    console.print(f"tables: {folder.path / 'results.md'}", highlight=False, soft_wrap=True)


def _cells(results: pl.DataFrame, sweep: SweepConfig, world: str) -> list[list[str]]:
    """Heading and one row a method."""
    of_world = results.filter(pl.col("world") == world)
    reference = of_world.filter(pl.col("method") == "task_only").sort("seed")
    metrics = [METRICS[name] for name in KINDS["gridworld"].report]
    lines = [["method", "weight", *(metric.heading for metric in metrics)]]
    for method in sweep.methods:
        rows = of_world.filter(pl.col("method") == method.name).sort("seed")
        weight = rows["weight"][0]
        cells = [method.name, "" if weight is None else f"{weight:g}"]
        cells += [_cell(rows, reference, metric, marked=method.name != "task_only") for metric in metrics]
        lines.append(cells)
    return lines


def _cell(rows: pl.DataFrame, reference: pl.DataFrame, metric: Metric, marked: bool) -> str:
    # A metric that is clipped or undefined for some seed is not summarised over the others.
    known, other = ([metric.value(row) for row in table.iter_rows(named=True)] for table in (rows, reference))
    if None in known:
        return f"- ({known.count(None)} of {len(known)})"
    values = np.array(known, dtype=float)
    text = " (".join(metric.layout.format(v) for v in (np.median(values), values.min()))
    text += f" .. {metric.layout.format(values.max())})"
    comparable = marked and None not in other and len(other) == len(values)
    return text + ("*" if comparable and sign_flip_p(values - np.array(other, dtype=float)) < _MARKED else "")


def _markdown(lines: list[list[str]]) -> str:
    heading, *rows = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---:" for _ in heading[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rule, *rows))
