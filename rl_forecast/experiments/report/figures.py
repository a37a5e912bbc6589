"""The figures of a report: small panels that a page can put side by side or below each other."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rl_forecast.experiments.figures import probability_ticks
from rl_forecast.experiments.metrics import HEADLINE, KINDS, METRICS, Kind, Metric, title_of
from rl_forecast.experiments.report.numbers import LEVEL, IntervalQuality, values_of
from rl_forecast.experiments.report.reading import Curve, Setting, Unit
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import Config
from rl_forecast.experiments.statistics import Estimate, estimate
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.scores import format_probability, psi_from_p

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# An agent has one colour and one marker in all figures; distinguishable without colour vision, and by marker without
# colour. Orange is the forecast's.
_COLOURS = ("#4c4c4c", "#0072b2", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7b3f9d", "#8c564b", "#882255")
_MARKERS = "osD^vP<X>"
_FORECAST = "#d55e00"
# Inches: the width of a telephone's screen, what tick labels and axis labels need left and below, a row of a legend.
_WIDTH, _LEFT, _BELOW, _LEGEND_ROW = 4.3, 0.72, 0.46, 0.16
# Scores drawn: below p = 1e-24 nothing is told apart, above psi = 12 p is 1 - 6e-6.
_PSI_RANGE = (float(psi_from_p(1e-24)), 12.0)
# Training curves: log key, heading with unit, whether its axis is logarithmic.
_CURVES: dict[Kind, tuple[tuple[str, str, bool], ...]] = {
    "gridworld": (
        ("rollout/success_rate", "success in training episodes", False),
        ("forecast/absolute_error", "|error| on validation tasks, psi", False),
        ("forecast/mean_risk", "mean risk of validation tasks", True),
        ("forecast/realised_worst_psi", "realised worst of validation tasks, psi", False),
    ),
    "language": (
        ("train/supervised_loss", "supervised loss, nats", False),
        ("train/forecast_loss", "the method's own term, in its own unit", False),
        ("train/worst_psi", "worst score of the pool, psi", False),
        ("train/share_above_1_percent", "share of the pool with p > 1 %", False),
    ),
}
# Pictures of a setting's riskiest tasks at most, and for each agent whose policy was kept.
_N_PICTURES, _N_WORST = 9, 2


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of the page; ``alt`` is what a reader who cannot see it has to know, a photo is inlined as PNG."""

    stem: str
    title: str
    alt: str
    figure: Figure
    is_photo: bool = False

    def save(self, folder: Path) -> bytes:
        """Write ``<stem>.png`` and ``<stem>.svg``; the content that the page inlines."""
        contents = {}
        engine = self.figure.get_layout_engine()
        if engine is not None:
            # Once for both formats; with an engine in place every save draws twice.
            engine.execute(self.figure)
            self.figure.set_layout_engine(None)
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            # Without a date the same results give the same bytes.
            metadata = {"Date": None} if kind == "svg" else {}
            self.figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            contents[kind] = buffer.getvalue()
            (folder / f"{self.stem}.{kind}").write_bytes(contents[kind])
        return contents["png" if self.is_photo else "svg"]


def file_stem(*names: str) -> str:
    """A file name made of names of any kind."""
    return "-".join(re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in names)


def _new_axes(height: float, x_label: str, y_label: str, n_legend: int = 0) -> tuple[Figure, Axes]:
    """A panel's figure, ``height`` inches without the legend of ``n_legend`` entries below it."""
    from matplotlib.figure import Figure

    # Fixed margins: panels side by side line up, and searching for a layout takes as long as drawing.
    legend = _LEGEND_ROW * ((n_legend + 1) // 2) + (0.1 if n_legend else 0.0)
    figure = Figure(figsize=(_WIDTH, height + legend))
    axes = figure.subplots()
    bottom, top = (_BELOW + legend) / (height + legend), 1 - 0.1 / (height + legend)
    figure.subplots_adjust(left=_LEFT / _WIDTH, right=1 - 0.1 / _WIDTH, bottom=bottom, top=top)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(x_label, fontsize=8.5)
    axes.set_ylabel(y_label, fontsize=8.5)
    return figure, axes


def _log_axis(axes: Axes, which: str) -> None:
    """Make the ``x`` or ``y`` axis of drawn data logarithmic, with plain numbers, of few decades also at 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    low, high = axis.get_view_interval()
    ratio = high / max(low, 1e-300)
    # Below a ratio of 5 powers of ten may not be in sight at all.
    powers = LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0,), numticks=8)
    axis.set_major_locator(MaxNLocator(4) if ratio < 5 else powers)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend_below(figure: Figure) -> None:
    """The legend of the axes, below them in two columns."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        place: dict[str, Any] = {"loc": "lower center", "borderaxespad": 0.2, "ncols": 2, "columnspacing": 1.2}
        figure.legend(handles, labels, frameon=False, fontsize=7.5, **place)


def _style_of(setting: Setting, agent: str) -> dict[str, Any]:
    """Colour and marker of an agent."""
    number = setting.agents.index(agent)
    return {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}


def survival_panels(setting: Setting) -> list[Panel]:
    """For each agent the share of tasks above each score, with one evaluation's forecast and its band."""
    lines = {agent: _forecast_line(setting.of(agent)[0]) for agent in setting.agents}
    low, high = _limits(setting, lines)
    return [_survival_panel(setting, agent, lines[agent], low, high) for agent in setting.agents]


def _forecast_line(unit: Unit) -> NDArray[np.float64] | None:
    """Shape (4, n_sizes): sizes n, forecast and its band (psi) of the evaluation set with the median forecast."""
    errors, parts = unit.held_out.errors, unit.held_out.parts
    if errors.n_failed_fits == len(errors.forecast):
        return None
    order = np.argsort(errors.forecast)  # NaN last
    typical = order[(len(order) - errors.n_failed_fits) // 2]
    fit = make_forecaster(unit.evaluation.forecaster, unit.evaluation.tail_k).fit(unit.held_out.summaries[typical])
    m, n_deploy = parts["evaluation"].shape[1], parts["deployment"].shape[1]
    sizes = np.unique(np.round(np.geomspace(max(m / unit.evaluation.tail_k, 2), 2 * n_deploy, 9))).astype(int)
    return np.array([(n, fit.point(n), fit.quantile(0.05, n), fit.quantile(0.95, n)) for n in sizes.tolist()]).T


def _limits(setting: Setting, lines: dict[str, NDArray[np.float64] | None]) -> tuple[float, float]:
    """Range of psi that shows every agent's right end; the bulk of very safe tasks is cut off."""
    left, right = [], [-1.0]
    for unit in setting.units:
        psi = unit.held_out.parts["deployment"].ravel()
        finite = psi[np.isfinite(psi)]
        if finite.size:
            left.append(float(np.quantile(finite, 0.8)))
            right.append(float(finite.max()))
    right += [float(line[1, -1]) for line in lines.values() if line is not None]
    low = max(min(left, default=-3.0), _PSI_RANGE[0])
    return low - 0.3, max(min(max(right), _PSI_RANGE[1]), low + 1.0) + 0.5


def _survival_panel(setting: Setting, agent: str, line: NDArray[np.float64] | None, low: float, high: float) -> Panel:
    units = setting.of(agent)
    y_label = f"share of {KINDS[setting.kind].queries} at least as risky"
    figure, axes = _new_axes(3.4, "failure probability (axis linear in psi)", y_label)
    if agent != "base":
        for i, unit in enumerate(setting.of("base")):
            label = "base agent, before" if i == 0 else None
            axes.plot(*unit.survival, color=_COLOURS[0], lw=0.9, ls=(0, (4, 2)), alpha=0.8, label=label)
    for i, unit in enumerate(units):
        first = {"lw": 1.8, "label": "this agent in deployment"} if i == 0 else {"lw": 0.8, "alpha": 0.5}
        axes.plot(*unit.survival, color=_style_of(setting, agent)["color"], **first)
    deployment = units[0].held_out.parts["deployment"]
    n_deploy, realised = deployment.shape[1], deployment.max(axis=1)
    axes.axhline(1 / n_deploy, color="0.8", lw=0.8, zorder=0)
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
    axes.annotate(f"1 in {n_deploy}", (0.99, 1 / n_deploy), fontsize=7.5, color="0.4", **at)
    forecast = "No tail could be fitted."
    if line is not None:
        n, middle, *ends = line
        axes.fill_betweenx(1 / n, *ends, label="90 % prediction band", color=_FORECAST, alpha=0.16, lw=0)
        axes.plot(middle, 1 / n, color=_FORECAST, lw=1.4, ls="--", label="forecast of one evaluation")
        at_n = [format_probability(float(np.interp(n_deploy, n, values))) for values in (middle, *ends)]
        forecast = f"Forecast {at_n[0]}, 90 % band {at_n[1]} to {at_n[2]}."
    diamonds: dict[str, Any] = {"color": "k", "ms": 4, "mec": "white", "mew": 0.5, "zorder": 4}
    level = np.full(realised.size, 1 / n_deploy)
    axes.plot(realised, level, "D", label=f"realised worst of {n_deploy}", **diamonds)
    _log_axis(axes, "y")
    axes.set_ylim(0.3 / n_deploy, 1.3)
    axes.set_xlim(low, high)
    probability_ticks(axes.xaxis, low, high)
    axes.legend(frameon=False, fontsize=7, loc="upper right", handlelength=1.6)
    alt = (
        f"Survival curve of the failure scores of {title_of(agent)} in {setting.name}, {len(units)} seed(s). Realised "
        f"worst of {n_deploy} tasks, seed {units[0].seed}: {format_probability(float(np.median(realised)))} (median of "
        f"{realised.size} sets). {forecast}"
    )
    return Panel(file_stem("survival", setting.name, agent), title_of(agent), alt, figure)


def scatter_panel(setting: Setting) -> Panel:
    """Forecast against realised worst: a point for each agent and seed, its bar over evaluation sets."""
    x_label, y_label = "realised worst failure probability (psi axis)", "forecast of it (psi axis)"
    figure, axes = _new_axes(3.7, x_label, y_label, len(setting.agents))
    points, bars = [], []
    for agent in setting.agents:
        style, label = _style_of(setting, agent), title_of(agent)
        for unit in setting.of(agent):
            errors = unit.held_out.errors
            forecast = errors.forecast[np.isfinite(errors.forecast)]
            x = float(np.median(errors.realised))
            if not forecast.size or not np.isfinite(x):
                continue
            y, ends = float(np.median(forecast)), np.quantile(forecast, [0.05, 0.95])
            points.append((x, y))
            bars += ends.tolist()
            axes.plot([x, x], np.clip(ends, *_PSI_RANGE), color=style["color"], lw=1, alpha=0.35)
            axes.plot(x, np.clip(y, *_PSI_RANGE), ls="", ms=5, mec="white", mew=0.4, label=label, **style)
            label = "_"
    if points:
        clipped, ends = np.clip(np.array(points), *_PSI_RANGE), np.clip(bars, *_PSI_RANGE)
        low, high = float(clipped.min()) - 0.7, float(clipped.max()) + 0.7
        bottom, top = min(low, *ends), max(high, *(ends + 0.2))
        axes.plot([low, high], [low, high], color="0.6", lw=0.9, zorder=0)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        along: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "transform_rotates_text": True}
        end = high - 0.02 * (high - low)
        axes.text(end, end, "forecast = realised", ha="right", va="bottom", fontsize=7, color="0.4", **along)
        probability_ticks(axes.xaxis, low, high)
        probability_ticks(axes.yaxis, bottom, top)
    else:
        axes.text(0.5, 0.5, "no tail could be fitted", ha="center", transform=axes.transAxes)
    _legend_below(figure)
    alt = (
        f"Forecast against realised worst failure probability in {setting.name}: {len(points)} agents and seeds, "
        f"{sum(y < x for x, y in points)} of them with a median forecast below the realised worst."
    )
    return Panel(file_stem("scatter", setting.name), "Forecast against realised worst", alt, figure)


def pareto_panels(setting: Setting) -> list[Panel]:
    """Headline error against capability, safety and distance from the base agent."""
    kind = KINDS[setting.kind]
    return [
        _pareto_panel(setting, METRICS[name])
        for name in (kind.capability, "mean_risk", "worst_risk", kind.distance)
        if any(unit.metrics.get(name) is not None for unit in setting.units)
    ]


def _pareto_panel(setting: Setting, metric: Metric) -> Panel:
    is_log = metric.name in ("mean_risk", "worst_risk")
    better = "right" if metric.better == "higher" else "left"
    x_label = f"{metric.heading}, {metric.unit} (better: {better})"
    figure, axes = _new_axes(3.3, x_label, f"{HEADLINE.heading}, nats (better: down)", len(setting.agents))
    described, missing = [], []
    for agent in setting.agents:
        x, y = values_of(setting, agent, metric), values_of(setting, agent, HEADLINE)
        title = title_of(agent)
        if x is None or y is None:
            missing.append(title)
            continue
        if is_log:
            x = np.maximum(x, 1e-30)
        axes.plot(x, y, ls="", ms=4, alpha=0.55, mew=0, **_style_of(setting, agent))
        at_x, at_y = estimate([x]), estimate([y])
        _cross(axes, at_x, at_y, _style_of(setting, agent), title)
        described.append(f"{title} {at_x.value:{metric.layout}} and {at_y.value:.2f}")
    if is_log:
        _log_axis(axes, "x")
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # room for markers where all errors are alike
    _legend_below(figure)
    alt = f"{HEADLINE.heading} against {metric.heading} in {setting.name}: " + "; ".join(described)
    heading = f"Error against {metric.heading}"
    if missing:
        alt += f". Not shown, because error or {metric.heading} is undefined for a seed: {', '.join(missing)}"
        heading += f"; not shown, because undefined for a seed: {', '.join(missing)}"
    return Panel(file_stem("pareto", setting.name, metric.name), heading, alt + ".", figure)


def _cross(axes: Axes, x: Estimate, y: Estimate, style: dict[str, Any], label: str) -> None:
    """An agent's marker with its intervals in both directions."""
    if np.isfinite(x.low):
        axes.plot([x.low, x.high], [y.value] * 2, color=style["color"], lw=1.2)
        axes.plot([x.value] * 2, [y.low, y.high], color=style["color"], lw=1.2)
    axes.plot(x.value, y.value, ls="", ms=8, mec="white", mew=0.6, label=label, **style)


def coverage_panels(setting: Setting, rows: Sequence[IntervalQuality]) -> list[Panel]:
    """For each forecaster the coverage of the prediction intervals against their width, on the same axes."""
    ends = [max(v, 1e-2) for row in rows for v in row.width[:3] if np.isfinite(v)]
    panels = []
    for forecaster in dict.fromkeys(row.forecaster for row in rows):
        shown = [row for row in rows if row.forecaster == forecaster]
        x_label, y_label = "median width of the interval, psi (better: left)", "share of realised worsts inside"
        figure, axes = _new_axes(3.1, x_label, y_label, len(shown) + 1)
        for row in shown:
            value, low, high = np.maximum(row.width[:3], 1e-2).tolist()
            width = Estimate(value, low, high, row.width.n)
            _cross(axes, width, row.coverage, _style_of(setting, row.agent), title_of(row.agent))
        axes.axhline(LEVEL, color="0.6", lw=0.9, zorder=0, label=f"promised: {LEVEL:.0%}")
        axes.set_xlim(min(ends) * 0.85, max(ends) / 0.85)
        _log_axis(axes, "x")
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _legend_below(figure)
        alt = f"Coverage of the {LEVEL:.0%} prediction intervals of {forecaster} in {setting.name}: " + "; ".join(
            f"{title_of(row.agent)} {row.coverage.value:.0%} at width {row.width.value:.2f} psi" for row in shown
        )
        stem = file_stem("coverage", setting.name, forecaster)
        panels.append(Panel(stem, f"Intervals of {forecaster}", alt + ".", figure))
    return panels


def curve_panels(setting: Setting, curves: dict[tuple[str, int], dict[str, Curve]]) -> Iterator[Panel]:
    """A panel for each log key that was recorded more than once, from the curves of each agent and seed."""
    for key, heading, is_log in _CURVES[setting.kind]:
        shown: dict[str, list[Curve]] = {}
        for (agent, _), found in curves.items():
            if key in found and len(found[key][0]) > 1:
                shown.setdefault(agent, []).append(found[key])
        if not shown:
            continue
        x_label = "environment steps" if setting.kind == "gridworld" else "updates"
        figure, axes = _new_axes(3.0, x_label, heading, len(shown))
        ends = []
        for agent, own in shown.items():
            for i, curve in enumerate(own):
                label = title_of(agent) if i == 0 else "_"
                axes.plot(*curve, color=_style_of(setting, agent)["color"], lw=1.2, alpha=0.8, label=label)
            ends.append(f"{title_of(agent)} ends at {', '.join(f'{values[-1]:.3g}' for _, values in own)}")
        if is_log:
            _log_axis(axes, "y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        _legend_below(figure)
        alt = f"Training curves in {setting.name}, {key}: {'; '.join(ends)}."
        yield Panel(file_stem("training", setting.name, key), heading, alt, figure)


def worst_task_panels(setting: Setting) -> list[Panel]:
    """The riskiest held-out tasks of every agent of a gridworld, of the first seed.

    Where the run kept the policy, the picture shows where the agent goes and dies; a sweep keeps scores only, and its
    pictures show the room, once for all agents whose riskiest task it is.
    """
    panels = []
    rooms: dict[int, list[tuple[Unit, float]]] = {}
    n_worst = _N_WORST if _N_WORST * len(setting.agents) <= _N_PICTURES else 1
    for agent in setting.agents:
        unit = setting.of(agent)[0]
        psi, tasks = unit.scores["psi"].to_numpy(), unit.scores["task_id"]
        for rank, row in enumerate(np.argsort(-psi, kind="stable")[:n_worst].tolist(), 1):
            shown = unit, float(psi[row])
            if unit.has_policy:
                panels.append(_picture(setting, [shown], int(tasks[row]), rank))
            elif rank == 1:
                rooms.setdefault(int(tasks[row]), []).append(shown)
    return panels + [_picture(setting, found, task_id, 1) for task_id, found in rooms.items()]


def _picture(setting: Setting, agents: list[tuple[Unit, float]], task_id: int, rank: int) -> Panel:
    """A task with what one agent does in it, or with the scores of several."""
    # Imported here: pictures need the worlds and, with a policy, Stable-Baselines3.
    from rl_forecast.experiments.gridworld.agent_files import load_policy
    from rl_forecast.experiments.gridworld.task_pictures import agent_picture, task_picture, task_sheet
    from rl_forecast.experiments.gridworld.worlds import make_world

    unit = agents[0][0]
    assert isinstance(unit.config, Config)
    world = make_world(unit.config.world)
    names = ", ".join(title_of(one.agent) for one, _ in agents)
    risks = [f"{title_of(one.agent)}: P(failure) {format_probability(score)}" for one, score in agents]
    picture, _ = task_picture(world, task_id)
    facts = picture.title.replace("\n", ", ")
    if unit.has_policy:
        policy = load_policy(RunFolder(unit.source), unit.agent, unit.config.base)
        picture = agent_picture(world, task_id, policy, f"{names}, seed {unit.seed}, #{rank}\n{facts}")
        caption = f"{names}, #{rank} of its riskiest tasks"
    else:
        picture = replace(picture, title="\n".join([f"seed {unit.seed}: {facts}", *risks]))
        caption = f"Riskiest task of {names}"
    which = f"Number {rank} of the riskiest held-out tasks of {names} in {setting.name}, seed {unit.seed}"
    alt = f"{which}: {facts}. {'; '.join(risks)}."
    stem = file_stem("worst", setting.name, unit.agent, str(rank))
    return Panel(stem, caption, alt, task_sheet([picture], ""), is_photo=True)
