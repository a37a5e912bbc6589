"""Figures of runs. matplotlib is imported when a figure is drawn, and its global state is never touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.scores import psi_from_p

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from rl_forecast.experiments.metrics import HeldOutScores

_TICKS_P = (1e-24, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99, 0.999)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_OBSERVED, _FORECAST, _REALISED = "#4c4c4c", "#0072b2", "#d55e00"  # distinguishable without colour vision


def survival_figure(agents: dict[str, HeldOutScores]) -> Figure:
    """A panel for each agent: share of tasks above each failure score, with the forecast worst and the realised one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(agents) + 0.6, 4.6), layout="constrained")
    axes = figure.subplots(1, len(agents), sharex=True, sharey=True, squeeze=False)[0]
    evaluation = next(iter(agents.values())).evaluation
    n_eval, n_deploy = evaluation.n_eval, evaluation.n_deploy
    left, right = _limits(agents)
    for axis, (name, scores) in zip(axes, agents.items(), strict=True):
        _panel(axis, scores, n_deploy)
        axis.set_title(name, fontsize=11)
        axis.set_xlim(left - 0.3, right + 0.5)
        probability_ticks(axis.xaxis, left - 0.3, right + 0.5)
        axis.set_xlabel("failure probability (linear in psi)", fontsize=9)
    # On the first panel only: its left end is free of marks.
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "bottom"}
    axes[0].annotate(f"worst of {n_deploy}", (0.02, 1 / n_deploy), fontsize=8, color="0.4", **place)
    axes[0].set_ylabel("share of tasks with a higher failure probability")
    title = f"Can the worst of {n_deploy} deployment tasks be forecast from {n_eval} evaluation tasks?"
    figure.suptitle(title, fontsize=12)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _limits(agents: dict[str, HeldOutScores]) -> tuple[float, float]:
    """Range of psi that shows every agent's right end: the bulk of very safe tasks and stray forecasts are cut off."""
    left, right = [], []
    for scores in agents.values():
        psi, errors = scores.parts["deployment"], scores.errors
        finite = psi[np.isfinite(psi)]
        forecast = errors.forecast[np.isfinite(errors.forecast)]
        left.append(np.quantile(finite, 0.9) if finite.size else 0.0)
        right += [finite.max(initial=-1.0), np.quantile(forecast, 0.95) if forecast.size else -1.0]
    return max(min(left), float(psi_from_p(1e-24))), min(max(right), 12.0)


def _panel(axis: Axes, scores: HeldOutScores, n_deploy: int) -> None:
    errors = scores.errors
    ordered = np.sort(scores.parts["deployment"].ravel())[::-1]
    share = np.arange(1, ordered.size + 1) / ordered.size
    axis.step(ordered, share, where="post", color=_OBSERVED, lw=1.8, label="held-out tasks")
    level = 1 / n_deploy
    axis.axhline(level, color="0.8", lw=0.8, zorder=0)
    forecast = errors.forecast[np.isfinite(errors.forecast)]
    if forecast.size:
        low, middle, high = np.quantile(forecast, [0.05, 0.5, 0.95])
        axis.plot([low, high], [level * 0.8] * 2, color=_FORECAST, lw=5, alpha=0.35, solid_capstyle="butt")
        label = f"forecast: median and 90 % of {forecast.size} evaluations"
        axis.plot([middle], [level * 0.8], "o", color=_FORECAST, ms=8, label=label)
    realised, label = errors.realised, f"realised worst of {errors.realised.size} deployments"
    axis.plot(
        realised, np.full_like(realised, level * 1.25), "D", color=_REALISED, ms=5, mec="white", mew=0.5, label=label
    )
    axis.set_yscale("log")
    axis.set_ylim(level * 0.3, 1.3)
    axis.spines[["top", "right"]].set_visible(False)


def probability_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks of a psi axis from ``low`` to ``high`` at round probabilities, kept apart by a ninth of the axis."""
    shown: list[tuple[float, float]] = []
    for p, position in zip(_TICKS_P, psi_from_p(_TICKS_P), strict=True):
        far_enough = not shown or position - shown[-1][0] > (high - low) / 9
        if low <= position <= high and far_enough:
            shown.append((float(position), p))
    # Powers are not set as mathematics: parsing that takes longer than drawing all else.
    labels = [f"{p:g}" if p >= 0.01 else f"10{str(round(np.log10(p))).translate(_SUPERSCRIPTS)}" for _, p in shown]
    axis.set_ticks([position for position, _ in shown], labels, fontsize=8)
