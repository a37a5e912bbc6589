"""The README's table of seeds, from finished runs of the main job.

``python -m benchmarks.main_job_seeds runs/default-?`` reads each folder's ``metrics.json`` and prints Markdown: every
seed of every agent, and on how many of them ForecastPPO's error is below each other agent's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from rl_forecast.experiments.metrics import KINDS, METRICS, TITLES, renamed


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    folders = parser.parse_args().runs
    runs = {
        yaml.safe_load((folder / "config.yaml").read_text())["seed"]: {
            agent: renamed(row) for agent, row in json.loads((folder / "metrics.json").read_text()).items()
        }
        for folder in folders
    }
    seeds = sorted(runs)
    titles = {agent: TITLES[agent] for agent in TITLES if agent in runs[seeds[0]]}

    metrics = [METRICS[name] for name in KINDS["gridworld"].table]
    headings = [metric.heading.replace("|", "\\|") for metric in metrics]
    print(f"| agent | {' | '.join(headings)} |\n|---|{'---:|' * len(metrics)}")
    for agent, title in titles.items():
        cells = []
        for metric in metrics:
            found = [metric.value(runs[seed][agent]) for seed in seeds]
            values = [value for value in found if value is not None]
            if len(values) <= len(seeds) / 2:
                cells.append("-")
            else:
                low, middle, high = (format(q, metric.layout) for q in np.quantile(values, [0, 0.5, 1]))
                cells.append(f"{middle} ({low} .. {high})")
        print(f"| {title} | {' | '.join(cells)} |")

    print(f"\n| seed | {' | '.join(map(str, seeds))} |\n|---|{'---:|' * len(seeds)}")
    for key, layout, label in (
        ("abs_error_log_odds", "{:.2f}", "\\|error\\| log-odds"),
        ("abs_error_psi", "{:.2f}", "\\|error\\| psi"),
        ("success", "{:.4f}", "success"),
        ("worst_risk", "{:.0e}", "worst risk"),
    ):
        for agent, title in titles.items():
            print(f"| {title}, {label} | {' | '.join(layout.format(runs[s][agent][key]) for s in seeds)} |")

    for key in ("abs_error_log_odds", "abs_error_psi"):
        for agent, title in titles.items():
            if agent != "forecast_ppo":
                lower = sum(runs[s]["forecast_ppo"][key] < runs[s][agent][key] for s in seeds)
                print(f"\nForecastPPO's {key} is below that of {title} on {lower} of {len(seeds)} seeds")


if __name__ == "__main__":
    main()
