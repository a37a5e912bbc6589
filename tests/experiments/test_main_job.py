"""The main job as a user runs it: by command line, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import ForecastPPO
from envs import GridVecEnv, RecolorWorld
from rl_forecast.experiments.gridworld.agent_files import load_policy
from rl_forecast.experiments.gridworld.worlds import score_tasks
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import AGENTS, BaseConfig
from rl_forecast.tasks import SPLITS
from tests.forked import run_module
from tests.kill_and_resume import small_run


def test_prints_one_table_of_all_agents_and_the_way_to_tensorboard(smoke: tuple[Path, str]) -> None:
    folder, printed = smoke
    for name in ("base", "PPO", "mean-risk penalty", "ForecastPPO"):
        assert f"│ {name} " in printed
    assert "tensorboard --logdir here/smoke-0/tensorboard" in printed
    assert folder.name == "smoke-0"


def test_the_run_folder_is_complete(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    expected = {"config.yaml", "command.txt", "versions.json", "metrics.json", "timings.json", "scores.parquet",
                "survival.png", "agents", "tensorboard"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} - {"evaluations"} == expected
    for agent in AGENTS:
        names = {path.name for path in (folder / "agents" / agent).iterdir()}
        assert names == {"policy.safetensors", "agent.json", "agent.zip"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["preset"], config["seed"], config["world"]["pool_size"]) == ("smoke", 0, 2000)
    assert "--preset smoke" in (folder / "command.txt").read_text()
    scores = pl.read_parquet(folder / "scores.parquet")
    assert scores.columns == ["agent", "part", "task_id", "log_p", "psi", "success", "rare"]
    assert len(scores) == 4 * (10 * 100 + 2 * 500)
    ids = scores.filter(pl.col("agent") == "base")["task_id"].to_numpy()
    assert len(np.unique(ids)) == len(ids), "evaluation and deployment tasks are disjoint"
    assert all(int(i) in SPLITS["held_out"] for i in (ids.min(), ids.max()))


def test_metrics_hold_no_time_path_or_host_and_are_sorted(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    text = (folder / "metrics.json").read_text()
    metrics = json.loads(text)
    assert set(metrics) == set(AGENTS)
    assert text == json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    values = {
        key for row in metrics.values() for key, value in row.items() if not isinstance(value, float | int | None)
    }
    assert not values


def test_the_same_seed_gives_the_same_metrics_and_another_one_others(tmp_path: Path) -> None:
    small = small_run("gridworld", 4096) | {"agents": ["base", "forecast_ppo"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(small))
    # The same name is asked for twice: a counter is added and nothing is overwritten.
    for seed in ("0", "0", "1"):
        arguments = ["--config", "run.yaml", "--log-dir", ".", "--seed", seed]
        result = run_module("rl_forecast.train", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    runs = [tmp_path / name for name in ("kill-0", "kill-0-2", "kill-1")]
    for file in ("metrics.json", "agents/forecast_ppo/policy.safetensors"):
        one, again, other = ((run / file).read_bytes() for run in runs)
        assert one == again
        assert one != other


def test_safetensors_and_the_zip_hold_the_same_policy_that_was_scored(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    scores = pl.read_parquet(folder / "scores.parquet")
    world = RecolorWorld()
    for agent, algorithm in (("ppo", PPO), ("forecast_ppo", ForecastPPO)):
        wanted = scores.filter(pl.col("agent") == agent).head(50)
        env = GridVecEnv(world, np.arange(10), 4)
        for policy in (
            load_policy(RunFolder(folder), agent, BaseConfig()),
            algorithm.load(folder / "agents" / agent / "agent.zip", env=env, device="cpu").policy,
        ):
            again = score_tasks(world, policy, wanted["task_id"].to_numpy())  # type: ignore[arg-type]
            np.testing.assert_allclose(again["log_p"], wanted["log_p"], rtol=1e-5)


def test_tensorboard_shows_agents_side_by_side(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    metrics = json.loads((folder / "metrics.json").read_text())
    for agent in AGENTS:
        events = EventAccumulator(str(folder / "tensorboard" / agent))
        events.Reload()
        tags = events.Tags()
        assert {"forecast/error", "forecast/realised_worst_psi", "forecast/tail_scale"} <= set(tags["scalars"])
        assert len(events.Scalars("forecast/error")) >= 2
        # HParams shows a metric only where its tag is a scalar too.
        final = events.Scalars("final/abs_error_psi")[-1].value
        assert final == pytest.approx(metrics[agent]["abs_error_psi"], rel=1e-6)
        assert set(tags["images"]) == {"final/survival_and_forecast", "final/worst_tasks"}
        hparams = events.summary_metadata
        assert any(name.startswith("_hparams_") for name in hparams)
    term = EventAccumulator(str(folder / "tensorboard" / "forecast_ppo"))
    term.Reload()
    assert {"train/forecast_loss", "train/forecast_grad_norm", "time/forecast_seconds", "rollout/ep_risk_mean"} <= set(
        term.Tags()["scalars"]
    )


def test_evaluate_repeats_the_table_from_the_files(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    result = run_module("rl_forecast.evaluate", str(folder))
    assert result.returncode == 0, result.stderr
    written = [p for p in (folder / "evaluations").iterdir() if p.name.startswith("gumbel_tail-m100-n500-")]
    assert len(written) == 1
    again = json.loads(written[0].read_text())["agents"]
    metrics = json.loads((folder / "metrics.json").read_text())
    for agent in AGENTS:
        assert again[agent] == pytest.approx(metrics[agent], rel=1e-12)


def test_evaluate_scores_what_the_run_has_not(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    arguments = ["--n-eval=150", "--n-deploy=600", "--tail-k=5", "--forecaster=exponential_pivot"]
    result = run_module("rl_forecast.evaluate", str(folder), *arguments)
    assert result.returncode == 0, result.stderr
    written = [p for p in (folder / "evaluations").iterdir() if p.name.startswith("exponential_pivot-m150-n600-")]
    settings = json.loads(written[0].read_text())["settings"]
    assert (settings["n_eval"], settings["n_eval_sets"], settings["tail_k"]) == (150, 10, 5)
    # Fewer tasks than the run has scored: nothing is scored, the answer comes from the file alone.
    few = run_module("rl_forecast.evaluate", str(folder), "--n-eval-sets", "5", "--n-deploy", "100")
    assert few.returncode == 0, few.stderr
    assert "score base" not in few.stdout


@pytest.mark.parametrize("module", ["rl_forecast.train", "rl_forecast.evaluate"])
def test_help_answers_at_once_and_explains_every_field(module: str) -> None:
    command, started = [sys.executable, "-m", module, "--help"], time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert time.perf_counter() - started < 10  # under 2 s on a quiet machine; this guards against loading torch
    assert result.returncode == 0
    options = [line for line in result.stdout.splitlines() if line.lstrip().startswith("--")]
    assert len(options) >= 6
    if module == "rl_forecast.train":
        text = " ".join(result.stdout.split())
        for part in ("norm limit of the added gradient", "number of training tasks", "Presets: default, "):
            assert part in text


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("rl_forecast.train", ["--preset", "smoke", "--forecast.coeff", "1"], "did you mean '--forecast.coef'?"),
        ("rl_forecast.train", ["--batch_size", "1"], "'--base.batch_size' or '--fine_tune.batch_size'"),
        ("rl_forecast.train", ["--preset", "smok"], "unknown preset 'smok': did you mean 'smoke'?"),
        ("rl_forecast.train", ["--forecast.error-space", "psy"], "did you mean 'psi'?"),
        ("rl_forecast.train", ["--agents", "[bse]"], "did you mean 'base'?"),
        ("rl_forecast.train", ["--seed", "x"], "--seed: invalid value 'x'"),
        ("rl_forecast.train", ["--seed", "-1"], "seed must be at least 0"),
        ("rl_forecast.train", ["--config", "none.yaml"], "none.yaml"),
        ("rl_forecast.train", ["--world.severity", "3"], "world.severity must be at most 1, it is 3"),
        ("rl_forecast.train", ["--device", "cuda:77"], "--device 'cuda:77' is not available"),
        ("rl_forecast.train", ["--base.n_envs", "0"], "base.n_envs must be at least 1"),
        ("rl_forecast.evaluate", ["nowhere"], "'nowhere' is not a run folder"),
        ("rl_forecast.evaluate", [], "required: run"),
        ("rl_forecast.evaluate", ["x", "--forecaster", "gumbel"], "did you mean 'gumbel_tail'?"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    module: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = run_module(module, *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr


def test_a_misspelt_field_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("forecast:\n  coeff: 2\n")
    result = run_module("rl_forecast.train", "--config", "my.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: unknown field 'forecast.coeff': did you mean 'forecast.coef'?\n"


def test_a_log_dir_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run_module("rl_forecast.train", "--log-dir", "file/runs", cwd=tmp_path)
    assert result.returncode == 2
    assert "cannot make a run folder in 'file/runs'" in result.stderr


def test_config_files_override_presets_and_options_override_both(tmp_path: Path) -> None:
    from rl_forecast.experiments.command_line import parse_config
    from rl_forecast.experiments.settings import Config

    (tmp_path / "my.yaml").write_text("seed: 5\nworld:\n  pool_size: 123\nforecast:\n  coef: 2.5\n")
    arguments: list[Any] = ["--preset", "smoke", "--config", str(tmp_path / "my.yaml"), "--world.pool-size", "77"]
    config = parse_config(Config, arguments, "prog", "")
    assert (config.preset, config.seed, config.world.pool_size, config.forecast.coef) == ("smoke", 5, 77, 2.5)
    assert config.base.total_timesteps == 60_000
    assert parse_config(Config, [], "prog", "") == Config()
