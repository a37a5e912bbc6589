"""A small environment that follows the risk contract through infos, for the agents' tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


class Bridge(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Cross a bridge of ``length`` planks; action 1 runs two at once, but falls with the task's slipperiness.

    A task is an integer; its slipperiness is a fixed function of it. ``fatal_probability`` is a true float here.
    """

    def __init__(self, length: int = 6, n_tasks: int = 500, with_contract: bool = True) -> None:
        self.length, self.n_tasks, self.with_contract = length, n_tasks, with_contract
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, shape=(2,), dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.task_id = 0

    @staticmethod
    def slipperiness(task_id: int) -> float:
        return float(10 ** -(1 + (task_id * 7919 % 1000) / 250))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        chosen = (options or {}).get("task_id")
        self.task_id = int(self.np_random.integers(self.n_tasks)) if chosen is None else chosen
        self.position = 0
        self._risk = 0.0
        return self._observe(), self._info()

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self.position / (self.length + 1), -np.log10(self.slipperiness(self.task_id)) / 6], np.float32)

    def _info(self) -> dict[str, Any]:
        if not self.with_contract:
            return {}
        return {"fatal_probability": np.array([0.0, self.slipperiness(self.task_id)], np.float32)}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        fell = bool(action == 1 and self.np_random.random() < self.slipperiness(self.task_id))
        self._risk += self.slipperiness(self.task_id) if action == 1 else 0.0
        self.position = min(self.length, self.position + 1 + int(action == 1))
        across = self.position == self.length and not fell
        info = self._info()
        if self.with_contract and (fell or across):
            info |= {"task_id": self.task_id, "failure": fell, "is_success": across, "risk": self._risk}
        return self._observe(), float(across) - 0.05, fell or across, False, info
