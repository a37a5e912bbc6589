"""Degenerate training is noticed, announced, and stopped on request."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents import DegeneracyCallback, ForecastPPO
from agents.forecast_ppo.health import TermHealth, symptoms
from agents.forecast_ppo.objective import TaskObjective
from envs import GridVecEnv, RecolorWorld
from rl_forecast.loss.forecastability import ForecastabilityLoss

FIRST = TermHealth(mean_risk=1e-3, success=0.98, share_risen=0.0)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (TermHealth(1e-3, 0.98, 0.0, 0.01, 3.0), set()),
        (TermHealth(1e-5, 0.97, 0.4, 0.04, 100.0), set()),
        (TermHealth(1e-3, None, 0.6, None), {"saturation"}),
        (TermHealth(1e-3, 0.98, 0.0, 0.06), {"risen"}),
        (TermHealth(1.9e-3, 0.98), set()),
        (TermHealth(5e-3, 0.98), {"riskier"}),
        (TermHealth(1e-3, 0.95), {"collapse"}),
        (TermHealth(1e-3, 0.98, grad_norm=math.nan), {"divergence"}),
        (TermHealth(0.5, 0.5, 1.0, 1.0, math.inf), {"saturation", "risen", "riskier", "collapse", "divergence"}),
    ],
)
def test_symptoms(now: TermHealth, expected: set[str]) -> None:
    assert set(symptoms(now, FIRST)) == expected


def test_saturated_and_floored_partitions_are_counted() -> None:
    loss = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16, psi_cap=3.0)
    objective = TaskObjective(loss, 1.0, "mean_risk", 0.0, 0.01, 0.0)
    rng = np.random.default_rng(0)
    # A tenth of all tasks certain to fail: both parts of every partition see them.
    degenerate = np.where(np.arange(200) % 10 == 0, 9.0, rng.normal(-2, 0.1, 200))
    ordinary, safe = rng.normal(-1, 0.5, 200), rng.normal(-6, 0.2, 200)
    shares = []
    for psi in (degenerate, ordinary, safe):
        result = objective(psi, None, rng)
        assert result is not None
        shares.append((result.logs["forecast_share_saturated"], result.logs["forecast_share_floored"]))
    assert shares[0][0] > 0.9
    assert shares[1] == (0.0, 0.0)
    assert shares[2][1] == 1.0


def _engine() -> GridVecEnv:
    return GridVecEnv(RecolorWorld(rare_probability=0.1), np.arange(3000), 64, seed=2)


SETTINGS: dict[str, Any] = {
    "n_steps": 32, "batch_size": 128, "n_epochs": 2, "seed": 3, "device": "cpu", "n_eval": 40, "n_deploy": 160,
    "tail_k": 5, "n_known_tasks": 500,
}  # fmt: skip


def test_a_run_that_goes_wrong_is_announced_stopped_and_taken_back() -> None:
    base = PPO("MlpPolicy", _engine(), n_steps=64, batch_size=512, learning_rate=2e-3, gamma=0.97, seed=0, device="cpu")
    base.learn(64 * 64 * 12)
    # A penalty with a negative rate of the reward would be an error; a reward for dying is a legal environment, and
    # PPO follows it: risk rises and success falls.
    env = GridVecEnv(RecolorWorld(rare_probability=0.1, failure_cost=-20.0), np.arange(3000), 64, seed=2)
    model = ForecastPPO("MlpPolicy", env, **SETTINGS | {"learning_rate": 3e-3}, anchor_coef=1e-6)
    model.policy.load_state_dict(base.policy.state_dict())
    watch = DegeneracyCallback(stop=True, patience=2)
    with warnings.catch_warnings(record=True) as announced:
        warnings.simplefilter("always")
        model.learn(64 * 32 * 60, callback=watch)
    sentences = [str(warning.message) for warning in announced]
    assert sum("the mean risk rose from" in sentence for sentence in sentences) == 1
    assert watch.stopped
    assert model.num_timesteps < 64 * 32 * 60
    assert watch.found
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, watch._good[name])


def test_watching_changes_nothing() -> None:
    weights = []
    for callback in (None, DegeneracyCallback()):
        model = ForecastPPO("MlpPolicy", _engine(), **SETTINGS)
        with warnings.catch_warnings():
            # An untrained agent may well become riskier before it learns.
            warnings.simplefilter("ignore")
            model.learn(64 * 32 * 3, callback=callback)
        weights.append({name: value.clone() for name, value in model.policy.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="patience must be at least 1"):
        DegeneracyCallback(patience=0)
    with pytest.raises(ValueError, match="watches a ForecastPPO, not a PPO"):
        PPO("MlpPolicy", _engine(), n_steps=32, batch_size=128, device="cpu").learn(64, callback=DegeneracyCallback())
