"""Composing the report: read, compute, draw and write. The words of the page are in ``page.html``."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rl_forecast.errors import InputError
from rl_forecast.experiments.metrics import HEADLINE, KINDS, METRICS, Kind, Metric, title_of
from rl_forecast.experiments.report import figures, numbers, tables
from rl_forecast.experiments.report.figures import file_stem
from rl_forecast.experiments.report.numbers import Summary
from rl_forecast.experiments.report.reading import Curve, Inputs, Setting, read_events, read_inputs
from rl_forecast.experiments.report.tables import Cell, Table
from rl_forecast.experiments.run_folder import RunFolder


def write_report(paths: Sequence[str], out: str | Path) -> Path:
    """Write ``report.html``, ``figures/*.png``, ``figures/*.svg`` and ``tables/*.csv``, ``tables/*.md``.

    :param paths: run folders of train, sweep folders, folders of both
    :return: the page
    :raises InputError: nothing to report, or the folder cannot be written
    """
    inputs = read_inputs(paths)
    folder = RunFolder(Path(out))
    try:
        (folder.path / "figures").mkdir(parents=True, exist_ok=True)
        return _write(inputs, [str(path) for path in paths], folder)
    except OSError as error:
        raise InputError(f"cannot write the report into {str(out)!r}: {error.strerror or error}") from error


def _write(inputs: Inputs, paths: list[str], folder: RunFolder) -> Path:
    import jinja2

    from rl_forecast import __version__

    settings = inputs.settings
    rows = {setting.name: numbers.summaries([setting], setting.name) for setting in settings}
    together = _together(settings, folder)
    warned = {setting.name: numbers.warnings_of(setting) for setting in settings}
    all_rows = [row for some in (*rows.values(), *(one["rows"] for one in together)) for row in some]
    folder.write_text("tables/numbers.csv", tables.numbers_csv(all_rows))
    folder.write_text("tables/agents.csv", tables.agents_csv(settings))
    warnings = tables.warning_table([one for some in warned.values() for one in some])
    kinds: list[Kind] = list(dict.fromkeys(setting.kind for setting in settings))
    known = {key for setting in settings for unit in setting.units for key in unit.metrics}
    shown = [METRICS[name] for kind in kinds for name in KINDS[kind].report if name in known]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rl_forecast.experiments.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=f"How well can the worst failure be forecast? {', '.join(setting.name for setting in settings)}",
        sources=paths,
        version=__version__,
        short=[_in_short(s, rows[s.name], {one.agent for one in warned[s.name]}) for s in settings],
        queries=" or ".join(KINDS[kind].queries for kind in kinds),
        notes=inputs.notes,
        warnings=_written(folder, "warnings", warnings),
        together=together,
        marked=tables.MARKED,
        level=numbers.LEVEL,
        settings=[_setting(setting, rows[setting.name], inputs, folder) for setting in settings],
        plain=dict.fromkeys(title_of(s.reference) for s in settings if s.reference != "base"),
        forecasters={s.units[0].evaluation.forecaster for s in settings} | {"shape_prior", "exponential_pivot"},
        metrics=dict.fromkeys(shown),
    )
    return folder.write_text("report.html", page)


def _written(folder: RunFolder, name: str, table: Table) -> Table:
    """The table, which is also written as Markdown."""
    folder.write_text(f"tables/{name}.md", tables.markdown(table.heading, table.rows))
    return table


def _together(settings: Sequence[Setting], folder: RunFolder) -> list[dict[str, Any]]:
    """Settings of one kind as strata of one comparison, where there are several."""
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        some = [setting for setting in settings if setting.kind == kind]
        shared = set.intersection(*(set(setting.agents) for setting in some)) if some else set()
        if len(some) < 2 or len(shared) < 2 or len({setting.reference for setting in some}) > 1:
            continue
        rows = numbers.summaries(some, "all")
        table = tables.headline_table(kind, some[0].agents, rows)
        _written(folder, f"all-{kind}" if found else "all", table)
        names = ", ".join(setting.name for setting in some)
        reference = title_of(some[0].reference)
        found.append({"n": len(some), "names": names, "rows": rows, "table": table, "reference": reference})
    return found


def _setting(setting: Setting, rows: list[Summary], inputs: Inputs, folder: RunFolder) -> dict[str, Any]:
    """What the template needs of one setting."""
    table = tables.headline_table(setting.kind, setting.agents, rows)
    first = setting.units[0]
    return {
        "id": file_stem(setting.name),
        "setting": setting,
        "sizes": {part: scores.shape for part, scores in first.held_out.parts.items()},
        "evaluation": first.evaluation,
        "has_curves": any(unit.events for unit in setting.units),
        "has_policy": any(unit.has_policy for unit in setting.units),
        "queries": KINDS[setting.kind].queries,
        "reference": title_of(setting.reference),
        "table": _written(folder, file_stem("headline", setting.name), table),
        "groups": _groups(setting, inputs, folder),
    }


def _groups(setting: Setting, inputs: Inputs, folder: RunFolder) -> list[dict[str, Any]]:
    """Figures and a table under one heading each; ``page.html`` has the words for each key."""
    groups: list[dict[str, Any]] = []

    def add(key: str, heading: str, panels: Iterable[figures.Panel] = (), **table: Any) -> None:
        shown = []
        for panel in panels:
            content = base64.b64encode(panel.save(folder.path / "figures")).decode()
            kind = "png" if panel.is_photo else "svg+xml"
            shown.append({"src": f"data:image/{kind};base64,{content}", "alt": panel.alt, "title": panel.title})
        groups.append({"key": key, "heading": heading, "panels": shown, "table": None, "table_kind": ""} | table)

    def written(name: str, table: Table) -> Table:
        return _written(folder, file_stem(name, setting.name), table)

    add("tail", "The tail of each agent, and one forecast of it", figures.survival_panels(setting))
    add("scatter", "Forecast against what happened", [figures.scatter_panel(setting)])
    add("pareto", "What a small error costs", figures.pareto_panels(setting))
    coverage = numbers.coverage_of(setting)
    table = written("coverage", tables.coverage_table(coverage))
    add("coverage", "Do the prediction intervals hold?", figures.coverage_panels(setting, coverage), table=table)
    terms = numbers.error_terms_of(setting)
    if terms:
        table = written("error_terms", tables.error_terms_table(setting, terms))
        add("terms", "Where the error comes from", table=table)
    curves: dict[tuple[str, int], dict[str, Curve]] = {}
    samples: dict[str, list[tuple[str, str, str]]] = {}
    for unit in setting.units:
        if unit.events:
            curves[unit.agent, unit.seed], rows = read_events(unit.events)
            samples.setdefault(unit.agent, rows[:5])
    if curves:
        add("training", "Training", figures.curve_panels(setting, curves))
    prompts = [[Cell(title_of(agent)), *map(Cell, row)] for agent, rows in samples.items() for row in rows]
    if prompts:
        table = written("prompts", Table(["model", "P(forbidden)", "prompt", "greedy answer"], prompts))
        add("prompts", "The riskiest prompts", table=table, table_kind="words prompts")
    if setting.kind == "gridworld":
        add("worst", "The riskiest tasks", figures.worst_task_panels(setting))
    sources = {unit.source for unit in setting.units}
    weights = []
    for choice in inputs.weights:
        if choice["world"] == setting.name and choice["sweep"] in sources and choice["weight"] is not None:
            keeps = "yes" if choice["feasible"] else "no: the one that costs the least success was taken"
            weights.append([Cell(title_of(choice["method"])), Cell(f"{choice['weight']:g}"), Cell(keeps)])
    if weights:
        table = written("weights", Table(["method", "weight", "keeps the constraints"], weights))
        add("weights", "Weights", table=table, table_kind="words")
    return groups


def _in_short(setting: Setting, rows: list[Summary], warned: set[str]) -> str:
    """One sentence on the least error, and what it was bought with."""
    found = {(row.metric, row.agent): row for row in rows}
    errors = {
        row.agent: row.estimate.value for row in rows if row.metric == HEADLINE and row.estimate and row.agent != "base"
    }
    if not errors:
        return f"{setting.name}: the headline error is undefined for every trained agent; see the warnings."
    best = min(errors, key=lambda agent: errors[agent])

    def value(metric: Metric, agent: str, interval: bool = False) -> str:
        row = found.get((metric, agent))
        if row is None or row.estimate is None:
            return "undefined"
        cell = tables.with_interval(row.estimate, metric.layout)
        return str(cell) if interval else cell.text

    sentence = (
        f"{setting.name}: of the trained agents, {title_of(best)} has the least |error| in log-odds, "
        f"{value(HEADLINE, best, interval=True)} nats"
    )
    if "base" in setting.agents:
        base = found[HEADLINE, "base"].estimate
        is_less = base is None or errors[best] < base.value
        against = [METRICS[KINDS[setting.kind].capability], METRICS["mean_risk"]]
        sentence += ", against" if is_less else ", and that is no less than the"
        sentence += f" {value(HEADLINE, 'base', interval=True)} of the base agent; " + ", ".join(
            f"{metric.heading} {value(metric, best)} against {value(metric, 'base')}" for metric in against
        )
    p = found[HEADLINE, best].p_value
    if p is not None:
        sentence += f"; sign-flip test against {title_of(setting.reference)}: p = {p:.3g}"
    return sentence + (". Read it with the warning that this agent carries below." if best in warned else ".")
