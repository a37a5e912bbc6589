"""docs/log_keys.md has every key that gridworld runs and sweeps log, and none that nothing logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents import DegeneracyCallback, ForecastPPO, ForecastSettings
from envs import GridVecEnv, RecolorWorld
from rl_forecast.loss.objectives import cvar, objective_of, risk_limit, top_risk
from tests.log_keys import documented, scalar_tags, undocumented

ROOT = Path(__file__).parents[2]
# Written by Stable-Baselines3 itself, so they stand nowhere in our code.
SB3 = {
    "rollout/ep_len_mean",
    "rollout/ep_rew_mean",
    "rollout/success_rate",
    "time/fps",
    "train/approx_kl",
    "train/clip_fraction",
    "train/clip_range",
    "train/entropy_loss",
    "train/explained_variance",
    "train/loss",
    "train/policy_gradient_loss",
    "train/value_loss",
}


def test_every_key_of_a_gridworld_run_is_explained(smoke: tuple[Path, str]) -> None:
    tags = scalar_tags(smoke[0] / "tensorboard")
    assert {"train/forecast_loss", "forecast/absolute_error", "final/abs_error_psi", "train/approx_kl"} <= tags
    assert undocumented(tags) == set()


def test_every_key_of_a_sweep_is_explained(sweep: Path) -> None:
    tags = scalar_tags(sweep / "tensorboard")
    assert {"final/cvar_risk", "final/kl_from_base"} <= tags
    assert undocumented(tags) == set()


@pytest.mark.filterwarnings(r"ignore:\w+ after \d+ steps:UserWarning")  # the callback at work
def test_every_key_of_an_agent_with_all_terms_is_explained() -> None:
    env = GridVecEnv(RecolorWorld(), np.arange(4000), num_envs=32, seed=0)
    sizes = {"n_steps": 32, "batch_size": 256, "n_epochs": 1, "seed": 0, "device": "cpu"}
    base = PPO("MlpPolicy", env, **sizes)
    settings = ForecastSettings(n_eval=40, n_deploy=60)
    objective = objective_of(settings) + cvar(1.0) + top_risk(1.0) + risk_limit(1e-4)
    model = ForecastPPO("MlpPolicy", env, **sizes, settings=settings, objective=objective, anchor=base.policy)
    model.learn(3072, callback=DegeneracyCallback())
    tags = set(model.logger.name_to_value)
    assert {"train/multiplier", "train/mean_risk", "train/cvar", "train/top_risk", "train/anchor_loss"} <= tags
    excluded = {tag for tag in tags if "tensorboard" in (model.logger.name_to_excluded[tag] or ())}
    assert undocumented(tags - excluded) == set()


def test_every_key_explained_stands_in_the_code() -> None:
    files = [path for package in ("rl_forecast", "agents") for path in (ROOT / package).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    rows = documented()
    assert len(rows) > 80
    for tag, _, meaning in rows:
        assert meaning, tag
        assert tag in SB3 or f'{tag.partition("/")[2].removesuffix("_*")}"' in code, tag
