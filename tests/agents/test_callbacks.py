"""Our callbacks beside Stable-Baselines3's own, with the term on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
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

from agents import DegeneracyCallback, ForecastEvalCallback, ForecastPPO, TrainingStateCallback
from agents.risk.base import log_action_probability
from agents.training_state import load_training_state
from envs import GridVecEnv, RecolorWorld, exact_risk
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.scores import psi_from_log_p

N_ENVS, N_STEPS = 64, 32
ROLLOUT = N_ENVS * N_STEPS
WORLD = RecolorWorld(rare_probability=0.1)


def _grid(n_envs: int = N_ENVS, seed: int = 2) -> GridVecEnv:
    return GridVecEnv(WORLD, np.arange(2000), n_envs, seed=seed)


def _agent(**settings: Any) -> ForecastPPO:
    term: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 500, "n_partitions": 8}
    fixed: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 256, "n_epochs": 2, "seed": 3, "device": "cpu"}
    return ForecastPPO("MlpPolicy", settings.pop("env", None) or _grid(), **fixed, **term, **settings)


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
    model = _agent(anchor_coef=1.0)
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
    for name in ("forecast/error", "health/riskier", "eval/mean_reward", "train/forecast_grad_norm"):
        values = [row.split(",")[columns.index(name)] for row in rows[1:]]
        assert sum(value not in ("", "nan") for value in values) >= 3, name
    assert evaluation.evaluations_timesteps == [ROLLOUT * i for i in range(1, 5)]
    assert len(list((tmp_path / "checkpoints").glob("*.zip"))) == 4
    for saved in (tmp_path / "best" / "best_model.zip", tmp_path / "checkpoints" / f"rl_model_{2 * ROLLOUT}_steps.zip"):
        loaded = ForecastPPO.load(saved, env=_grid())
        assert loaded.anchor is not None
        _learn(loaded, ROLLOUT, _ours(), reset_num_timesteps=False)
        assert loaded._term.grad_norms or len(loaded.known_task_ids) < 200


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
def test_a_reward_threshold_stops_and_the_run_can_go_on(first: str, tmp_path: Path) -> None:
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
    assert model._term.grad_norms
    resumed = _agent()
    load_training_state(resumed, tmp_path / "state.safetensors")
    assert resumed.num_timesteps == ROLLOUT
    _learn(resumed, 2 * ROLLOUT, None, reset_num_timesteps=False)
    assert resumed._term.grad_norms


def test_evaluation_behind_vec_normalize() -> None:
    model = _agent(env=VecNormalize(_grid()))
    evaluation = EvalCallback(
        VecNormalize(_grid(8, seed=5), training=False), n_eval_episodes=8, eval_freq=N_STEPS, verbose=0
    )
    _learn(model, 2 * ROLLOUT, [evaluation, DegeneracyCallback()])
    assert np.isfinite(evaluation.last_mean_reward)


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="every must be at least 1"):
        TrainingStateCallback("state.safetensors", 0)
