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
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents import Forecastability, ForecastPPO, ForecastSettings, TrainingStateCallback
from agents.training_state import load_training_state, save_training_state, training_state
from envs import GridVecEnv, RecolorWorld, SlipWorld
from rl_forecast.loss.objectives import anchor, risk_limit
from tests.agents.contract_env import Bridge, memory_of

N_ENVS, N_STEPS = 64, 16
ROLLOUT = N_ENVS * N_STEPS
SIZES: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 500, "n_partitions": 8}
TWICE: dict[str, Any] = SIZES | {"episodes_per_task": 2}
FEW: dict[str, Any] = SIZES | {"n_eval": 10, "n_deploy": 40, "tail_k": 2}
# Algorithm, world, settings of the callback (None: none), whether ForecastPPO brings it.
CASES: dict[str, tuple[type[OnPolicyAlgorithm], str, ForecastSettings | None]] = {
    "ppo": (PPO, "recolor", None),
    "forecast": (ForecastPPO, "recolor", ForecastSettings(**TWICE)),
    "slip, normalised": (ForecastPPO, "slip normalised", ForecastSettings(**FEW)),
    "no anchor": (ForecastPPO, "recolor", ForecastSettings(**TWICE, anchor_coef=0.0)),
    "wide": (ForecastPPO, "recolor", ForecastSettings(**TWICE)),
    "limit": (ForecastPPO, "recolor", ForecastSettings(**SIZES)),
    "ppo with the callback": (PPO, "recolor", ForecastSettings(**SIZES)),
    "a2c with the callback": (A2C, "recolor", ForecastSettings(**SIZES, interval=1)),
}


def _make(case: str, n_envs: int = N_ENVS, pool: int = 1000) -> tuple[OnPolicyAlgorithm, Forecastability | None]:
    """The agent of a case and its callback, as a new process would make them."""
    algorithm, world, settings = CASES[case]
    kind = SlipWorld() if world.startswith("slip") else RecolorWorld(rare_probability=0.1)
    repeats = settings.episodes_per_task if settings else 1
    env: VecEnv = GridVecEnv(kind, np.arange(pool), n_envs, repeats, seed=2)
    if world.endswith("normalised"):
        env = VecNormalize(env)
    net = {"net_arch": [32] if case == "wide" else [16]}
    arguments: dict[str, Any] = {"n_steps": N_STEPS, "seed": 3, "device": "cpu", "policy_kwargs": net}
    # What training started from, for the anchor: another seed's weights, so that it is not the policy itself.
    start: Any = PPO("MlpPolicy", env, **arguments | {"seed": 4}).policy
    if algorithm is not A2C:
        arguments |= {"batch_size": 128, "n_epochs": 2, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    if algorithm is ForecastPPO:
        objective = risk_limit(1e-3) + anchor(10.0) if case == "limit" else None
        given = start if objective or (settings and settings.anchor_coef) else None
        return ForecastPPO("MlpPolicy", env, **arguments, settings=settings, objective=objective, anchor=given), None
    callback = Forecastability(settings, anchor=start) if settings else None
    return algorithm("MlpPolicy", env, **arguments), callback


def _finish(case: str, start: Path, end: Path) -> tuple[OnPolicyAlgorithm, Forecastability | None]:
    """Resume from one file with a new agent and write another; also what the other process runs."""
    model, callback = _make(case)
    load_training_state(model, start, callback)
    model.learn(6 * ROLLOUT - model.num_timesteps, callback=callback, reset_num_timesteps=False)
    save_training_state(model, end, callback)
    return model, callback


def _assert_same_state(one: Any, other: Any) -> None:
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
    whole, callback = _make(case)
    whole.learn(6 * ROLLOUT, callback=callback)
    callback = callback or getattr(whole, "forecastability", None)
    assert callback is None or callback.update.n_touched > 2, "no gradient was added, and this test says little"

    # A learn of the same length, stopped by the fourth rollout's first step; the file is of the third's end.
    start, end = tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    interrupted, own = _make(case)
    keep = TrainingStateCallback(start, ROLLOUT, own)
    stop = ConvertCallback(lambda locals_, _: locals_["self"].num_timesteps <= 3 * ROLLOUT)
    interrupted.learn(6 * ROLLOUT, callback=CallbackList([*([own] if own else []), keep, stop]))
    assert interrupted.num_timesteps == 3 * ROLLOUT + N_ENVS
    np.random.seed(99)  # noqa: NPY002 - whatever happens in between must not matter
    torch.manual_seed(99)
    _assert_same_state((whole, callback), _finish(case, start, end))


def test_another_process_resumes_to_the_bit(tmp_path: Path) -> None:
    case, start, end = "forecast", tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    whole, _ = _make(case)
    whole.learn(6 * ROLLOUT)
    interrupted, _ = _make(case)
    interrupted.learn(6 * ROLLOUT, callback=_StateAt(start, 3 * ROLLOUT))
    command = f"from tests.agents.test_training_state import _finish; _finish({case!r}, {str(start)!r}, {str(end)!r})"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[2], timeout=600)
    finished, _ = _make(case)
    load_training_state(finished, end)
    _assert_same_state((whole, None), (finished, None))


class _StateAt(BaseCallback):
    """Writes the state once and lets the run continue, as if it were killed at any later time."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__()
        self.path, self.at = path, at

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.at:
            save_training_state(self.model, self.path)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: _make("ppo"), r"'ForecastPPO', 64\), the agent is of \(2, 'PPO', 64\)"),
        (lambda: _make("forecast", n_envs=32), r"'ForecastPPO', 64\), the agent is of \(2, 'ForecastPPO', 32\)"),
        (lambda: _make("forecast", pool=900), "another pool of tasks"),
        (lambda: _make("no anchor"), "another anchor_coef"),
        (lambda: _make("wide"), "another network: .*size mismatch"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(other: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model, _ = _make("forecast")
    model.learn(ROLLOUT)
    save_training_state(model, path)
    with pytest.raises(ValueError, match=message):
        load_training_state(other()[0], path)


def test_a_state_of_plain_ppo_is_none_of_one_with_the_callback(tmp_path: Path) -> None:
    plain, _ = _make("ppo")
    save_training_state(plain, tmp_path / "state.safetensors")
    model, callback = _make("ppo with the callback")
    with pytest.raises(ValueError, match="only one of the two"):
        load_training_state(model, tmp_path / "state.safetensors", callback)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a state", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_state_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no training state"):
        load_training_state(_make("ppo")[0], path)


def test_no_state_is_taken_within_a_rollout(tmp_path: Path) -> None:
    model, _ = _make("ppo")
    model.learn(2 * ROLLOUT, callback=lambda locals_, _: locals_["n_steps"] < 5)
    with pytest.raises(ValueError, match="5 of 16 steps of a rollout are done"):
        training_state(model)
    # The callback that keeps states knows, and leaves the last good one.
    path = tmp_path / "state.safetensors"
    model, _ = _make("ppo")
    model.learn(2 * ROLLOUT, callback=CallbackList([TrainingStateCallback(path, 1), ConvertCallback(lambda *_: False)]))
    assert not path.exists()


def test_an_environment_without_a_state_begins_new_episodes(tmp_path: Path) -> None:
    def make() -> ForecastPPO:
        env = DummyVecEnv([lambda: Bridge() for _ in range(8)])
        settings = ForecastSettings(**SIZES, anchor_coef=0.0)
        return ForecastPPO(
            "MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu", settings=settings
        )

    model, path = make(), tmp_path / "state.safetensors"
    model.learn(8 * 32 * 2)
    save_training_state(model, path)
    resumed = make()
    with pytest.warns(UserWarning, match="begins new episodes"):
        load_training_state(resumed, path)
    assert resumed.num_timesteps == 8 * 32 * 2
    assert np.array_equal(memory_of(resumed).task_id, memory_of(model).task_id)
    resumed.learn(8 * 32, reset_num_timesteps=False)
    assert len(memory_of(resumed).task_id) > len(memory_of(model).task_id)
