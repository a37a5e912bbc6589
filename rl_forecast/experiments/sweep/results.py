"""The table of a sweep: medians and ranges over seeds, and paired sign-flip tests against ``task_only``."""

from __future__ import annotations

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from rl_forecast.experiments.metrics import KINDS, METRICS, Metric
from rl_forecast.experiments.report.tables import MARKED, markdown
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.statistics import sign_flip_p
from rl_forecast.experiments.sweep.config import SweepConfig


def print_comparison(sweep: SweepConfig, folder: RunFolder) -> None:
    """Print a table of the rows of each world, seed and method, and write ``results.md`` and ``results.csv``."""
    results = pl.read_parquet(folder.path / "results.parquet")
    tables = {world: _lines(results, sweep, world) for world in sweep.worlds}
    text = [f"### {world}\n\n{markdown(heading, rows)}\n" for world, (heading, *rows) in tables.items()]
    folder.write_text("results.md", "".join(text))
    folder.write("results.csv", results.write_csv)
    console = Console()
    # Away from a terminal rich assumes 80 columns; a file has no width.
    target = console if console.is_terminal else Console(width=30 + 30 * len(sweep.methods))
    for world, lines in tables.items():
        title = f"{world}: median (range) of {len(sweep.seeds)} seeds; * p < {MARKED} against task_only"
        table = Table(title=title, title_justify="left")
        # One row per metric: there are more metrics than methods.
        names, *metrics = zip(*lines, strict=True)
        table.add_column("")
        for name in names[1:]:
            table.add_column(name, justify="right")
        for cells in metrics:
            table.add_row(*cells)
        target.print(table)
    console.print(f"tables: {folder.path / 'results.md'}", highlight=False, soft_wrap=True)


def _lines(results: pl.DataFrame, sweep: SweepConfig, world: str) -> list[list[str]]:
    """Heading and one row per method."""
    of_world = results.filter(pl.col("world") == world).sort("seed")
    reference = of_world.filter(pl.col("method") == "task_only")
    metrics = [METRICS[name] for name in KINDS[sweep.kind].report if name in results.columns]
    lines = [["method", "weight", *(metric.heading for metric in metrics)]]
    for method in sweep.methods:
        rows = of_world.filter(pl.col("method") == method.name)
        weight = rows["weight"][0]
        cells = [_cell(rows, reference, metric, marked=method.name != "task_only") for metric in metrics]
        lines.append([method.name, "" if weight is None else f"{weight:g}", *cells])
    return lines


def _cell(rows: pl.DataFrame, reference: pl.DataFrame, metric: Metric, marked: bool) -> str:
    # A metric that is clipped or undefined for some seed is not summarised over the others.
    known, other = ([metric.value(row) for row in table.iter_rows(named=True)] for table in (rows, reference))
    if None in known:
        return f"- ({known.count(None)} of {len(known)})"
    values = np.array(known, dtype=float)
    middle, low, high = (format(value, metric.layout) for value in (np.median(values), values.min(), values.max()))
    comparable = marked and None not in other and len(other) == len(values)
    is_marked = comparable and sign_flip_p(values - np.array(other, dtype=float)) < MARKED
    return f"{middle} ({low} .. {high})" + ("*" if is_marked else "")
