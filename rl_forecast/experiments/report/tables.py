"""The tables of a report: one object for the page and Markdown, polars for CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from rl_forecast.experiments.metrics import KINDS, METRICS, Kind, title_of
from rl_forecast.experiments.report.numbers import IntervalQuality, Summary, Warned
from rl_forecast.experiments.report.reading import Setting
from rl_forecast.experiments.statistics import Estimate
from rl_forecast.forecasting.decomposition import ErrorParts

#: Two-sided tests below this are marked: with five seeds no test can fall below 1/16.
MARKED = 0.1


class Cell(NamedTuple):
    """A cell: the number, and its interval in small print."""

    text: str
    small: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.small}".strip()


class Table(NamedTuple):
    """A table; the first cell of each row is its name."""

    heading: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def markdown(heading: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table, numbers to the right."""
    first, *lines = ([str(cell).replace("|", "\\|") for cell in row] for row in (heading, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (first, ["---", *["---:"] * (len(first) - 1)], *lines))


def with_interval(estimate: Estimate, layout: str, mark: str = "") -> Cell:
    """An estimate, and its interval where it is known."""
    interval = f"[{estimate.low:{layout}}, {estimate.high:{layout}}]" if np.isfinite(estimate.low) else ""
    return Cell(f"{estimate.value:{layout}}{mark}", interval)


def headline_table(kind: Kind, agents: Sequence[str], rows: Sequence[Summary]) -> Table:
    """A metric per row, an agent per column, from the summaries of one setting or of several together."""
    found = {(row.metric.name, row.agent): row for row in rows}
    agents = [agent for agent in agents if any(row.agent == agent for row in rows)]
    lines = []
    for metric in (METRICS[name] for name in KINDS[kind].report if any(row.metric.name == name for row in rows)):
        better = f"; {metric.better} is better" if metric.better else ""
        cells = [Cell(metric.heading, f"({metric.unit}{better})")]
        for agent in agents:
            row = found[metric.name, agent]
            if row.estimate is None:
                cells.append(Cell("-", f"({row.n_undefined} undefined)"))
            elif metric.space == "change" and agent == "base":
                cells.append(Cell("0", "(by definition)"))
            else:
                mark = "*" if row.p_value is not None and row.p_value < MARKED else ""
                cells.append(with_interval(row.estimate, metric.layout, mark))
        lines.append(cells)
    return Table(["", *map(title_of, agents)], lines)


def coverage_table(rows: Sequence[IntervalQuality]) -> Table:
    """Quality of the intervals of one setting, one row per agent and forecaster."""
    layouts = {"coverage": ".0%", "above": ".0%", "width": ".2f", "score": ".1f"}
    lines = []
    for row in rows:
        numbers = [with_interval(getattr(row, name), layout) for name, layout in layouts.items()]
        lines.append([Cell(title_of(row.agent)), Cell(row.forecaster), *numbers])
    return Table(["agent", "forecaster", "inside", "above", "width, psi", "interval score, psi"], lines)


def error_terms_table(setting: Setting, split: dict[tuple[str, int], ErrorParts]) -> Table:
    """Terms of each agent's error: medians over seeds, and the median change against plain training, seed by seed."""
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
        rows.append(cells)
    return Table(["agent", *terms], rows)


def warning_table(rows: Sequence[Warned]) -> Table:
    """Warnings, an agent per row."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        sentence = f"{len(row.seeds)} of {row.n_seeds} seeds: {row.finding.sentence}"
        said.setdefault((row.setting, row.agent), []).append(sentence)
    lines = [[Cell(setting), Cell(title_of(agent)), Cell(" ".join(all_))] for (setting, agent), all_ in said.items()]
    return Table(["setting", "agent", "what was seen"], lines)


def numbers_csv(rows: Sequence[Summary]) -> str:
    """Every summary in full precision, one per row."""
    columns = "setting agent metric seeds iqm low_95 high_95 seeds_undefined difference_to_reference p_sign_flip"
    table: list[dict[str, Any]] = []
    for row in rows:
        value, low, high, n = row.estimate or (None, None, None, row.n_undefined)
        seeds = n, value, low, high, row.n_undefined
        line = row.setting, row.agent, row.metric.name, *seeds, row.difference, row.p_value
        table.append(dict(zip(columns.split(), line, strict=True)))
    return _csv(table)


def agents_csv(settings: Sequence[Setting]) -> str:
    """Every metric of every agent and seed, one agent of one seed per row."""
    units = [(setting.name, unit) for setting in settings for unit in setting.units]
    return _csv([{"setting": name, "agent": one.agent, "seed": one.seed} | one.metrics for name, one in units])


def _csv(rows: list[dict[str, Any]]) -> str:
    return pl.DataFrame(rows, infer_schema_length=None).fill_nan(None).write_csv()
