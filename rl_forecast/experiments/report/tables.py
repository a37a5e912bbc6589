"""The tables of a report: one object for the page, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.experiments.metrics import KINDS, METRICS, title_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.experiments.metrics import Kind
    from rl_forecast.experiments.report.coverage import IntervalQuality
    from rl_forecast.experiments.report.degenerate import Caution
    from rl_forecast.experiments.report.reading import Setting
    from rl_forecast.experiments.report.summaries import Summary
    from rl_forecast.experiments.statistics import Estimate

__all__ = ["MARKED", "Cell", "Table", "caution_table", "coverage_table", "headline_table", "numbers_csv", "units_csv"]

#: Two-sided tests below this are marked: with five seeds no test can fall below 1/16.
MARKED = 0.1


@dataclass(frozen=True)
class Cell:
    """A cell: the number, and its interval in small print."""

    text: str
    small: str = ""

    def __str__(self) -> str:
        """As in Markdown."""
        return f"{self.text} {self.small}".strip()


@dataclass(frozen=True)
class Table:
    """A table.

    :param heading: column headings
    :param rows: cells, the first of each row its name
    """

    heading: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """As Markdown."""
        lines = [
            list(self.heading),
            ["---", *("---:" for _ in self.heading[1:])],
            *([str(cell).replace("|", "\\|") for cell in row] for row in self.rows),
        ]
        lines[0] = [cell.replace("|", "\\|") for cell in lines[0]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _interval(estimate: Estimate, layout: str) -> str:
    if not np.isfinite(estimate.low):
        return ""
    return f"[{layout.format(estimate.low)}, {layout.format(estimate.high)}]"


def headline_table(kind: Kind, agents: Sequence[str], rows: Sequence[Summary]) -> Table:
    """A metric a row, an agent a column.

    :param kind: which job
    :param agents: columns
    :param rows: summaries of one setting
    """
    found = {(row.metric.name, row.agent): row for row in rows}
    agents = [agent for agent in agents if any(row.agent == agent for row in rows)]
    lines = []
    for metric in (METRICS[name] for name in KINDS[kind].report):
        if not any(row.metric == metric for row in rows):
            continue
        cells = [Cell(metric.heading, metric.hint)]
        for agent in agents:
            row = found[metric.name, agent]
            if row.estimate is None:
                cells.append(Cell("-", f"({row.n_undefined} undefined)"))
                continue
            if metric.is_change and agent == "base":
                cells.append(Cell("0", "(by definition)"))
                continue
            mark = "*" if row.p_value is not None and row.p_value < MARKED else ""
            layout = metric.layout
            cells.append(Cell(layout.format(row.estimate.value) + mark, _interval(row.estimate, layout)))
        lines.append(tuple(cells))
    return Table(("", *(title_of(agent) for agent in agents)), tuple(lines))


def coverage_table(setting: Setting, rows: Sequence[IntervalQuality]) -> Table:
    """Quality of the intervals of one setting, one row an agent and forecaster.

    :param setting: the setting
    :param rows: its interval qualities
    """
    lines = [
        (
            Cell(title_of(row.agent)),
            Cell(row.forecaster),
            Cell(f"{row.coverage.value:.0%}", _interval(row.coverage, "{:.0%}")),
            Cell(f"{row.above.value:.0%}", _interval(row.above, "{:.0%}")),
            Cell(f"{row.width.value:.2f}", _interval(row.width, "{:.2f}")),
            Cell(f"{row.score.value:.1f}", _interval(row.score, "{:.1f}")),
        )
        for row in rows
    ]
    heading = ("agent", "forecaster", "inside", "above", "width, psi", "interval score, psi")
    return Table(heading, tuple(lines))


def caution_table(rows: Sequence[Caution]) -> Table:
    """Warnings, an agent a row.

    :param rows: the warnings
    """
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        sentence = f"{len(row.seeds)} of {row.n_seeds} seeds: {row.sentence}"
        said.setdefault((row.setting, row.agent), []).append(sentence)
    lines = [
        (Cell(setting), Cell(title_of(agent)), Cell(" ".join(sentences)))
        for (setting, agent), sentences in said.items()
    ]
    return Table(("setting", "agent", "what was seen"), tuple(lines))


def numbers_csv(rows: Sequence[Summary]) -> str:
    """Every summary in full precision, one a row.

    :param rows: summaries
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "setting",
            "agent",
            "metric",
            "seeds",
            "iqm",
            "low_95",
            "high_95",
            "seeds_undefined",
            "difference_to_reference",
            "p_sign_flip",
        ]
    )
    for row in rows:
        e = row.estimate
        numbers = ["", "", ""] if e is None else [e.value, *("" if np.isnan(v) else v for v in (e.low, e.high))]
        tested = ["" if v is None else v for v in (row.difference, row.p_value)]
        n = row.n_undefined if e is None else e.n
        writer.writerow([row.setting, row.agent, row.metric.name, n, *numbers, row.n_undefined, *tested])
    return out.getvalue()


def units_csv(settings: Sequence[Setting]) -> str:
    """Every metric of every agent and seed, one agent of one seed a row.

    :param settings: the settings
    """
    units = [(setting, unit) for setting in settings for unit in setting.units]
    keys = list(dict.fromkeys(key for _, unit in units for key in unit.metrics))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["setting", "agent", "seed", *keys])
    for setting, unit in units:
        values = ["" if unit.metrics.get(key) is None else unit.metrics[key] for key in keys]
        writer.writerow([setting.name, unit.agent, unit.seed, *values])
    return out.getvalue()
