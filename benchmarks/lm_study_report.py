"""Tables and figures of the password-game study: ``python -m benchmarks.lm_study_report``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.lm_study import METHODS, VALIDATION, VARIANTS, Job, weights_of
from envs.password_game.game import PasswordGame
from envs.password_game.reference_policies import REFERENCE_POLICIES
from rl_forecast.experiments.language_model.language_experiment import task_table, with_scores
from rl_forecast.experiments.language_model.sources import GameSource
from rl_forecast.experiments.metrics import HeldOutScores, metrics_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Largest mean KL(legitimate) on validation prompts, nats, that a chosen weight may cost; 0.01 of accuracy besides.
KL_BUDGET = 0.1
MAX_ACCURACY_LOST = 0.01

_PLOTTED = ("kl_legitimate", "abs_error_log_odds", "mean_risk")

TITLES = {
    "base": "base",
    "sft": "SFT",
    "anchor": "anchor only",
    "refusal_sft": "refusal SFT",
    "mean_log_p": "mean log p",
    "top_k": "top-100 score",
    "forecast_log10_p": "forecastability, log10 p",
    "forecast_psi": "forecastability, psi",
}
# Distinguishable without colour vision, by marker as well.
STYLE = {
    "base": ("#000000", "*"),
    "sft": ("#7f7f7f", "s"),
    "anchor": ("#56b4e9", "P"),
    "refusal_sft": ("#e69f00", "^"),
    "mean_log_p": ("#cc79a7", "v"),
    "top_k": ("#d55e00", "D"),
    "forecast_log10_p": ("#0072b2", "o"),
    "forecast_psi": ("#009e73", "X"),
}


def read(out: Path, split: str, level: str, method: str, weight: float, seeds: list[int]) -> list[dict[str, Any]]:
    """Metrics of the finished seeds."""
    paths = [out / split / f"{Job(level, seed, method, weight).name}.json" for seed in seeds]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def cost(rows: list[dict[str, Any]]) -> float:
    """What a weight costs: mean KL(legitimate), or KL(attacks) in levels without legitimate requests."""
    return float(np.mean([row["kl_legitimate"] for row in rows])) if rows[0]["kl_legitimate"] is not None else 0.0


def chosen_weights(out: Path, level: str, seeds: list[int]) -> dict[str, float]:
    """Weight of each method with the least mean validation error in log-odds among those within the budget.

    Where none is within it, the cheapest. The rule is the same for every method.
    """
    chosen = {}
    for method in METHODS:
        found = {w: read(out, "validation", level, method, w, seeds) for w in weights_of(level, method)}
        found = {w: rows for w, rows in found.items() if len(rows) == len(seeds)}
        if not found:
            continue
        within = {w: rows for w, rows in found.items() if _within(rows)}
        if within:
            chosen[method] = min(within, key=lambda w: _mean(within[w], "abs_error_log_odds"))
        else:
            chosen[method] = min(found, key=lambda w: cost(found[w]))
    return chosen


def _within(rows: list[dict[str, Any]]) -> bool:
    return cost(rows) <= KL_BUDGET and _mean(rows, "accuracy_lost") <= MAX_ACCURACY_LOST


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def reference_curves(level: str, seeds: list[int]) -> dict[str, list[dict[str, float]]]:
    """Metrics of the exact policies on the validation prompts, computed from q alone, mean over seeds."""
    game = PasswordGame(level)  # type: ignore[arg-type]
    prompts = [GameSource(game, seed).held_out(VALIDATION, "validation") for seed in seeds]
    curves: dict[str, list[dict[str, float]]] = {}
    for name, (policy, settings) in REFERENCE_POLICIES.items():
        curves[name] = []
        for setting in settings:
            rows = []
            for held_out in prompts:
                log_p = np.concatenate([policy(odds, setting) for odds in held_out.log_odds.values()])
                table = with_scores(task_table(held_out), log_p)
                rows.append(metrics_of("language", HeldOutScores(table, table, VALIDATION), 1.0, 1.0))
            # A strict cap makes the largest scores equal: no tail can be fitted, and that point is left out.
            if all(row["abs_error_log_odds"] is not None for row in rows):
                curves[name].append(
                    {key: _mean(rows, key) for key in ("kl_legitimate", "abs_error_log_odds", "mean_risk")}
                )
    return curves


ROWS = (
    ("\\|error\\| log-odds (LO)", "abs_error_log_odds", "{:.2f}"),
    ("LO, exponential pivot", "abs_error_log_odds_second", "{:.2f}"),
    ("under by > 1 nat", "under_by_1_nat", "{:.0%}"),
    ("over by > 1 nat", "over_by_1_nat", "{:.0%}"),
    ("\\|error\\| log10 p", "abs_error_log10_p", "{:.2f}"),
    ("\\|error\\| psi", "abs_error_psi", "{:.2f}"),
    ("sigma", "tail_scale", "{:.2f}"),
    ("error / sigma", "abs_error_over_scale", "{:.1f}"),
    ("KL legitimate", "kl_legitimate", "{:.3f}"),
    ("KL attacks", "kl_attacks", "{:.4f}"),
    ("p on legitimate", "success_legitimate", "{:.2f}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("mean p", "mean_risk", "{:.1e}"),
    ("excess over q", "excess_over_q", "{:+.1e}"),
    ("worst p", "worst_risk", "{:.2g}"),
    ("share above 1 %", "share_above_1_percent", "{:.1%}"),
)


def markdown(results: dict[str, tuple[float, list[dict[str, Any]]]]) -> str:
    """Mean over seeds and range, one column a method."""
    lines = ["| | " + " | ".join(TITLES[m] for m in results) + " |", "|---|" + "---:|" * len(results)]
    lines.append("| weight | " + " | ".join(f"{w:g}" if w else "-" for w, _ in results.values()) + " |")
    for title, key, layout in ROWS:
        cells = []
        for _, rows in results.values():
            values = [row[key] for row in rows if row[key] is not None]
            cells.append(_cell(values, layout))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], layout: str) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return layout.format(values[0])
    return f"{layout.format(np.mean(values))} ({layout.format(min(values))} .. {layout.format(max(values))})"


def figure(out: Path, level: str, seeds: list[int], path: Path) -> None:
    """Forecast error and mean p against what the weight costs, every weight and seed, validation prompts."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(13, 6.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    curves = reference_curves(level, seeds) if level == "tension" else {}
    for axis, key in ((left, "abs_error_log_odds"), (right, "mean_risk")):
        _references(axis, curves, key)
        for method in ("base", *METHODS):
            _points(axis, out, level, method, seeds, key)
        axis.set_xscale("symlog", linthresh=0.01, linscale=0.6)
        axis.set_xlim(left=-0.001)
        axis.set_xlabel("cost to legitimate users: KL(q || p) on their requests, nats")
        axis.spines[["top", "right"]].set_visible(False)
        axis.axvline(KL_BUDGET, color="0.75", lw=1, ls=(0, (4, 3)))
    left.set_ylabel("|error| of the forecast worst failure, log-odds (nats)")
    left.set_title("Can the worst failure be forecast?  lower is better", fontsize=11)
    left.annotate("budget", (KL_BUDGET, 0.99), xycoords=("data", "axes fraction"), va="top", fontsize=8, color="0.4")
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    right.set_ylabel("mean failure probability over attacks")
    right.set_title("How much harm is left?  lower is better", fontsize=11)
    handles, labels = left.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    picture.suptitle(
        f"Password game, level {level}: {len(seeds)} base models, methods at up to 3 weights;\n"
        "lines join a method's means over seeds, small marks are seeds. Validation prompts, m = 200, n = 5000",
        fontsize=12,
    )
    picture.savefig(path, dpi=150)


def _references(axis: Axes, curves: dict[str, list[dict[str, Any]]], key: str) -> None:
    for (name, rows), style in zip(curves.items(), ("-", "--", ":"), strict=False):
        x, y = [row["kl_legitimate"] for row in rows], [row[key] for row in rows]
        axis.plot(x, y, color="0.6", ls=style, lw=1.5, zorder=1, label=f"exact policy: {name}")


def _points(axis: Axes, out: Path, level: str, method: str, seeds: list[int], key: str) -> None:
    colour, marker = STYLE[method]
    means = []
    for weight in weights_of(level, method):
        rows = read(out, "validation", level, method, weight, seeds)
        if not rows:
            continue
        x, y = [row["kl_legitimate"] for row in rows], [row[key] for row in rows]
        axis.plot(x, y, marker, color=colour, ms=4, alpha=0.45, mew=0, zorder=2)
        means.append((np.mean(x), np.mean(y)))
    if means:
        mx, my = zip(*means, strict=True)
        axis.plot(
            mx, my, marker=marker, color=colour, ms=9, mec="white", mew=0.7, lw=1.4, zorder=3, label=TITLES[method]
        )


def main() -> None:
    """Write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default="tension")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/lm-study"))
    parser.add_argument("--figure", type=Path, default=Path("docs/password_game.png"))
    given = parser.parse_args()
    chosen = {"base": 0.0, **chosen_weights(given.out, given.level, given.seeds)}
    held_out = {m: (w, read(given.out, "held_out", given.level, m, w, given.seeds)) for m, w in chosen.items()}
    print(f"held-out prompts, weights chosen on validation, level {given.level}\n")
    print(markdown({m: found for m, found in held_out.items() if found[1]}))
    heading = "| | weight | " + " | ".join(title for title, _, _ in ROWS) + " |\n" + "|---|---:|" + "---:|" * len(ROWS)
    print(f"\nall weights, validation prompts\n\n{heading}")
    for method in ("base", *METHODS):
        for weight in weights_of(given.level, method):
            rows = read(given.out, "validation", given.level, method, weight, given.seeds)
            if rows:
                cells = [_cell([r[k] for r in rows if r[k] is not None], f) for _, k, f in ROWS]
                print(f"| {TITLES[method]} | {weight:g} | " + " | ".join(cells) + " |")
    print(f"\nvariants of forecastability in log10 p, validation prompts\n\n{heading}")
    weight = chosen["forecast_log10_p"]
    for title, options in {"as in the study": (), **VARIANTS}.items():
        rows = [
            json.loads(path.read_text(encoding="utf-8"))
            for seed in given.seeds
            for path in [
                given.out / "validation" / f"{Job(given.level, seed, 'forecast_log10_p', weight, options).name}.json"
            ]
            if path.is_file()
        ]
        if rows:
            cells = [_cell([r[k] for r in rows if r[k] is not None], f) for _, k, f in ROWS]
            print(f"| {title} | {weight:g} | " + " | ".join(cells) + " |")
    if given.level == "tension":
        figure(given.out, given.level, given.seeds, given.figure)


if __name__ == "__main__":
    main()
