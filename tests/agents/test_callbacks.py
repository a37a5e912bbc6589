"""Our callbacks beside Stable-Baselines3's own, while forecastability is trained."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from agents import (
    DegeneracyCallback,
    Forecastability,
    ForecastEvalCallback,
    ForecastPPO,
    ForecastSettings,
    TrainingStateCallback,
)
from agents.risk.base import log_action_probability
from agents.training_state import load_training_state
from envs import GridVecEnv, RecolorWorld, exact_risk
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.scores import psi_from_log_p
from tests.agents.contract_env import memory_of

N_ENVS, N_STEPS = 64, 32
ROLLOUT = N_ENVS * N_STEPS
WORLD = RecolorWorld(rare_probability=0.1)


def _grid(n_envs: int = N_ENVS, seed: int = 2) -> GridVecEnv:
    return GridVecEnv(WORLD, np.arange(2000), n_envs, seed=seed)


SETTINGS = replace(
    ForecastSettings.paper(), n_eval=40, n_deploy=160, tail_k=5, n_known_tasks=500, n_partitions=8, max_grad_ratio=0.3
)


def _agent(settings: ForecastSettings = SETTINGS, env: Any = None, **more: Any) -> ForecastPPO:
    fixed: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 256, "n_epochs": 2, "seed": 3, "device": "cpu"}
    return ForecastPPO("MlpPolicy", env or _grid(), **fixed | more, settings=settings)


def _touched(model: ForecastPPO) -> int:
    assert model.forecastability is not None
    return model.forecastability.update.n_touched


def _validation_scores(policy: BasePolicy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with torch.no_grad():
        risk = exact_risk(
            WORLD,
            WORLD.tasks(np.arange(2**30, 2**30 + 240)),
            lambda observation: log_action_probability(policy, observation),  # type: ignore[arg-type]
        )
    psi = psi_from_log_p(risk.log_p.numpy())
    return psi[:80].reshape(2, 40), psi[80:].reshape(1, 160)


def _ours() -> list[BaseCallback]:
    return [ForecastEvalCallback(_validation_scores, make_forecaster("gumbel_tail", 5), ROLLOUT), DegeneracyCallback()]


def _learn(model: ForecastPPO, steps: int, callback: Any, **settings: Any) -> None:
    with warnings.catch_warnings():
        # DegeneracyCallback has reason to speak up about an agent that has hardly been trained.
        warnings.filterwarnings("ignore", message=r"\w+ after \d+ steps")
        model.learn(steps, callback=callback, **settings)


def test_all_together_each_does_its_work(tmp_path: Path) -> None:
    start = PPO("MlpPolicy", _grid(), seed=1, device="cpu").policy
    model = _agent(replace(SETTINGS, anchor_coef=1.0), seed=3)
    assert model.forecastability is not None
    model.forecastability.set_anchor(start)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    evaluation = EvalCallback(
        _grid(8, seed=5),
        n_eval_episodes=16,
        eval_freq=N_STEPS,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "evaluations"),
        callback_on_new_best=StopTrainingOnRewardThreshold(1e9, verbose=0),
        verbose=0,
    )
    checkpoints = CheckpointCallback(N_STEPS, str(tmp_path / "checkpoints"))
    # Nested and in a list, as users write it.
    _learn(model, 4 * ROLLOUT, [evaluation, CallbackList([*_ours(), checkpoints])])
    model.logger.close()
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    columns = rows[0].split(",")
    for name in ("forecast/error", "eval/mean_reward", "train/forecast_grad_norm"):
        values = [row.split(",")[columns.index(name)] for row in rows[1:]]
        assert sum(value not in ("", "nan") for value in values) >= 3, name
    assert evaluation.evaluations_timesteps == [ROLLOUT * i for i in range(1, 5)]
    assert len(list((tmp_path / "checkpoints").glob("*.zip"))) == 4
    for saved in (tmp_path / "best" / "best_model.zip", tmp_path / "checkpoints" / f"rl_model_{2 * ROLLOUT}_steps.zip"):
        loaded = ForecastPPO.load(saved, env=_grid())
        assert loaded.forecastability is not None
        assert loaded.forecastability.anchor is not None
        _learn(loaded, ROLLOUT, _ours(), reset_num_timesteps=False)
        assert _touched(loaded) or len(memory_of(loaded).task_id) < 200


def test_watchers_do_not_change_what_is_learned(tmp_path: Path) -> None:
    """Evaluation, checkpoints and training states draw nothing from the run's generators."""
    weights = []
    for watched in (False, True):
        model = _agent()
        watchers = [
            *_ours(),
            EvalCallback(_grid(8, seed=5), n_eval_episodes=8, eval_freq=N_STEPS, verbose=0),
            CheckpointCallback(N_STEPS, str(tmp_path)),
            TrainingStateCallback(tmp_path / "state.safetensors", ROLLOUT),
        ]
        _learn(model, 3 * ROLLOUT, watchers if watched else None)
        weights.append({name: value.clone() for name, value in model.policy.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_reward_threshold_stops_and_the_run_can_be_resumed(first: str, tmp_path: Path) -> None:
    model = _agent()
    state = TrainingStateCallback(tmp_path / "state.safetensors", ROLLOUT)
    evaluation = EvalCallback(
        _grid(8, seed=5),
        n_eval_episodes=8,
        eval_freq=N_STEPS + 5,
        callback_on_new_best=StopTrainingOnRewardThreshold(-1e9, verbose=0),
        verbose=0,
    )
    callbacks = [*_ours(), state, evaluation] if first == "ours" else [evaluation, state, *_ours()]
    _learn(model, 10 * ROLLOUT, callbacks)
    assert model.num_timesteps == ROLLOUT + 5 * N_ENVS, "stopped in the second rollout"
    # In place, with fresh episodes, and from the state at the end of the first rollout.
    _learn(model, 2 * ROLLOUT, None, reset_num_timesteps=False)
    assert _touched(model)
    resumed = _agent()
    load_training_state(resumed, tmp_path / "state.safetensors")
    assert resumed.num_timesteps == ROLLOUT
    _learn(resumed, 2 * ROLLOUT, None, reset_num_timesteps=False)
    assert _touched(resumed)


def test_evaluation_behind_vec_normalize() -> None:
    model = _agent(env=VecNormalize(_grid()))
    evaluation = EvalCallback(
        VecNormalize(_grid(8, seed=5), training=False), n_eval_episodes=8, eval_freq=N_STEPS, verbose=0
    )
    _learn(model, 2 * ROLLOUT, [evaluation, DegeneracyCallback()])
    assert np.isfinite(evaluation.last_mean_reward)


def _base() -> PPO:
    arguments: dict[str, Any] = {"n_steps": 64, "batch_size": 512, "learning_rate": 2e-3, "gamma": 0.97, "seed": 0}
    return PPO("MlpPolicy", _grid(), **arguments, device="cpu").learn(64 * 64 * 12)


@pytest.mark.parametrize("brings_its_own", [True, False])
def test_a_run_that_goes_wrong_is_announced_stopped_and_restored(brings_its_own: bool) -> None:
    base = _base()
    # A reward for dying is a legal environment, and PPO follows it: risk rises and success falls.
    world = RecolorWorld(rare_probability=0.1, failure_cost=-20.0)
    env = GridVecEnv(world, np.arange(3000), 64, seed=2)
    arguments: dict[str, Any] = {"n_steps": 32, "batch_size": 128, "n_epochs": 2, "learning_rate": 3e-3, "seed": 3}
    settings = replace(SETTINGS, anchor_coef=1e-6)
    model: PPO
    if brings_its_own:
        model = ForecastPPO("MlpPolicy", env, **arguments, device="cpu", settings=settings, anchor=base.policy)
        watch, callbacks = DegeneracyCallback(stop=True, patience=2), []
    else:
        model = PPO("MlpPolicy", env, **arguments, device="cpu")
        callback = Forecastability(settings, anchor=base.policy)
        watch, callbacks = DegeneracyCallback(stop=True, patience=2, forecastability=callback), [callback]
    model.policy.load_state_dict(base.policy.state_dict())
    with warnings.catch_warnings(record=True) as announced:
        warnings.simplefilter("always")
        model.learn(64 * 32 * 60, callback=[*callbacks, watch])
    assert sum("mean_risk_risen after" in str(warning.message) for warning in announced) == 1
    assert watch.stopped
    assert model.num_timesteps < 64 * 32 * 60
    assert "mean_risk_risen" in watch.found
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, watch._good[name])


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="every must be at least 1"):
        TrainingStateCallback("state.safetensors", 0)
    with pytest.raises(ValueError, match="patience must be at least 1"):
        DegeneracyCallback(patience=0)
    with pytest.raises(ValueError, match="watches a ForecastPPO, or the callback given"):
        PPO("MlpPolicy", _grid(), n_steps=32, batch_size=128, device="cpu").learn(64, callback=DegeneracyCallback())
