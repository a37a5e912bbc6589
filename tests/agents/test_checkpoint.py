"""A run that stops and goes on is the run that never stopped, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents.baselines import LagrangianPPO
from agents.callbacks import TrainingStateCallback
from agents.forecast_ppo import ForecastPPO
from agents.training_state import load_training_state, save_training_state, training_state
from envs import GridVecEnv, RecolorWorld, SlipWorld
from tests.agents.contract_env import Bridge

N_ENVS, N_STEPS = 64, 16
ROLLOUT = N_ENVS * N_STEPS
TERM: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 500, "n_partitions": 8}
CASES: dict[str, tuple[type[PPO], str, dict[str, Any]]] = {
    "ppo": (PPO, "recolor", {}),
    "forecast": (ForecastPPO, "recolor", TERM | {"anchor_coef": 10.0, "episodes_per_task": 2}),
    "slip, normalised": (ForecastPPO, "slip normalised", TERM | {"n_eval": 10, "n_deploy": 40, "tail_k": 2}),
    "no anchor": (ForecastPPO, "recolor", TERM | {"episodes_per_task": 2}),
    "wide": (ForecastPPO, "recolor", TERM | {"anchor_coef": 10.0, "policy_kwargs": {"net_arch": [32]}}),
    "lagrangian": (LagrangianPPO, "recolor", TERM | {"risk_limit": 1e-3}),
}


def _make(case: str, n_envs: int = N_ENVS, pool: int = 1000) -> PPO:
    """The agent of a case, as a new process would make it."""
    algorithm, world, settings = CASES[case]
    kind = SlipWorld() if world.startswith("slip") else RecolorWorld(rare_probability=0.1)
    repeats = settings.get("episodes_per_task", 1)
    env: VecEnv = GridVecEnv(kind, np.arange(pool), n_envs, repeats, seed=2)
    if world.endswith("normalised"):
        env = VecNormalize(env)
    return algorithm(
        "MlpPolicy",
        env,
        n_steps=N_STEPS,
        batch_size=128,
        n_epochs=2,
        seed=3,
        device="cpu",
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        **{"policy_kwargs": {"net_arch": [16]}} | settings,
    )


def _finish(case: str, start: Path, end: Path) -> PPO:
    """Go on from one file with a new agent and write another; also what the other process runs."""
    model = _make(case)
    load_training_state(model, start)
    model.learn(6 * ROLLOUT - model.num_timesteps, reset_num_timesteps=False)
    save_training_state(model, end)
    return model


def _assert_same_state(model: PPO, other: PPO) -> None:
    tensors, values = training_state(model)
    others, other_values = training_state(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    # Where a learn began, and seconds on the clock, are not part of what is learned.
    for content in (values, other_values):
        del content["run/_num_timesteps_at_start"]
        content["run/ep_info_buffer"] = [(info["r"], info["l"]) for info in content["run/ep_info_buffer"]]
    assert values == other_values


@pytest.mark.parametrize("case", ["ppo", "forecast", "slip, normalised", "lagrangian"])
def test_resumed_is_uninterrupted(case: str, tmp_path: Path) -> None:
    whole = _make(case)
    whole.learn(6 * ROLLOUT)
    if isinstance(whole, ForecastPPO):
        assert whole._term.grad_norms, "the term acted, or this test says little"

    # A learn of the same length, stopped by the fourth rollout's first step; the file is of the third's end.
    start, end = tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    interrupted = _make(case)
    stop = lambda locals_, _: locals_["self"].num_timesteps <= 3 * ROLLOUT  # noqa: E731
    keep = TrainingStateCallback(start, ROLLOUT)
    interrupted.learn(6 * ROLLOUT, callback=CallbackList([keep, ConvertCallback(stop)]))
    assert interrupted.num_timesteps == 3 * ROLLOUT + N_ENVS
    np.random.seed(99)  # noqa: NPY002 - whatever happens in between must not matter
    torch.manual_seed(99)

    resumed = _finish(case, start, end)
    _assert_same_state(whole, resumed)


def test_another_process_goes_on_to_the_bit(tmp_path: Path) -> None:
    case, start, end = "forecast", tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    whole = _make(case)
    whole.learn(6 * ROLLOUT)
    interrupted = _make(case)
    interrupted.learn(6 * ROLLOUT, callback=_StateAt(start, 3 * ROLLOUT))
    command = f"from tests.agents.test_checkpoint import _finish; _finish({case!r}, {str(start)!r}, {str(end)!r})"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[2], timeout=600)
    finished = _make(case)
    load_training_state(finished, end)
    _assert_same_state(whole, finished)


class _StateAt(BaseCallback):
    """Writes the state once and lets the run go on, as if it were killed at any later time."""

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
        (lambda: _make("ppo"), r"'ForecastPPO', 64\), the agent is of \(1, 'PPO', 64\)"),
        (lambda: _make("forecast", n_envs=32), r"'ForecastPPO', 64\), the agent is of \(1, 'ForecastPPO', 32\)"),
        (lambda: _make("forecast", pool=900), "another pool of tasks"),
        (lambda: _make("no anchor"), "another anchor_coef"),
        (lambda: _make("wide"), "another network: .*size mismatch"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(other: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model = _make("forecast")
    model.learn(ROLLOUT)
    save_training_state(model, path)
    with pytest.raises(ValueError, match=message):
        load_training_state(other(), path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a state", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_state_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no training state"):
        load_training_state(_make("ppo"), path)


def test_no_state_is_taken_within_a_rollout(tmp_path: Path) -> None:
    model = _make("ppo")
    model.learn(2 * ROLLOUT, callback=lambda locals_, _: locals_["n_steps"] < 5)
    with pytest.raises(ValueError, match="5 of 16 steps of a rollout are done"):
        training_state(model)
    # The callback that keeps states knows, and leaves the last good one.
    path = tmp_path / "state.safetensors"
    model = _make("ppo")
    model.learn(2 * ROLLOUT, callback=CallbackList([TrainingStateCallback(path, 1), ConvertCallback(lambda *_: False)]))
    assert not path.exists()


def test_an_environment_without_a_state_begins_new_episodes(tmp_path: Path) -> None:
    def make() -> ForecastPPO:
        env = DummyVecEnv([lambda: Bridge() for _ in range(8)])
        return ForecastPPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu", **TERM)

    model, path = make(), tmp_path / "state.safetensors"
    model.learn(8 * 32 * 2)
    save_training_state(model, path)
    resumed = make()
    with pytest.warns(UserWarning, match="begins new episodes"):
        load_training_state(resumed, path)
    assert resumed.num_timesteps == 8 * 32 * 2
    assert np.array_equal(resumed.known_task_ids, model.known_task_ids)
    resumed.learn(8 * 32, reset_num_timesteps=False)
    assert len(resumed.known_task_ids) > len(model.known_task_ids)
