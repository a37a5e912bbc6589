"""The batched engine as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from envs.gridworld.engine import GridEngine
from envs.gridworld.exact_risk import LogPolicy, exact_risk
from envs.gridworld.world import GridWorld
from rl_forecast.tasks import FAILURE, RISK, TASK_ID


class GridVecEnv(VecEnv):
    """Gridworld tasks from a pool, one queue for all environments.

    The horizon is part of the task, so no value is bootstrapped beyond it (``TimeLimit.truncated`` is false). The last
    ``info`` of an episode has ``task_id``, ``failure``, ``is_success``, ``risk``, and Monitor's ``episode``.

    :param task_ids: shape (n_tasks,), pool of tasks
    :param episodes_per_task: how often a task is given out in a row
    :param seed: seed of the queue's shuffling and of the slips
    :raises ValueError: the pool is empty, or ``episodes_per_task`` is not positive

    >>> from envs import RecolorWorld
    >>> env = GridVecEnv(RecolorWorld(), np.arange(1_000), num_envs=64)
    >>> env.reset().shape, env.fatal_probability().shape
    ((64, 118), (64, 3))
    >>> observation, reward, done, infos = env.step(np.full(64, 2))  # everybody forward
    """

    def __init__(
        self, world: GridWorld, task_ids: NDArray[np.int64], num_envs: int, episodes_per_task: int = 1, seed: int = 0
    ) -> None:
        self.engine = GridEngine(world, task_ids, num_envs, episodes_per_task, seed)
        self._started = time.time()
        self.render_mode = None
        super().__init__(
            num_envs,
            spaces.Box(0.0, 1.0, shape=(world.observation.dimension,), dtype=np.float32),
            spaces.Discrete(world.rules.n_actions),
        )

    @property
    def world(self) -> GridWorld:
        return self.engine.world

    def reset(self) -> VecEnvObs:
        self._reset_seeds()
        self._reset_options()
        return self.engine.reset()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        step = self.engine.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        elapsed = round(time.time() - self._started, 6)
        for i, env in enumerate(step.ended.tolist()):
            infos[env] = {
                TASK_ID: int(step.task_id[i]),
                FAILURE: bool(step.failure[i]),
                "is_success": bool(step.success[i]),
                RISK: float(step.risk[i]),
                "terminal_observation": step.last_observation[i],
                "TimeLimit.truncated": False,
                "episode": {"r": float(step.episode_return[i]), "l": int(step.episode_length[i]), "t": elapsed},
            }
        return self.engine.observe(), step.reward, step.done, infos

    def fatal_probability(self) -> NDArray[np.float32]:
        """P(failure at the next step | state, action) in the current states, shape (num_envs, n_actions)."""
        return self.engine.fatal_probability().astype(np.float32)

    def log_failure_probability(self, task_ids: NDArray[np.int64], log_policy: LogPolicy) -> torch.Tensor:
        """Exact log failure probability of tasks of this world, of the pool or not, as :func:`exact_risk` gives it."""
        return exact_risk(self.world, self.world.tasks(task_ids), log_policy).log_p

    def state_dict(self) -> dict[str, Any]:
        return self.engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` instead of :meth:`reset`; ``ValueError`` for another world, pool or size."""
        self.engine.load_state_dict(state)

    def close(self) -> None:
        pass

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Reseed the queue of tasks and the slips; ``None`` leaves them as they are."""
        if seed is not None:
            self.engine.seed(seed)
        return [seed] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        value = getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        # All environments share it.
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """As if by a ``Monitor`` and nothing else: infos have ``episode``."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
