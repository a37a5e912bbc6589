"""The README's table of seeds, from finished runs of the main job.

``python -m benchmarks.main_job_seeds runs/default-?`` reads each folder's ``metrics.json`` and prints Markdown: every
seed of every agent, and whether the acceptance of the default preset holds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from rl_forecast.experiments.held_out import COLUMNS, TITLES, metric_cell


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

    headings = [heading.replace("\n", " ").replace("|", "\\|") for heading, _, _ in COLUMNS]
    print(f"| agent | {' | '.join(headings)} |\n|---|{'---:|' * len(COLUMNS)}")
    for agent, title in TITLES.items():
        cells = []
        for _, layout, key in COLUMNS:
            rows = [runs[seed][agent] for seed in seeds]
            values = [row[key] for row in rows if metric_cell(row, layout, key) != "-"]
            if len(values) <= len(seeds) / 2:
                cells.append("-")
            else:
                low, middle, high = (layout.format(q) for q in np.quantile(values, [0, 0.5, 1]))
                cells.append(f"{middle} ({low} .. {high})")
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
