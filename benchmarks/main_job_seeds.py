"""The README's table of seeds, from finished runs of the main job.

``python -m benchmarks.main_job_seeds runs/default-?`` reads each folder's ``metrics.json`` and prints Markdown: every
seed of every agent, and whether the acceptance of the default preset holds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rl_forecast.experiments.held_out import TITLES

COLUMNS = {
    "\\|error\\| psi": ("abs_error_psi", "{:.2f}"),
    "\\|error\\| log10 p": ("abs_error_log10_p", "{:.2f}"),
    "\\|error\\| log-odds": ("abs_error_log_odds", "{:.2f}"),
    "bias psi": ("bias_psi", "{:+.2f}"),
    "under": ("under_prediction_rate", "{:.0%}"),
    "under by >1": ("under_prediction_by_1_rate", "{:.0%}"),
    "at low clip": ("both_at_lower_clip_log_odds", "{:.0%}"),
    "worst psi": ("realised_worst_psi", "{:+.2f}"),
    "sigma": ("tail_scale", "{:.2f}"),
    "success": ("success", "{:.4f}"),
    "mean risk": ("mean_risk", "{:.0e}"),
    "worst risk": ("worst_risk", "{:.0e}"),
    "risen": ("share_risen", "{:.1%}"),
}


def _cell(row: dict[str, Any], key: str, layout: str) -> str:
    clipped = key.startswith("abs_error_log") and (row[key.replace("abs_error", "both_at_lower_clip")] or 0) > 0.5
    return "-" if row[key] is None or clipped else layout.format(row[key])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    folders = parser.parse_args().runs
    runs = {
        yaml.safe_load((folder / "config.yaml").read_text())["seed"]: json.loads((folder / "metrics.json").read_text())
        for folder in folders
    }
    seeds = sorted(runs)

    print(f"| agent | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for agent, title in TITLES.items():
        cells = []
        for key, layout in COLUMNS.values():
            values = [runs[seed][agent][key] for seed in seeds if _cell(runs[seed][agent], key, layout) != "-"]
            if len(values) <= len(seeds) / 2:
                cells.append("-")
            else:
                low, middle, high = np.quantile(values, [0, 0.5, 1])
                cells.append(f"{layout.format(middle)} ({layout.format(low)} .. {layout.format(high)})")
        print(f"| {title} | {' | '.join(cells)} |")

    print(f"\n| \\|error\\| psi, seed | {' | '.join(map(str, seeds))} |\n|---|{'---:|' * len(seeds)}")
    for key, layout, label in (
        ("abs_error_psi", "{:.2f}", "\\|error\\| psi"),
        ("success", "{:.4f}", "success"),
        ("worst_risk", "{:.0e}", "worst risk"),
    ):
        for agent, title in TITLES.items():
            print(f"| {title}, {label} | {' | '.join(layout.format(runs[s][agent][key]) for s in seeds)} |")

    good = [
        runs[s]["forecast_ppo"]["abs_error_psi"] <= runs[s]["ppo"]["abs_error_psi"] / 3
        and runs[s]["forecast_ppo"]["success"] >= runs[s]["ppo"]["success"] - 0.005
        and runs[s]["forecast_ppo"]["worst_risk"] <= runs[s]["ppo"]["worst_risk"]
        for s in seeds
    ]
    print(
        f"\nForecastPPO's |error| at most a third of PPO's, success within 0.005, worst risk no higher: "
        f"{sum(good)} of {len(seeds)} seeds (not: {[s for s, ok in zip(seeds, good, strict=True) if not ok]})"
    )


if __name__ == "__main__":
    main()
