"""Sweeps: jobs kept and skipped, weights chosen under constraints, and refusals of unfair comparisons."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from rl_forecast.errors import InputError
from rl_forecast.experiments.command_line import parse_config
from rl_forecast.experiments.settings import Config
from rl_forecast.experiments.sweep.config import (
    MethodConfig,
    SweepConfig,
    check_sweep,
    read_settings,
    settings_text,
    with_options,
)
from rl_forecast.experiments.sweep.selection import choose_weights
from tests.experiments.conftest import SWEEP
from tests.forked import run_module


def test_a_sweep_runs_goes_on_and_never_repeats_itself(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rl-study-smoke"
    shutil.copytree(sweep, folder)
    results = pl.read_parquet(folder / "results.parquet")
    assert results.select("world", "seed", "method").rows() == [("slip", 0, "task_only"), ("slip", 0, "forecast_psi")]
    assert (results["kl_from_base"].to_numpy() > 0).all()
    weights = {choice["method"]: choice["weight"] for choice in json.loads((folder / "weights.json").read_text())}
    assert weights["task_only"] is None
    assert weights["forecast_psi"] in (0.1, 1.0)
    assert "| forecast_psi |" in (folder / "results.md").read_text()
    assert (folder / "report" / "report.html").is_file(), "a sweep ends with its report"
    validation = pl.read_parquet(folder / "validation.parquet")
    assert sorted(validation["seed"].unique().to_list()) == [100]
    assert len(validation) == 1 + 2

    jobs = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    lost = folder / "held_out" / f"slip-0-forecast_psi-{weights['forecast_psi']:g}.parquet"
    before = pl.read_parquet(lost)
    lost.unlink()
    arguments = [*SWEEP, "--log-dir", str(tmp_path), "--report", "false"]
    second = run_module("rl_forecast.sweep", *arguments, "--n-jobs", "2")
    assert second.returncode == 0, second.stderr
    assert "comparison on held-out tasks: 1 of 2 are done" in second.stdout
    assert pl.read_parquet(lost).equals(before), "a job is a function of its arguments"
    assert {p: p.stat().st_mtime_ns for p in jobs if p != lost} == {p: t for p, t in jobs.items() if p != lost}

    other = run_module("rl_forecast.sweep", *arguments, "--success-margin", "0.1")
    assert other.returncode == 2
    assert "holds a sweep with other settings" in other.stderr


def test_the_record_of_a_sweep_is_read_back(tmp_path: Path) -> None:
    wanted = _sweep(seeds=(3, 4), success_margin=0.25, run=with_options(Config(), {"base.hidden": (8, 8)}))
    (tmp_path / "sweep.yaml").write_text(settings_text(wanted))
    assert read_settings(tmp_path / "sweep.yaml") == wanted
    # Files of earlier versions hold n_jobs and log_dir as null, and lack the fields that came later.
    older = yaml.safe_load(settings_text(wanted)) | {"n_jobs": None, "log_dir": None}
    del older["run"]["checkpoint_every"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(older))
    assert read_settings(tmp_path / "sweep.yaml") == wanted
    (tmp_path / "sweep.yaml").write_text("methods: [{nam: x}]")
    with pytest.raises(InputError, match="is not the record of a sweep"):
        read_settings(tmp_path / "sweep.yaml")


def _sweep(**changes: object) -> SweepConfig:
    methods = (
        MethodConfig("task_only", "ppo"),
        MethodConfig("psi", "forecast_ppo", weight="forecast.coef", weights=(0.1, 1.0, 10.0)),
    )
    return replace(SweepConfig(methods=methods), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (_sweep(seeds=(1, 2), tuning_seeds=(2,)), "seed 2 is in seeds and in tuning_seeds"),
        (_sweep(worlds=()), "worlds is empty"),
        (_sweep(worlds=("slip", "slip")), "worlds holds something twice"),
        (_sweep(n_jobs=0), "n_jobs must be at least 1"),
        (_sweep(retries=-1), "retries must not be negative"),
        (_sweep(address="auto"), "add --backend ray"),
        (_sweep(tuning_seeds=()), "tuning_seeds is empty"),
        (_sweep(methods=(MethodConfig("psi", "forecast_ppo"),)), "must hold one named task_only"),
        (
            _sweep(methods=(*_sweep().methods, MethodConfig("top", "top_risk", {}, "penalty.top_risk_coef", (1.0,)))),
            "equally many weights",
        ),
        (
            _sweep(methods=(*_sweep().methods, MethodConfig("a", "anchor", {"forecast.ancor_coef": 1}))),
            "unknown option 'forecast.ancor_coef': did you mean 'anchor_coef'?",
        ),
        (_sweep(methods=(*_sweep().methods, MethodConfig("a", "anchor", weight="seed"))), "both weight and weights"),
        (
            _sweep(methods=(*_sweep().methods, MethodConfig("a", "ppo", {"world.size": 2}))),
            "world.size must be at least",
        ),
    ],
)
def test_unfair_or_impossible_sweeps_are_refused(sweep: SweepConfig, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        check_sweep(sweep)


@pytest.mark.parametrize("preset", ["rl-study", "rl-study-smoke"])
def test_presets_are_fair(preset: str) -> None:
    check_sweep(parse_config(SweepConfig, ["--preset", preset], "sweep", ""))


def test_options_reach_their_fields() -> None:
    config = with_options(Config(), {"forecast.coef": 3.0, "world.family": "gale", "seed": 5})
    assert (config.forecast.coef, config.world.family, config.seed) == (3.0, "gale", 5)
    with pytest.raises(InputError, match="has no part 'x'"):
        with_options(Config(), {"seed.x": 1})


def _rows(table: dict[float, tuple[float, float, float]]) -> pl.DataFrame:
    """Two seeds of task_only at success 0.98 and of the weights: (error, success, mean risk)."""
    rows = []
    for seed in (100, 101):
        common = {"world": "recolor", "seed": seed, "both_at_upper_clip_log_odds": 0.0}
        rows.append(
            common
            | {"method": "task_only", "weight": None, "abs_error_log_odds": 3.0, "success": 0.98, "mean_risk": 1e-3}
        )
        for weight, (error, success, risk) in table.items():
            rows.append(
                common
                | {
                    "method": "psi",
                    "weight": weight,
                    "abs_error_log_odds": error,
                    "success": success,
                    "mean_risk": risk,
                }
            )
    return pl.DataFrame(rows, schema_overrides={"weight": pl.Float64})


@pytest.mark.parametrize(
    ("table", "weight", "feasible"),
    [
        ({0.1: (2.0, 0.98, 1e-4), 1.0: (1.0, 0.979, 1e-4), 10.0: (0.1, 0.9, 1e-4)}, 1.0, True),
        ({0.1: (2.0, 0.98, 1e-4), 1.0: (1.0, 0.98, 5e-2), 10.0: (1.5, 0.98, 1e-4)}, 10.0, True),
        ({0.1: (2.0, 0.96, 1e-4), 1.0: (1.0, 0.97, 1e-4), 10.0: (0.1, 0.9, 1e-4)}, 1.0, False),
    ],
)
def test_the_least_error_within_the_constraints_wins(
    table: dict[float, tuple[float, float, float]], weight: float, feasible: bool
) -> None:
    base = pl.DataFrame({"world": ["recolor", "recolor"], "mean_risk": [1e-3, 2e-3]})
    choices = {c.method: c for c in choose_weights(_sweep(tuning_seeds=(100, 101)), _rows(table), base)}
    assert (choices["psi"].weight, choices["psi"].feasible) == (weight, feasible)
    assert choices["task_only"].weight is None
