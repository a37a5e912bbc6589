"""Training curves out of TensorBoard's event files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.experiments.metrics import title_of
from rl_forecast.experiments.report.figures import Panel, file_stem, legend_below, log_axis, new_axes, style_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rl_forecast.experiments.metrics import Kind
    from rl_forecast.experiments.report.reading import Setting

__all__ = ["Curve", "curve_panels", "read_events"]

#: Steps and values.
Curve = tuple["NDArray[np.float64]", "NDArray[np.float64]"]

#: Log key, heading with unit, whether its axis is logarithmic.
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


def read_events(folder: Path) -> tuple[dict[str, Curve], str | None]:
    """Scalars and the samples of an agent's event files.

    :param folder: its folder of event files
    :return: log key to (steps, values), and the Markdown table of samples if there is one
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    tags = events.Tags()
    curves = {}
    for tag in tags["scalars"]:
        points = events.Scalars(tag)
        curves[tag] = np.array([p.step for p in points], dtype=float), np.array([p.value for p in points])
    text = None
    if "samples/text_summary" in tags["tensors"]:
        text = events.Tensors("samples/text_summary")[-1].tensor_proto.string_val[0].decode("utf-8", "replace")
    return curves, text


def curve_panels(setting: Setting, curves: dict[tuple[str, int], dict[str, Curve]]) -> list[Panel]:
    """A panel for each log key that was recorded more than once.

    :param setting: the setting
    :param curves: agent and seed to its curves
    """
    panels = []
    for key, heading, is_log in _CURVES[setting.kind]:
        shown = {one: found[key] for one, found in curves.items() if key in found and len(found[key][0]) > 1}
        agents = [agent for agent in setting.agents if any(agent == name for name, _ in shown)]
        if not agents:
            continue
        x_label = "environment steps" if setting.kind == "gridworld" else "updates"
        figure, axes = new_axes(3.0, x_label, heading, len(agents))
        ends = []
        for agent in agents:
            own = [curve for (name, _), curve in shown.items() if name == agent]
            for i, curve in enumerate(own):
                label = title_of(agent) if i == 0 else "_"
                axes.plot(*curve, color=style_of(setting, agent)["color"], lw=1.2, alpha=0.8, label=label)
            ends.append(f"{title_of(agent)} ends at {', '.join(f'{values[-1]:.3g}' for _, values in own)}")
        if is_log:
            log_axis(axes, "y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        legend_below(figure)
        alt = f"Training curves in {setting.name}, {key}: {'; '.join(ends)}."
        panels.append(Panel(file_stem("training", setting.name, key), heading, alt, figure))
    return panels
