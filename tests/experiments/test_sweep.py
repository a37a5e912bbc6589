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
from rl_forecast.experiments.command_line import parse_job, preset_names
from rl_forecast.experiments.report.reading import read_inputs
from rl_forecast.experiments.settings import Config
from rl_forecast.experiments.sweep.config import (
    SWEEPS,
    LanguageSweepConfig,
    MethodConfig,
    SweepConfig,
    check_sweep,
    read_settings,
    settings_text,
    with_options,
)
from rl_forecast.experiments.sweep.selection import Choice, choose_weights
from tests.experiments.conftest import SWEEP
from tests.forked import run_module


def test_a_sweep_is_resumed_and_never_repeats_itself(sweep: Path, tmp_path: Path) -> None:
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
    language = LanguageSweepConfig(worlds=("easy",), limits={"kl_legitimate": 0.1})
    (tmp_path / "sweep.yaml").write_text(settings_text(language))
    assert read_settings(tmp_path / "sweep.yaml") == language
    run = with_options(Config(), {"base.hidden": (8, 8), "world.family": "gale", "seed": 5})
    assert (run.base.hidden, run.world.family, run.seed) == ((8, 8), "gale", 5)
    wanted = _sweep(seeds=(3, 4), success_margin=0.25, run=run)
    (tmp_path / "sweep.yaml").write_text(settings_text(wanted))
    assert read_settings(tmp_path / "sweep.yaml") == wanted
    # Files of earlier versions hold n_jobs and log_dir as null, and lack the fields that came later.
    older = yaml.safe_load(settings_text(wanted)) | {"n_jobs": None, "log_dir": None, "retries": 1}
    del older["job"], older["limits"], older["run"]["checkpoint_every"]
    older["run"]["fine_tune"]["anchor_coef"] = older["run"]["forecast"].pop("anchor_coef")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(older))
    assert read_settings(tmp_path / "sweep.yaml") == wanted
    (tmp_path / "sweep.yaml").write_text("methods: [{nam: x}]")
    with pytest.raises(InputError, match=r"sweep\.yaml: "):
        read_settings(tmp_path / "sweep.yaml")


def _sweep(*more: MethodConfig, **changes: object) -> SweepConfig:
    """A sound sweep with changes, or with more methods."""
    tuned = MethodConfig("psi", "forecast_ppo", weight="forecast.coef", weights=(0.1, 1.0, 10.0))
    return replace(SweepConfig(methods=(MethodConfig("task_only", "ppo"), tuned, *more)), **changes)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (_sweep(seeds=(1, 2), tuning_seeds=(2,)), "seed 2 is in seeds and in tuning_seeds"),
        (_sweep(worlds=()), "worlds is empty"),
        (_sweep(worlds=("slip", "slip")), "worlds holds something twice"),
        (_sweep(n_jobs=0), "n_jobs must be at least 1"),
        (_sweep(address="auto"), "add --backend ray"),
        (_sweep(methods=(MethodConfig("task_only", "sft"),)), "unknown agent 'sft'"),
        (_sweep(tuning_seeds=()), "tuning_seeds is empty"),
        (_sweep(methods=(MethodConfig("psi", "forecast_ppo"),)), "must hold one named task_only"),
        (_sweep(MethodConfig("top", "top_risk", {}, "penalty.top_risk_coef", (1.0,))), "equally many weights"),
        (_sweep(MethodConfig("a", "anchor", {"forecast.ancor_coef": 1})), "did you mean 'anchor_coef'"),
        (_sweep(MethodConfig("a", "anchor", {"seed.x": 1})), "option 'seed.x' has no part 'x'"),
        (_sweep(MethodConfig("a", "anchor", weight="seed")), "both weight and weights"),
        (_sweep(MethodConfig("a", "ppo", {"world.size": 2})), "world.size must be at least"),
    ],
)
def test_unfair_or_impossible_sweeps_are_refused(sweep: SweepConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sweep(sweep)


@pytest.mark.parametrize("preset", [name for name in preset_names() if name.startswith(("rl-", "lm-"))])
def test_presets_are_fair(preset: str) -> None:
    sweep = parse_job(SWEEPS, ["--preset", preset], "sweep", dict.fromkeys(SWEEPS, ("", "")))
    check_sweep(sweep)
    assert sweep.kind == ("language" if preset.startswith("lm-") else "gridworld")
    assert sweep.preset == sweep.name == preset


@pytest.mark.parametrize(
    ("changes", "weight", "feasible"),
    [
        # The least error among those that cost no more than half a point of success.
        ({0.1: {"abs_error_log_odds": 2.0}, 1.0: {"success": 0.979}, 10.0: {"success": 0.9}}, 1.0, True),
        ({0.1: {"abs_error_log_odds": 2.0}, 1.0: {"mean_risk": 5e-2}, 10.0: {"abs_error_log_odds": 1.5}}, 10.0, True),
        ({0.1: {"share_riskier_than_base": 0.06}, 1.0: {"kl_from_base": 0.3}}, 10.0, True),
        ({0.1: {"abs_error_log_odds": None}, 1.0: {"both_at_upper_clip_log_odds": 0.2}}, 10.0, True),
        # None keeps the constraints: the one that costs the least, by the limit first.
        ({0.1: {"success": 0.96}, 1.0: {"success": 0.97}, 10.0: {"success": 0.9}}, 1.0, False),
        ({w: {"kl_from_base": w} for w in (1.0, 10.0)} | {0.1: {"success": 0.9, "kl_from_base": 2.0}}, 1.0, False),
    ],
)
def test_the_least_error_within_the_constraints_wins(
    changes: dict[float, dict[str, float | None]], weight: float, feasible: bool
) -> None:
    sound = {"abs_error_log_odds": 1.0, "success": 0.98, "mean_risk": 1e-3, "share_riskier_than_base": 0.0}
    sound |= {"kl_from_base": 0.1, "both_at_upper_clip_log_odds": 0.0}
    rows = [sound | {"method": "task_only", "weight": None, "seed": seed} for seed in (100, 101)]
    for tried in (0.1, 1.0, 10.0):
        one = sound | changes.get(tried, {}) | {"method": "psi", "weight": tried}
        # Means over seeds count: one of them alone would be too much.
        rows += [one | {"seed": seed, "success": one["success"] + d} for seed, d in ((100, -0.002), (101, 0.002))]
    table = pl.DataFrame(rows, schema_overrides={"weight": pl.Float64})
    base = sound | {"mean_risk": 1.5e-3}
    choices = choose_weights(_sweep(limits={"kl_from_base": 0.2}), "recolor", table, base)
    assert choices == [Choice("recolor", "task_only", None, True), Choice("recolor", "psi", weight, feasible)]


def test_a_sweep_of_language_models(tmp_path: Path) -> None:
    arguments = ["--preset", "lm-study-smoke", "--log-dir", str(tmp_path), "--n-jobs", "1"]
    result = run_module("rl_forecast.sweep", *arguments)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "lm-study-smoke"
    rows = {row["method"]: row for row in pl.read_parquet(folder / "results.parquet").iter_rows(named=True)}
    assert set(rows) == {"task_only", "forecast"}
    chosen = {choice["method"]: choice["weight"] for choice in json.loads((folder / "weights.json").read_text())}
    assert chosen["forecast"] in (0.003, 0.03)
    assert chosen["forecast"] == rows["forecast"]["weight"]
    # Fine-tuned on the same prompts from the same base model, they differ in the method alone.
    assert 0 < rows["task_only"]["kl_legitimate"] != rows["forecast"]["kl_legitimate"] > 0
    assert all(0 <= row["accuracy"] <= 1 for row in rows.values())
    scores = pl.read_parquet(next((folder / "held_out" / "scores").glob("*.parquet")))
    validation = pl.read_parquet(next((folder / "validation" / "scores").glob("*.parquet")))
    assert set(scores["part"].unique()) == {"evaluation", "deployment", "legitimate"}
    assert not set(scores["task_id"]) & set(validation["task_id"])
    (setting,) = read_inputs([str(folder)]).settings
    assert (setting.kind, setting.agents) == ("language", ("base", "task_only", "forecast"))
    assert setting.of("base")[0].metrics["accuracy_lost"] == 0
