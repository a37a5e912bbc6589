"""The main job as a user runs it: by command line, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from stable_baselines3 import PPO

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
    # Nothing in the metrics depends on the machine: no time, path or host.
    text = (folder / "metrics.json").read_text()
    metrics = json.loads(text)
    assert set(metrics) == set(AGENTS)
    assert text == json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    assert all(value is None or isinstance(value, float | int) for row in metrics.values() for value in row.values())


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


def test_evaluate_repeats_the_table_and_scores_what_is_new(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    # The run's own settings: nothing is scored, and the table is that of the run.
    same = run_module("rl_forecast.evaluate", str(folder))
    assert same.returncode == 0, same.stderr
    assert "score base" not in same.stdout
    (written,) = (folder / "evaluations").glob("gumbel_tail-m100-n500-*")
    metrics, again = json.loads((folder / "metrics.json").read_text()), json.loads(written.read_text())["agents"]
    for agent in AGENTS:
        assert again[agent] == pytest.approx(metrics[agent], rel=1e-12)
    arguments = ["--n-eval=150", "--n-deploy=600", "--tail-k=5", "--forecaster=exponential_pivot"]
    result = run_module("rl_forecast.evaluate", str(folder), *arguments)
    assert result.returncode == 0, result.stderr
    written = [p for p in (folder / "evaluations").iterdir() if p.name.startswith("exponential_pivot-m150-n600-")]
    settings = json.loads(written[0].read_text())["settings"]
    assert (settings["n_eval"], settings["n_eval_sets"], settings["tail_k"]) == (150, 10, 5)
