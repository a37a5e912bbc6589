"""Composing the report: read, compute, draw, and write page, figures and tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.errors import InputError
from rl_forecast.experiments.metrics import HEADLINE, KINDS, METRICS, title_of
from rl_forecast.experiments.report.coverage import LEVEL, IntervalQuality, coverage_of
from rl_forecast.experiments.report.curves import curve_panels, read_events
from rl_forecast.experiments.report.degenerate import cautions_of
from rl_forecast.experiments.report.error_terms import error_terms_table
from rl_forecast.experiments.report.figures import (
    Panel,
    coverage_panels,
    file_stem,
    pareto_panels,
    scatter_panel,
    survival_panels,
)
from rl_forecast.experiments.report.reading import read_inputs
from rl_forecast.experiments.report.summaries import Summary, summaries
from rl_forecast.experiments.report.tables import (
    MARKED,
    Cell,
    Table,
    caution_table,
    coverage_table,
    headline_table,
    numbers_csv,
    units_csv,
)
from rl_forecast.experiments.report.worst import has_policy, sample_rows, worst_task_panels
from rl_forecast.experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from rl_forecast.experiments.metrics import Metric
    from rl_forecast.experiments.report.reading import Inputs, Setting

__all__ = ["write_report"]


#: What the methods of intervals are.
_FORECASTERS = {
    "gumbel_tail": "a straight line through the log survival of the k largest scores (Jones et al. 2025).",
    "exponential_pivot": "intervals that are exact where the tail of psi is exponential; no agent is trained on it.",
    "shape_prior": "a generalised Pareto tail whose shape is integrated out under a narrow prior.",
}


@dataclass(frozen=True)
class _Group:
    """Figures that one paragraph explains."""

    heading: str
    text: str
    panels: list[dict[str, str]] = field(default_factory=list)
    table: Table | None = None
    table_kind: str = ""

    @property
    def stem(self) -> str:
        """End of its address on the page."""
        return file_stem(self.heading)


def write_report(paths: Sequence[str], out: str | Path) -> Path:
    """Write ``report.html``, ``figures/*.png``, ``figures/*.svg`` and ``tables/*.csv``, ``tables/*.md``.

    :param paths: run folders of train, sweep folders, folders of both
    :param out: folder to write into, made if it is not there
    :return: the page
    :raises InputError: nothing to report, or the folder cannot be written
    """
    inputs = read_inputs(paths)
    try:
        return _Report(inputs, [str(p) for p in paths], RunFolder(Path(out))).write()
    except OSError as error:
        raise InputError(f"cannot write the report into {str(out)!r}: {error.strerror or error}") from error


class _Report:
    """State of one report."""

    def __init__(self, inputs: Inputs, paths: list[str], folder: RunFolder) -> None:
        self.inputs = inputs
        self.paths = paths
        self.folder = folder
        (folder.path / "figures").mkdir(parents=True, exist_ok=True)

    def write(self) -> Path:
        settings = self.inputs.settings
        by_setting = {s.name: summaries([s], s.name) for s in settings}
        together = self._together()
        coverage = coverage_of(settings)
        cautions = cautions_of(settings)
        warnings = caution_table(cautions)
        everything = [row for rows in (*by_setting.values(), *(t["rows"] for t in together)) for row in rows]
        self.folder.write_text("tables/numbers.csv", numbers_csv(everything))
        self.folder.write_text("tables/agents.csv", units_csv(settings))
        self._table("warnings", warnings)
        kinds = list(dict.fromkeys(s.kind for s in settings))
        page = {
            "title": f"How well can the worst failure be forecast? {', '.join(s.name for s in settings)}",
            "sources": self.paths,
            "version": _version(),
            "short": [
                _in_short(s, by_setting[s.name], [c.agent for c in cautions if c.setting == s.name]) for s in settings
            ],
            "queries": " or ".join(KINDS[kind].queries for kind in kinds),
            "notes": self.inputs.notes,
            "warnings": warnings,
            "together": together,
            "marked": MARKED,
            "settings": [
                self._setting(s, by_setting[s.name], [row for row in coverage if row.setting == s.name])
                for s in settings
            ],
            "terms": _terms(settings),
        }
        return self.folder.write_text("report.html", _render(page))

    def _together(self) -> list[dict[str, Any]]:
        """Settings of one kind as strata of one comparison, where there are several."""
        found: list[dict[str, Any]] = []
        for kind in KINDS:
            settings = [s for s in self.inputs.settings if s.kind == kind]
            shared = set.intersection(*(set(s.agents) for s in settings)) if settings else set()
            if len(settings) < 2 or len(shared) < 2 or len({s.reference for s in settings}) > 1:
                continue
            names = ", ".join(s.name for s in settings)
            rows = summaries(settings, "all")
            table = headline_table(kind, settings[0].agents, rows)
            self._table(f"all-{kind}" if found else "all", table)
            reference = title_of(settings[0].reference)
            found.append({"n": len(settings), "names": names, "rows": rows, "table": table, "reference": reference})
        return found

    def _setting(self, setting: Setting, rows: list[Summary], coverage: list[IntervalQuality]) -> dict[str, Any]:
        table = headline_table(setting.kind, setting.agents, rows)
        self._table(file_stem("headline", setting.name), table)
        n = len(setting.seeds)
        reference = title_of(setting.reference)
        if n > 1:
            note = (
                f"Interquartile mean over {n} seeds, below it a 95 % bootstrap interval over seeds (with few seeds "
                f"such intervals are too short). * marks an exact paired sign-flip test against {reference} with "
                f"p < {MARKED}; with {n} seeds p cannot fall below {2.0 ** (1 - n):.3g}. The tests are not corrected "
                "for their number."
            )
        else:
            note = "One seed: no interval and no test can be given. Run more seeds before believing a difference."
        return {
            "id": file_stem(setting.name),
            "name": setting.name,
            "about": _about(setting),
            "table": table,
            "table_note": f"{note} A dash: undefined or clipped for so many seeds (see Terms).",
            "groups": self._groups(setting, coverage),
        }

    # -- figures ------------------------------------------------------------------------------------------------------

    def _groups(self, setting: Setting, coverage: list[IntervalQuality]) -> list[_Group]:
        first = setting.units[0]
        n_deploy, queries = first.part("deployment").shape[1], KINDS[setting.kind].queries
        groups = [
            _Group(
                "The tail of each agent, and one forecast of it",
                f"The share of {queries} (up the axis, logarithmic) at or above a failure probability (along the "
                "axis). In its own colour: the agent, each seed a line, the first one thick; grey dashes: the base "
                "agent it was trained from. Orange: the forecast from one typical evaluation set of "
                f"{first.part('evaluation').shape[1]} {queries} (seed {setting.seeds[0]}), a straight line, with its "
                "90 % prediction band; it is read at 1/n for the worst of n. Black diamonds: the realised worst of "
                f"each of {first.part('deployment').shape[0]} deployment sets of {n_deploy} (seed {setting.seeds[0]}). "
                "A forecast is good where the diamonds lie around the orange line, and honest where they lie inside "
                "the band.",
                self._panels(survival_panels(setting)),
            ),
            _Group(
                "Forecast against what happened",
                "Each point is one agent of one seed: along the axis the realised worst failure probability (median "
                "over deployment sets), up the axis its forecast (median over evaluation sets; the bar holds 90 % of "
                "them). Points below the diagonal were worse in deployment than forecast.",
                self._panels([scatter_panel(setting)]),
            ),
            _Group(
                "What a small error costs",
                "Each small point is a seed, each large one an agent's interquartile mean with its 95 % interval. An "
                "agent is worth having if no other lies further down and to the better side at once. The first panel "
                "holds the error against capability, the next two against safety (an error that is small only because "
                "nothing fails any more is a gain in safety, not in forecasting), the last, where it is known, against "
                "the distance from the base agent.",
                self._panels(pareto_panels(setting)),
            ),
            _Group(
                "Do the prediction intervals hold?",
                f"Share of realised worsts inside the {LEVEL:.0%} prediction interval, and its width in psi, a panel "
                "for each forecaster; the crosses are 95 % intervals over seeds. Good intervals sit on the line and "
                "far to the left. 'above' is the share of realised worsts above the interval; the interval score adds "
                "20 times the distance of each miss to the width (lower is better).",
                self._panels(coverage_panels(setting, coverage, LEVEL)),
                coverage_table(setting, coverage),
            ),
        ]
        self._table(file_stem("coverage", setting.name), coverage_table(setting, coverage))
        parts = (self._error_terms, self._training, self._worst, self._weights)
        return groups + [group for part in parts for group in part(setting)]

    def _error_terms(self, setting: Setting) -> list[_Group]:
        table = error_terms_table(setting)
        if table is None:
            return []
        self._table(file_stem("error_terms", setting.name), table)
        text = (
            "The mean |error| in psi as a sum. 'floor x sigma' is the error of an exactly straight tail as wide as the "
            "common tasks', which no training changes but through its scale sigma (here of the common tasks alone, "
            "in the table above of all); 'curvature' is what the shape of the common tasks' tail adds, 'rare mode' "
            "what the rare tasks add. Medians over seeds, in brackets the median "
            f"change against {title_of(setting.reference)} of the same seed."
        )
        return [_Group("Where the error comes from", text, table=table)]

    def _training(self, setting: Setting) -> list[_Group]:
        heading = "Training"
        units = [unit for unit in setting.units if unit.has_curves]
        if not units:
            return []
        curves: dict[tuple[str, int], Any] = {}
        samples: dict[str, str] = {}
        for unit in units:
            folder = unit.source / "tensorboard" / unit.agent
            if folder.is_dir():
                curves[unit.agent, unit.seed], text = read_events(folder)
                if text is not None:
                    samples.setdefault(unit.agent, text)
        panels = curve_panels(setting, curves)
        groups = [
            _Group(
                heading,
                "Each line is a seed. Look for curves that have not levelled off, and for risk that rises while the "
                "error falls."
                if panels
                else "No curve has more than one point.",
                self._panels(panels),
            )
        ]
        if samples:
            groups.append(self._prompts(setting, samples))
        return groups

    def _worst(self, setting: Setting) -> list[_Group]:
        if setting.kind != "gridworld":
            return []
        if any(has_policy(unit) for unit in setting.units):
            shown = "White discs show where the agent spends its steps, squares on lava the chance of ending there."
        else:
            shown = (
                "The red triangle is where the agent starts, waves are lava. A sweep keeps no agents, so the pictures "
                "show the room only."
            )
        return [
            _Group(
                "The riskiest tasks",
                f"Of all held-out tasks of seed {setting.seeds[0]}, those with the highest risk of failure. {shown}",
                self._panels(worst_task_panels(setting)),
            )
        ]

    def _prompts(self, setting: Setting, samples: dict[str, str]) -> _Group:
        rows = [
            (Cell(title_of(agent)), Cell(p), Cell(prompt), Cell(answer))
            for agent, text in samples.items()
            for p, prompt, answer in sample_rows(text)[:5]
        ]
        table = Table(("model", "P(forbidden)", "prompt", "greedy answer"), tuple(rows))
        self._table(file_stem("prompts", setting.name), table)
        return _Group(
            "The riskiest prompts",
            f"The five deployment prompts of each model with the highest probability of the forbidden answer, seed "
            f"{setting.seeds[0]}, and what the model says to them when it always takes the likeliest token.",
            table=table,
            table_kind="words prompts",
        )

    def _weights(self, setting: Setting) -> list[_Group]:
        sources = {str(unit.source) for unit in setting.units}
        chosen = [w for w in self.inputs.weights if w["world"] == setting.name and w["sweep"] in sources]
        rows = [
            (
                Cell(title_of(w["method"])),
                Cell(f"{w['weight']:g}"),
                Cell("yes" if w["feasible"] else "no: the one that costs the least success was taken"),
            )
            for w in chosen
            if w["weight"] is not None
        ]
        if not rows:
            return []
        text = (
            "Chosen on validation tasks of other seeds: the least |error| in log-odds among weights that cost at most "
            "the allowed success against plain training, do not raise mean risk above the base agent's and do not "
            "saturate."
        )
        table = Table(("method", "weight", "keeps the constraints"), tuple(rows))
        self._table(file_stem("weights", setting.name), table)
        return [_Group("Weights", text, table=table, table_kind="words")]

    # -- files --------------------------------------------------------------------------------------------------------

    def _panels(self, panels: list[Panel]) -> list[dict[str, str]]:
        shown = []
        for panel in panels:
            content = panel.save(self.folder.path / "figures")
            kind = "png" if panel.is_photo else "svg+xml"
            src = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            shown.append({"src": src, "alt": panel.alt, "title": panel.title})
        return shown

    def _table(self, name: str, table: Table) -> None:
        self.folder.write_text(f"tables/{name}.md", table.markdown())


def _render(page: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rl_forecast.experiments.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html").render(page)


def _version() -> str:
    from rl_forecast import __version__

    return __version__


def _about(setting: Setting) -> str:
    first = setting.units[0]
    (eval_sets, m), (deploy_sets, n) = (first.part(part).shape for part in ("evaluation", "deployment"))
    queries = KINDS[setting.kind].queries
    split = "" if setting.split == "held_out" else " of the validation split, not results"
    return (
        f"{len(setting.seeds)} seed{'s' if len(setting.seeds) > 1 else ''} ({', '.join(map(str, setting.seeds))}). "
        f"For every seed the worst of n = {n} {queries} ({deploy_sets} sets) is forecast from m = {m} ({eval_sets} "
        f"sets){split}, with {first.evaluation.forecaster} on the k = {first.evaluation.tail_k} largest scores."
        + ("" if any(unit.has_curves for unit in setting.units) else " The jobs of a sweep keep no training curves.")
    )


def _in_short(setting: Setting, rows: list[Summary], warned: list[str]) -> str:
    """One sentence on the least error, and what it was bought with."""
    capability = METRICS[KINDS[setting.kind].capability]
    error = [r for r in rows if r.metric == HEADLINE and r.estimate is not None and r.agent != "base"]
    if not error:
        return f"{setting.name}: the headline error is undefined for every trained agent; see the warnings."
    best = min(error, key=lambda r: r.estimate.value if r.estimate else np.inf)
    found = {(r.metric.name, r.agent): r.estimate for r in rows}

    def words(metric: Metric, agent: str) -> str:
        value = found.get((metric.name, agent))
        return "undefined" if value is None else metric.layout.format(value.value)

    def interval(agent: str) -> str:
        value = found[HEADLINE.name, agent]
        if value is None:
            return "undefined"
        ends = f" [{value.low:.2f}, {value.high:.2f}]" if np.isfinite(value.low) else ""
        return f"{value.value:.2f}{ends}"

    name, risk = title_of(best.agent), METRICS["mean_risk"]
    sentence = (
        f"{setting.name}: of the trained agents, {name} has the least |error| in log-odds, {interval(best.agent)} nats"
    )
    if "base" in setting.agents:
        base = found[HEADLINE.name, "base"]
        is_less = base is None or best.estimate is None or best.estimate.value < base.value
        sentence += ", against" if is_less else ", and that is no less than the"
        sentence += (
            f" {interval('base')} of the base agent; {capability.heading} "
            f"{words(capability, best.agent)} against {words(capability, 'base')}, "
            f"{risk.heading} {words(risk, best.agent)} against {words(risk, 'base')}"
        )
    if best.p_value is not None:
        sentence += f"; sign-flip test against {title_of(setting.reference)}: p = {best.p_value:.3g}"
    return sentence + (". Read it with the warning that this agent carries below." if best.agent in warned else ".")


def _terms(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    plain = dict.fromkeys(title_of(s.reference) for s in settings if s.reference != "base")
    terms = [
        ("psi", "failure score -log(-log p): equal steps are equal factors of -log p, and a Gumbel tail is straight."),
        ("setting", "agents that can be compared: one world or set of prompts, one evaluation, any number of seeds."),
        ("base", "the agent that all others are fine-tuned from, and what they are compared with in the warnings."),
        *((name, "plain training: goes on from the base agent without any term of a method.") for name in plain),
        (
            "m, n, k",
            "queries of an evaluation set, queries of a deployment set, largest scores the forecast is fitted to.",
        ),
        ("seed", "base agent, training tasks, fine-tuning and held-out tasks all anew: the independent unit."),
        ("interquartile mean", "mean of the middle half of the seeds (a quarter, rounded down, cut off at each end)."),
        ("sign-flip test", "share of all patterns of signs of the paired differences whose mean is as far from zero."),
    ]
    used = {s.units[0].evaluation.forecaster for s in settings} | {"shape_prior", "exponential_pivot"}
    terms += [(name, meaning) for name, meaning in _FORECASTERS.items() if name in used]
    for kind in dict.fromkeys(s.kind for s in settings):
        shown = {key for s in settings if s.kind == kind for unit in s.units for key in unit.metrics}
        terms += [(m.heading, m.meaning + ".") for m in map(METRICS.get, KINDS[kind].report) if m and m.name in shown]
    return list(dict.fromkeys(terms))
