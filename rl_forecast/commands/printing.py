"""Forecasts as tables and sentences for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.formatting import format_count, format_probability
from rl_forecast.scores import psi_from_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.forecasting.forecast import Forecast

__all__ = ["interval_words", "print_forecasts", "print_lines", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; as plain columns of text where the output is not a terminal.

    :param columns: headings
    :param rows: cells
    :param left: how many columns, from the left, hold text instead of numbers
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        grid.add_column(name, justify="left" if i < left else "right", no_wrap=i >= left)
    for row in rows:
        grid.add_row(*row)
    # a cell cut to fit a narrow terminal would be a wrong number: let the terminal wrap the line instead
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 160)
    console.print(grid)


def print_lines(lines: Sequence[str], bullet: str = "- ") -> None:
    """Print sentences, wrapped under a bullet."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for line in lines:
        print(textwrap.fill(line, width, initial_indent=bullet, subsequent_indent=" " * len(bullet)))


def interval_words(psi: Sequence[float]) -> str:
    """An interval of scores as probabilities."""
    return f"[{format_probability(float(psi[0]))}, {format_probability(float(psi[1]))}]"


def print_forecasts(forecasts: dict[str, Forecast], level: float, notes: dict[str, Sequence[str]]) -> None:
    """Print the forecasts of all groups: a line on the scores, the table, the warnings.

    :param forecasts: one for each group; a single group named ``""`` prints no name
    :param level: coverage of the intervals
    :param notes: remarks of the reader, for each group
    """
    for i, (name, fc) in enumerate(forecasts.items()):
        if i:
            print()
        _print_one(name, fc, level, notes.get(name, ()))


def _print_one(name: str, fc: Forecast, level: float, notes: Sequence[str]) -> None:
    largest = format_probability(float(fc.summary.top[0]))
    tail = f", k = {fc.tail_k}" if fc.tail_k is not None and fc.status == "ok" else ""
    heading = f"{name}: " if name else ""
    status = "" if fc.status == "ok" else "status degenerate, "
    worst = "worst estimate" if fc.summary.count_table else "worst seen"
    print(f"{heading}{status}{fc.summary.count} scores, {worst} p = {largest}; {fc.method}{tail}")
    print()
    percent = f"{100 * level:g} %"
    aggregate = fc.aggregate_risk(level)
    low, high = np.atleast_1d(aggregate.low), np.atleast_1d(aggregate.high)
    psi = fc.prediction_interval(level, "psi")
    rows = []
    for i, n in enumerate(fc.n_deploy):
        rows.append(
            [
                format_count(n),
                format_probability(float(fc.worst_query_psi[i])),
                interval_words(psi[i]),
                _plain(float(np.atleast_1d(aggregate.estimate)[i])),
                f"[{_plain(float(low[i]))}, {_plain(float(high[i]))}]",
                f"{fc.new_record_probability[i]:.3g}",
            ]
        )
    table(
        ["n", "worst query", percent, "any failure", percent, "new worst"],
        rows,
        left=0,
    )
    print()
    print_lines([*notes, *(w.sentence for w in fc.warnings)])


def _plain(p: float) -> str:
    """A probability known as a number, in the same words as scores."""
    return format_probability(float(psi_from_p(min(max(p, 0.0), 1.0))))
