"""The tables of a report: one object for the page and Markdown, polars for CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rl_forecast.experiments.metrics import KINDS, METRICS, title_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rl_forecast.experiments.metrics import Kind
    from rl_forecast.experiments.report.numbers import IntervalQuality, Summary, Warned
    from rl_forecast.experiments.report.reading import Setting
    from rl_forecast.experiments.statistics import Estimate
    from rl_forecast.forecasting.decomposition import ErrorParts

__all__ = [
    "MARKED",
    "Cell",
    "Table",
    "agents_csv",
    "coverage_table",
    "error_terms_table",
    "headline_table",
    "markdown",
    "numbers_csv",
    "warning_table",
]

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


def markdown(heading: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table, numbers to the right.

    :param heading: column headings
    :param rows: cells
    """
    first, *lines = ([str(cell).replace("|", "\\|") for cell in row] for row in (heading, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (first, ["---", *["---:"] * (len(first) - 1)], *lines))


def _with_interval(estimate: Estimate, layout: str, mark: str = "") -> Cell:
    known = np.isfinite(estimate.low)
    interval = f"[{layout.format(estimate.low)}, {layout.format(estimate.high)}]" if known else ""
    return Cell(layout.format(estimate.value) + mark, interval)


def headline_table(kind: Kind, agents: Sequence[str], rows: Sequence[Summary]) -> Table:
    """A metric per row, an agent per column.

    :param kind: which job
    :param agents: columns
    :param rows: summaries of one setting
    """
    found = {(row.metric.name, row.agent): row for row in rows}
    agents = [agent for agent in agents if any(row.agent == agent for row in rows)]
    lines = []
    for metric in (METRICS[name] for name in KINDS[kind].report if any(row.metric.name == name for row in rows)):
        cells = [Cell(metric.heading, metric.hint)]
        for agent in agents:
            row = found[metric.name, agent]
            if row.estimate is None:
                cells.append(Cell("-", f"({row.n_undefined} undefined)"))
            elif metric.is_change and agent == "base":
                cells.append(Cell("0", "(by definition)"))
            else:
                mark = "*" if row.p_value is not None and row.p_value < MARKED else ""
                cells.append(_with_interval(row.estimate, metric.layout, mark))
        lines.append(tuple(cells))
    return Table(("", *map(title_of, agents)), tuple(lines))


def coverage_table(rows: Sequence[IntervalQuality]) -> Table:
    """Quality of the intervals of one setting, one row per agent and forecaster."""
    heading = ("agent", "forecaster", "inside", "above", "width, psi", "interval score, psi")
    layouts = {"coverage": "{:.0%}", "above": "{:.0%}", "width": "{:.2f}", "score": "{:.1f}"}
    lines = [
        (
            Cell(title_of(row.agent)),
            Cell(row.forecaster),
            *(_with_interval(getattr(row, name), layout) for name, layout in layouts.items()),
        )
        for row in rows
    ]
    return Table(heading, tuple(lines))


def error_terms_table(setting: Setting, split: dict[tuple[str, int], ErrorParts]) -> Table:
    """Medians over seeds, and below each the median change against plain training on the same seed.

    :param setting: agents of one world
    :param split: what the error of each agent and seed consists of
    """
    terms = {
        "|error|, psi": "total",
        "floor x sigma, psi": "untrainable",
        "curvature, psi": "curvature",
        "rare mode, psi": "rare",
        "sigma of common tasks, psi": "sigma",
    }
    rows = []
    for agent in setting.agents:
        cells = [Cell(title_of(agent))]
        for term in terms.values():
            of_seed = {seed: getattr(one, term) for (name, seed), one in split.items() if name == agent}
            plain = {seed: getattr(one, term) for (name, seed), one in split.items() if name == setting.reference}
            changes = [value - plain[seed] for seed, value in of_seed.items() if seed in plain]
            shown = agent != setting.reference and bool(changes)
            value = round(float(np.median(list(of_seed.values()))), 2) + 0.0  # no -0.00
            cells.append(Cell(f"{value:.2f}", f"({np.median(changes):+.2f})" if shown else ""))
        rows.append(tuple(cells))
    return Table(("agent", *terms), tuple(rows))


def warning_table(rows: Sequence[Warned]) -> Table:
    """Warnings, an agent per row."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        sentence = f"{len(row.seeds)} of {row.n_seeds} seeds: {row.finding.sentence}"
        said.setdefault((row.setting, row.agent), []).append(sentence)
    lines = [(Cell(setting), Cell(title_of(agent)), Cell(" ".join(all_))) for (setting, agent), all_ in said.items()]
    return Table(("setting", "agent", "what was seen"), tuple(lines))


def numbers_csv(rows: Sequence[Summary]) -> str:
    """Every summary in full precision, one per row."""
    table: list[dict[str, Any]] = []
    for row in rows:
        e = row.estimate
        value, low, high = (None, None, None) if e is None else (e.value, e.low, e.high)
        table.append(
            {
                "setting": row.setting,
                "agent": row.agent,
                "metric": row.metric.name,
                "seeds": row.n_undefined if e is None else e.n,
                "iqm": value,
                "low_95": low,
                "high_95": high,
                "seeds_undefined": row.n_undefined,
                "difference_to_reference": row.difference,
                "p_sign_flip": row.p_value,
            }
        )
    return _csv(table)


def agents_csv(settings: Sequence[Setting]) -> str:
    """Every metric of every agent and seed, one agent of one seed per row."""
    units = [(setting.name, unit) for setting in settings for unit in setting.units]
    return _csv([{"setting": name, "agent": one.agent, "seed": one.seed} | one.metrics for name, one in units])


def _csv(rows: list[dict[str, Any]]) -> str:
    return pl.DataFrame(rows, infer_schema_length=None).fill_nan(None).write_csv()
