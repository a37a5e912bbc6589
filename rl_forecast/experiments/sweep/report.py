"""The table of a sweep: medians and ranges over seeds, and paired sign-flip tests against ``task_only``."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from rl_forecast.experiments.held_out import metric_cell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rl_forecast.experiments.run_folder import RunFolder
    from rl_forecast.experiments.sweep.config import SweepConfig

__all__ = ["comparison_markdown", "print_comparison", "sign_flip_p"]

#: Heading, format and metric of each column.
COLUMNS = (
    ("|error| log-odds", "{:.2f}", "abs_error_log_odds"),
    ("|error| psi", "{:.2f}", "abs_error_psi"),
    ("|error| log10 p", "{:.2f}", "abs_error_log10_p"),
    ("|error| log-odds, exponential_pivot", "{:.2f}", "exponential_pivot_abs_error_log_odds"),
    ("under by >1", "{:.0%}", "under_prediction_by_1_rate"),
    ("success", "{:.4f}", "success"),
    ("mean risk", "{:.1e}", "mean_risk"),
    ("CVaR 1 %", "{:.1e}", "cvar_risk"),
    ("worst risk", "{:.1e}", "worst_risk"),
    ("sigma", "{:.2f}", "tail_scale"),
    ("risen", "{:.1%}", "share_risen"),
    ("KL from base", "{:.3f}", "kl_from_base"),
)
# Two-sided tests below this are marked.
_MARKED = 0.1


def sign_flip_p(difference: NDArray[np.float64]) -> float:
    """Exact two-sided paired permutation test that a mean difference is zero.

    :param difference: shape (n_seeds,), one difference a seed
    :return: share of the 2^n sign patterns whose mean is at least as far from zero; at least 2^(1 - n)
    """
    signs = np.array(list(product((-1.0, 1.0), repeat=len(difference))))
    means = np.abs((signs * difference).mean(axis=1))
    return float((means >= abs(difference.mean()) * (1 - 1e-12)).mean())


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
    lines = [["method", "weight", *(heading for heading, _, _ in COLUMNS)]]
    for method in sweep.methods:
        rows = of_world.filter(pl.col("method") == method.name).sort("seed")
        weight = rows["weight"][0]
        cells = [method.name, "" if weight is None else f"{weight:g}"]
        for _, layout, key in COLUMNS:
            cells.append(_cell(rows, reference, layout, key, marked=method.name != "task_only"))
        lines.append(cells)
    return lines


def _cell(rows: pl.DataFrame, reference: pl.DataFrame, layout: str, key: str, marked: bool) -> str:
    # A metric that is clipped or undefined for some seed is not summarised over the others.
    shown = [metric_cell(row, layout, key) for row in rows.iter_rows(named=True)]
    if "-" in shown:
        return f"- ({shown.count('-')} of {len(shown)})"
    values = rows[key].to_numpy()
    text = f"{layout.format(np.median(values))} ({layout.format(values.min())} .. {layout.format(values.max())})"
    other = reference[key].to_numpy()
    comparable = marked and np.isfinite(other.astype(float)).all() and len(other) == len(values)
    return text + ("*" if comparable and sign_flip_p(values - other) < _MARKED else "")


def _markdown(lines: list[list[str]]) -> str:
    heading, *rows = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---:" for _ in heading[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rule, *rows))
