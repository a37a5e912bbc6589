"""Figures of a forecast, and the numbers behind each for people who draw their own."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rl_forecast.forecasting.forecast import Forecast
from rl_forecast.forecasting.methods.log_normal import LogNormal
from rl_forecast.scores import format_count, format_probability, psi_from_log_p

_SCORES, _FIT, _FORECAST = "#3b3b3b", "#2a6f97", "#c1440e"
_BAND: dict[str, Any] = {"color": _FIT, "alpha": 0.18, "lw": 0}
_ANNOTATION: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": _FORECAST}


class Curve(NamedTuple):
    """A line with its band.

    :param x: psi for a tail, number of queries for return levels
    :param middle: share of queries above it, or psi; the median, with the ends ``low`` and ``high`` of the band
    """

    x: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def tail_curve(fc: Forecast, level: float = 0.90, n_points: int = 60) -> Curve:
    """Share of queries believed to exceed each score, from the start of the fitted tail to the largest forecast.

    :param fc: a forecast with status ``ok``
    :param level: coverage of the band, probability
    :return: x in psi, shares as probabilities
    """
    assert fc.fitted is not None
    ensemble = fc.fitted.ensemble.thinned(2048)
    finite = fc.summary.top[np.isfinite(fc.summary.top)]
    start = ensemble.threshold if np.isfinite(ensemble.threshold) else float(finite[-1])
    # the last score to draw: the largest upper end, but no further from the forecast than that is from the data
    points, upper = (v[np.isfinite(v)] for v in (fc.worst_query_psi, fc.prediction_interval(level, "psi")[:, 1]))
    furthest = max(points.max(initial=start), start + 2.0 * fc.fitted.tail_scale)
    drawn = min(2.0 * furthest - start, upper.max() if upper.size else np.inf)
    x = np.linspace(start, max(drawn, finite[0] + 0.1 * (finite[0] - start)), n_points)
    levels = (0.5, 0.5 - level / 2, 0.5 + level / 2)
    shares = np.array([[ensemble.frequency_quantile(q, float(t)) for q in levels] for t in x])
    return Curve(x, shares[:, 0], shares[:, 1], shares[:, 2])


def return_level_curve(fc: Forecast, level: float = 0.90, n_points: int = 25) -> Curve:
    """Worst query forecast against the number of queries, from a tenth of m to the largest n.

    :param fc: a forecast with status ``ok``
    :param level: coverage of the band, probability
    :return: x in queries, the rest in psi
    """
    assert fc.fitted is not None
    first, last = max(fc.summary.count / 10, 1.0), max(max(fc.n_deploy), 10 * fc.summary.count)
    sizes = np.unique(np.round(np.geomspace(first, float(last), n_points)))
    again = replace(fc, n_deploy=tuple(int(n) for n in sizes))
    return Curve(sizes, again.worst_query_psi, *again.prediction_interval(level, "psi").T)


def draw_tail(ax: Axes, fc: Forecast, level: float = 0.90) -> None:
    """Log survival of the scores with the fitted tail, its band, and the forecasts at 1/n."""
    finite = fc.summary.top[np.isfinite(fc.summary.top)]
    share = (fc.summary.n_pos_inf + np.arange(1, finite.size + 1)) / fc.summary.count
    curve = tail_curve(fc, level)
    ax.plot(finite, share, "o", ms=3.5, color=_SCORES, label="scores seen", zorder=3)
    ax.plot(curve.x, np.maximum(curve.middle, 1e-300), color=_FIT, label=f"{fc.method}, fitted tail")
    ax.fill_between(curve.x, np.maximum(curve.low, 1e-300), curve.high, label=f"{100 * level:g} % band", **_BAND)
    interval = fc.prediction_interval(level, "psi")
    for i, n in enumerate(fc.n_deploy):
        low, high = interval[i]
        if np.isfinite([low, high]).all():
            ax.plot([low, high], [1 / n, 1 / n], color=_FORECAST, lw=1.8, solid_capstyle="round")
        label = f"worst of n, {100 * level:g} % interval" if i == 0 else None
        ax.plot(fc.worst_query_psi[i], 1 / n, "D", ms=5, color=_FORECAST, label=label, zorder=4)
        at = (fc.worst_query_psi[i], 1 / n)
        ax.annotate(f"n = {format_count(n)}", at, (0, -11), **_ANNOTATION)
    ax.set_yscale("log")
    ax.set_ylim(0.12 / max(max(fc.n_deploy), fc.summary.count), 2.0 * share[-1])
    ax.set_xlim(float(finite[-1]) - 0.02 * float(curve.x[-1] - finite[-1]), float(curve.x[-1]))
    ax.set_ylabel("share of queries with a higher risk")
    _risk_axis(ax.xaxis, *ax.get_xlim())
    ax.set_xlabel("failure probability of a query (psi scale)")
    ax.legend(frameon=False, fontsize=8, loc="upper right")


def draw_return_levels(ax: Axes, fc: Forecast, level: float = 0.90) -> None:
    """Worst query against the number of queries, both on their natural scales."""
    curve = return_level_curve(fc, level)
    ax.plot(curve.x, curve.middle, color=_FIT, label=fc.method)
    ax.fill_between(curve.x, curve.low, curve.high, label=f"{100 * level:g} % interval", **_BAND)
    ax.plot([float(n) for n in fc.n_deploy], fc.worst_query_psi, "D", ms=5, color=_FORECAST, label="asked for")
    finite = fc.summary.top[np.isfinite(fc.summary.top)]
    ax.plot(fc.summary.count, finite[0], "o", ms=5, color=_SCORES, label="worst seen among m")
    ax.set_xscale("log")
    ax.set_ylim(*_limits(np.append(curve.middle, finite[0]), np.append(curve.low, curve.high)))
    _risk_axis(ax.yaxis, *ax.get_ylim())
    ax.set_xlabel("number of queries n")
    ax.set_ylabel("failure probability of the worst (psi scale)")
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def draw_stability(ax: Axes, fc: Forecast, level: float = 0.90) -> None:
    """Forecast at the largest n against the number of scores that count as the tail; intervals of 90 %."""
    points = fc.diagnostics.stability
    n = format_count(max(fc.n_deploy))
    if not points:
        reason = "the method uses all scores" if fc.method == LogNormal.name else "too few scores"
        ax.text(0.5, 0.5, reason, ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    k, x, low, high = np.array([(p.tail_k, p.point, p.low, p.high) for p in points]).T
    drawn = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    ax.vlines(k[drawn], low[drawn], high[drawn], color=_FIT, alpha=0.5, lw=3, label="90 % interval")
    ax.plot(k[drawn], x[drawn], "D", ms=5, color=_FORECAST, label=f"forecast at n = {n}")
    ax.set_xscale("log")
    ax.set_xticks(k, [str(int(v)) for v in k])
    ax.minorticks_off()
    ax.set_ylim(*_limits(x, np.append(low, high)))
    _risk_axis(ax.yaxis, *ax.get_ylim())
    ax.set_xlabel("number of largest scores used, k")
    ax.set_ylabel("failure probability of the worst (psi scale)")
    ax.legend(frameon=False, fontsize=8)


def _limits(points: NDArray[np.float64], ends: NDArray[np.float64]) -> tuple[float, float]:
    """Axis limits that show all points, and their intervals as far as these are not many times longer."""
    points, ends = points[np.isfinite(points)], ends[np.isfinite(ends)]
    low, top = min(points.min(), ends.min()), points.max()
    high = max(top, min(ends.max(), top + 2.0 * (top - low)))
    margin = 0.04 * (high - low)
    return float(low - margin), float(high + margin)


def _risk_axis(axis: Any, low: float, high: float) -> None:
    """Label a psi axis with round failure probabilities."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    tens = [-e * np.log(10.0) for e in (300, 100, 50, 30, 20, 15, 10, 8, 6, 5, 4, 3, 2, 1)]
    between = [float(np.log(p)) for p in (0.002, 0.005, 0.02, 0.03, 0.05, 0.2, 0.3, 0.5, 0.7)]
    near_one = [float(np.log1p(-(10.0**-e))) for e in (1, 2, 3, 4, 5, 6, 8, 10, 15)]
    candidates = psi_from_log_p(np.array([*tens, *between, *near_one]))
    ticks = [float(t) for t in candidates if low <= t <= high]
    if len(ticks) < 2:
        ticks = list(np.linspace(low, high, 6)[1:-1])
    chosen: list[float] = []
    for t in sorted(ticks):
        if not chosen or t - chosen[-1] > 0.09 * (high - low):
            chosen.append(t)
    axis.set_major_locator(FixedLocator(chosen))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FixedFormatter([format_probability(t).replace(" ", "") for t in chosen]))


_DRAW = {"tail": draw_tail, "return-level": draw_return_levels, "stability": draw_stability}


def save_figure(
    fc: Forecast, path: str | PathLike[str], figure: str = "tail", level: float = 0.90, title: str = ""
) -> None:
    """Draw a forecast with status ``ok`` into a png, svg or pdf.

    :param figure: ``tail``, ``return-level``, ``stability`` or ``all``
    :param level: coverage of bands and intervals, probability
    :param title: heading, for example the name of a group
    """
    from matplotlib.figure import Figure

    names = list(_DRAW) if figure == "all" else [figure]
    canvas = Figure(figsize=(6.2 * len(names), 4.4), layout="constrained")
    for ax, name in zip(np.atleast_1d(canvas.subplots(1, len(names))), names, strict=True):
        _DRAW[name](ax, fc, level)
        ax.spines[["top", "right"]].set_visible(False)
    if title:
        canvas.suptitle(title, fontsize=11)
    canvas.savefig(path, dpi=150)
