"""check_risk_env: sound environments pass, and every way of breaking the contract is named."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import check_risk_env
from tests.agents.contract_env import Bridge
from tests.envs.test_risk_wrapper import costly, lake, lava


@pytest.mark.parametrize("make", [lake, costly, lambda: lava("MiniGrid-LavaGapS5-v0")])
def test_wrapped_environments_pass(make: Any) -> None:
    check_risk_env(make(), n_episodes=30)


class _Sound(Bridge):
    """The contract environment with a common failure, so that it is seen."""

    @staticmethod
    def slipperiness(task_id: int) -> float:
        return 0.05 + (task_id % 10) / 50


class _Edited(_Sound):
    """Subclasses change what the contract says."""

    def edit(self, info: dict[str, Any]) -> dict[str, Any]:
        return info

    def step(self, action: np.int64) -> Any:
        *rest, info = super().step(action)
        return *rest, self.edit(info)


def _edited(**changes: Any) -> gymnasium.Env[Any, Any]:
    """Entries replaced where they occur; ``None`` removes one."""

    class Changed(_Edited):
        def edit(self, info: dict[str, Any]) -> dict[str, Any]:
            changed = {key: changes.get(key, value) for key, value in info.items()}
            return {key: value for key, value in changed.items() if value is not None}

    return Changed()


def test_the_sound_one_passes() -> None:
    check_risk_env(_Sound(), n_episodes=200)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fatal_probability": None}, "'fatal_probability' is missing.*'table' or 'lookahead'"),
        ({"fatal_probability": np.zeros(3, np.float32)}, r"has shape \(3,\), one entry per action is \(2,\)"),
        ({"fatal_probability": np.zeros(2, np.int64)}, "has dtype int64"),
        ({"fatal_probability": np.array([0.0, 1.5])}, r"leaves \[0, 1\]"),
        ({"fatal_probability": np.array([0.0, 0.9])}, r"'risk' is"),
        ({"task_id": None}, r"'task_id' \(int\) is missing from the last info"),
        ({"risk": None}, r"'risk' \(float\) is missing"),
        ({"task_id": 1.5}, "must be a non-negative integer"),
        ({"failure": 0.5}, "'failure' must be a bool"),
        ({"failure": False}, "announced"),
    ],
)
def test_every_breach_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_risk_env(_edited(**changes), n_episodes=200)


class _Silent(_Sound):
    def _info(self) -> dict[str, Any]:
        return {"fatal_probability": np.zeros(2, np.float32)}


class _Alarmed(_Sound):
    def _info(self) -> dict[str, Any]:
        return {"fatal_probability": np.array([0.0, 1.0], np.float32)}

    def step(self, action: np.int64) -> Any:
        self.alarms = int(action) + (self.alarms if self.position else 0)
        *rest, info = super().step(action)
        return *rest, info | ({"risk": float(self.alarms)} if "risk" in info else {})


class _Loose(_Sound):
    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self.position = int(self.np_random.integers(3))
        return self._observe(), self._info()


class _Unseeded(_Sound):
    noise = np.random.default_rng(0)

    def step(self, action: np.int64) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(self.noise.random()), *rest


class _Endless(_Sound):
    def step(self, action: np.int64) -> Any:
        return super().step(np.int64(0))[0], 0.0, False, False, self._info()


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (_Silent(), "failed though all its actions had fatal probability 0"),
        (_Alarmed(), "fatal probability 1 was taken and the episode was no failure"),
        (_Loose(), "began differently with another seed"),
        (_Unseeded(), "with the same seed and actions: its noise does not come from"),
        (_Endless(), "did not end within 100 steps"),
        (gymnasium.make("Pendulum-v1"), "Discrete action space"),
    ],
)
def test_environments_that_contradict_themselves_are_named(env: gymnasium.Env[Any, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_risk_env(env, n_episodes=200, max_steps=100)


def test_a_method_says_the_same_as_an_info() -> None:
    class Asked(_Edited):
        wrong = 1.0

        def edit(self, info: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in info.items() if key != "fatal_probability"}

        def fatal_probability(self) -> np.ndarray:
            return np.array([0.0, self.wrong * self.slipperiness(self.task_id)], np.float32)

        def reset(self, **kwargs: Any) -> Any:
            observation, info = super().reset(**kwargs)
            return observation, self.edit(info)

    check_risk_env(Asked(), n_episodes=200)
    Asked.wrong = 0.5
    with pytest.raises(ValueError, match="'risk' is"):
        check_risk_env(Asked())


def test_what_cannot_be_seen_is_a_warning() -> None:
    class Safe(Bridge):
        @staticmethod
        def slipperiness(task_id: int) -> float:
            return 1e-6

    class Deaf(_Sound):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            return super().reset(seed=seed)

    with pytest.warns(UserWarning, match="chosen tasks cannot be evaluated"):
        check_risk_env(Deaf(), n_episodes=200)
    with pytest.warns(UserWarning, match=r"No failure in 20|looked exactly alike"):
        check_risk_env(Safe(), n_episodes=20)
    with pytest.warns(UserWarning, match="All 200 episodes played task"):
        check_risk_env(_Sound(n_tasks=1), n_episodes=200)
