"""A run that stops and resumes is the run that never stopped, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents import Forecastability, ForecastPPO, ForecastSettings, TrainingStateCallback
from agents.training_state import load_training_state, save_training_state, training_state
from envs import GridVecEnv, SlipWorld
from rl_forecast.loss.objectives import anchor, risk_limit
from tests.agents.helpers import SIZES, WORLD, bridges, callback_of

N_ENVS, N_STEPS = 64, 16
ROLLOUT = N_ENVS * N_STEPS
TWICE: dict[str, Any] = SIZES | {"episodes_per_task": 2}
FEW: dict[str, Any] = SIZES | {"n_eval": 10, "n_deploy": 40, "tail_k": 2}
# Algorithm, and settings of the callback (None: none), which ForecastPPO brings along.
CASES: dict[str, tuple[type[OnPolicyAlgorithm], ForecastSettings | None]] = {
    "ppo": (PPO, None),
    "plain": (ForecastPPO, None),
    "forecast": (ForecastPPO, ForecastSettings(**TWICE)),
    "slip, normalised": (ForecastPPO, ForecastSettings(**FEW)),
    "no anchor": (ForecastPPO, ForecastSettings(**TWICE, anchor_coef=0.0)),
    "wide": (ForecastPPO, ForecastSettings(**TWICE)),
    "limit": (ForecastPPO, ForecastSettings(**SIZES)),
    "ppo with the callback": (PPO, ForecastSettings(**SIZES)),
    "a2c with the callback": (A2C, ForecastSettings(**SIZES, interval=1)),
}
Run = tuple[OnPolicyAlgorithm, Forecastability | None]


def _make(case: str, n_envs: int = N_ENVS, pool: int = 1000, anchored: bool = False) -> Run:
    """The agent of a case and its callback, as a new process would make them; the anchor only where a run begins."""
    algorithm, settings = CASES[case]
    repeats = settings.episodes_per_task if settings else 1
    env: VecEnv = GridVecEnv(WORLD if "slip" not in case else SlipWorld(), np.arange(pool), n_envs, repeats, seed=2)
    if "normalised" in case:
        env = VecNormalize(env)
    net = {"net_arch": [32] if case == "wide" else [16]}
    arguments: dict[str, Any] = {"n_steps": N_STEPS, "seed": 3, "device": "cpu", "policy_kwargs": net}
    # Another seed's weights, so that the anchor is not the policy itself.
    start: Any = PPO("MlpPolicy", env, **arguments | {"seed": 4}).policy if anchored and case != "no anchor" else None
    if algorithm is not A2C:
        arguments |= {"batch_size": 128, "n_epochs": 2, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    if algorithm is ForecastPPO:
        objective = risk_limit(1e-3) + anchor(10.0) if case == "limit" else None
        return ForecastPPO("MlpPolicy", env, **arguments, settings=settings, objective=objective, anchor=start), None
    callback = Forecastability(settings, anchor=start) if settings else None
    return algorithm("MlpPolicy", env, **arguments), callback


def _finish(case: str, start: Path, end: Path) -> None:
    """Resume from one file with a new agent and write another; also what the other process runs."""
    model, callback = _make(case)
    load_training_state(model, start, callback)
    model.learn(6 * ROLLOUT - model.num_timesteps, callback=callback, reset_num_timesteps=False)
    save_training_state(model, end, callback)


def _assert_same_state(one: Run, other: Run) -> None:
    tensors, values = training_state(*one)
    others, other_values = training_state(*other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    # Where a learn began, and seconds on the clock, are not part of what is learned.
    for content in (values, other_values):
        del content["run"]["_num_timesteps_at_start"]
        for info in content["run"]["ep_info_buffer"]:
            del info["t"]
    assert values == other_values


@pytest.mark.parametrize(
    "case", ["ppo", "forecast", "slip, normalised", "limit", "ppo with the callback", "a2c with the callback"]
)
def test_resumed_is_uninterrupted(case: str, tmp_path: Path) -> None:
    """Also when another process resumes the run, as it does the one named forecast."""
    whole, callback = _make(case, anchored=True)
    whole.learn(6 * ROLLOUT, callback=callback)
    callback = callback or getattr(whole, "forecastability", None)
    assert callback is None or (callback.update.n_touched > 2 and callback.anchor), "else this test says little"

    # A learn of the same length, stopped by the fourth rollout's first step; the file is of the third's end.
    start, end = tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    interrupted, own = _make(case, anchored=True)
    keep = TrainingStateCallback(start, ROLLOUT, own)
    stop = ConvertCallback(lambda locals_, _: locals_["self"].num_timesteps <= 3 * ROLLOUT)
    interrupted.learn(6 * ROLLOUT, callback=CallbackList([keep, *([own] if own else []), stop]))
    assert interrupted.num_timesteps == 3 * ROLLOUT + N_ENVS
    if case == "forecast":
        command = f"from {__name__} import _finish; _finish({case!r}, {str(start)!r}, {str(end)!r})"
        subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[2], timeout=600)
    else:
        np.random.seed(99)  # noqa: NPY002 - whatever happens in between must not matter
        torch.manual_seed(99)
        _finish(case, start, end)
    finished = _make(case)
    load_training_state(finished[0], end, finished[1])
    _assert_same_state((whole, callback), finished)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: _make("ppo"), r"'ForecastPPO', 64\), the agent is of \(2, 'PPO', 64\)"),
        (lambda: _make("forecast", n_envs=32), r"'ForecastPPO', 64\), the agent is of \(2, 'ForecastPPO', 32\)"),
        (lambda: _make("forecast", pool=900), "another pool of tasks"),
        (lambda: _make("no anchor"), "another anchor_coef"),
        (lambda: _make("wide"), "another network: .*size mismatch"),
        (lambda: _make("plain"), "only one of the two"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(other: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model, _ = _make("forecast", anchored=True)
    save_training_state(model.learn(ROLLOUT), path)
    with pytest.raises(ValueError, match=message):
        load_training_state(other()[0], path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a state", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_state_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no training state"):
        load_training_state(_make("ppo")[0], path)


def test_no_state_is_taken_within_a_rollout() -> None:
    model, _ = _make("ppo")
    model.learn(2 * ROLLOUT, callback=lambda locals_, _: locals_["n_steps"] < 5)
    with pytest.raises(ValueError, match="5 of 16 steps of a rollout are done"):
        training_state(model)


def test_an_environment_without_a_state_begins_new_episodes(tmp_path: Path) -> None:
    def make() -> ForecastPPO:
        settings = ForecastSettings(**SIZES, anchor_coef=0.0)
        return ForecastPPO("MlpPolicy", bridges(), n_steps=32, batch_size=64, device="cpu", settings=settings)

    model, path = make().learn(8 * 32 * 2), tmp_path / "state.safetensors"
    save_training_state(model, path)
    resumed = make()
    with pytest.warns(UserWarning, match="begins new episodes"):
        load_training_state(resumed, path)
    before, after = (callback_of(one).memory.task_id for one in (model, resumed))
    assert np.array_equal(before, after)
    resumed.learn(8 * 32, reset_num_timesteps=False)
    assert len(callback_of(resumed).memory.task_id) > len(before)
