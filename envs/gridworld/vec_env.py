"""The batched engine: thousands of tasks stepped at once in numpy, as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from envs.gridworld.tasks import EMPTY
from rl_forecast.tasks import FAILURE, RISK, TASK_ID

if TYPE_CHECKING:
    import gymnasium as gym
    from numpy.typing import NDArray
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

    from envs.gridworld.recolor import RecolorWorld

__all__ = ["GridVecEnv", "TaskQueue"]


class TaskQueue:
    """Endless shuffled passes over a pool of tasks, each task handed out several times in a row.

    One queue serves all environments, so the repetitions of a task run side by side and end within few rollouts.

    :param n_tasks: size of the pool
    :param repeats: how often a task is handed out in a row
    :param rng: generator that shuffles each pass
    """

    def __init__(self, n_tasks: int, repeats: int, rng: np.random.Generator) -> None:
        self._repeats = repeats
        self._rng = rng
        self._n_tasks = n_tasks
        self._pass: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._next = 0

    def take(self, count: int) -> NDArray[np.intp]:
        """The next rows of the pool, shape (count,)."""
        while self._pass.size - self._next < count:
            fresh = np.repeat(self._rng.permutation(self._n_tasks), self._repeats)
            self._pass, self._next = np.concatenate([self._pass[self._next :], fresh]), 0
        rows = self._pass[self._next : self._next + count]
        self._next += count
        return rows


class GridVecEnv(VecEnv):
    """Gridworld tasks from a pool, one queue for all environments.

    An episode that reaches the horizon ends for good: the horizon is part of the task, so no value is bootstrapped
    beyond it (``TimeLimit.truncated`` is false). The last ``info`` of an episode carries ``task_id``, ``failure``,
    ``is_success``, ``risk``, and Monitor's ``episode``. The risk of the current states comes as arrays from
    :meth:`fatal_probability`.

    :param world: the world
    :param task_ids: shape (n_tasks,), pool of tasks
    :param num_envs: number of environments
    :param episodes_per_task: how often a task is handed out in a row
    :param seed: seed of the queue's shuffling
    """

    def __init__(
        self,
        world: RecolorWorld,
        task_ids: NDArray[np.int64],
        num_envs: int,
        episodes_per_task: int = 1,
        seed: int = 0,
    ) -> None:
        if len(task_ids) == 0:
            raise ValueError("the pool of tasks is empty")
        if episodes_per_task < 1:
            raise ValueError(f"episodes_per_task must be at least 1, it is {episodes_per_task}")
        self.world = world
        self.tasks = world.tasks(task_ids)
        self.episodes_per_task = episodes_per_task
        self._queue = TaskQueue(len(self.tasks), episodes_per_task, np.random.default_rng(seed))
        self._row = np.zeros(num_envs, dtype=np.intp)
        self._state = np.zeros(num_envs, dtype=np.intp)
        self._step = np.zeros(num_envs, dtype=np.intp)
        self._return = np.zeros(num_envs)
        self._entered = world.rules.entered_cell
        self._started = time.time()
        self.render_mode = None
        super().__init__(
            num_envs,
            spaces.Box(0.0, 1.0, shape=(world.observation.dimension,), dtype=np.float32),
            spaces.Discrete(world.rules.n_actions),
        )

    def reset(self) -> VecEnvObs:
        """Start a new episode in every environment.

        :return: shape (num_envs, dimension)
        """
        self._begin(np.arange(self.num_envs))
        self._reset_seeds()
        self._reset_options()
        return self.world.observation.encode(self.tasks, self._row, self._state)

    def _begin(self, envs: NDArray[np.intp]) -> None:
        self._row[envs] = self._queue.take(len(envs))
        self._state[envs] = self.tasks.start_state[self._row[envs]]
        self._step[envs] = 0
        self._return[envs] = 0.0

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Keep the actions, shape (num_envs,), for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment; those that end begin their next task."""
        rules = self.world.rules
        self._state = rules.move[self._state, self._actions]
        self._step += 1
        cell = rules.cell[self._state]
        tile = self.tasks.tile[self._row, cell]
        failure = tile != EMPTY
        success = cell == self.tasks.goal_cell[self._row]
        reward = success.astype(np.float32)
        if self.world.failure_cost:
            reward -= self.world.failure_cost * failure
        self._return += reward
        done = failure | success | (self._step >= self.world.horizon)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(done)
        if ended.size:
            self._end(ended, failure, success, infos)
        observation = self.world.observation.encode(self.tasks, self._row, self._state)
        return observation, reward, done, infos

    def _end(
        self,
        ended: NDArray[np.intp],
        failure: NDArray[np.bool_],
        success: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        last = self.world.observation.encode(self.tasks, self._row[ended], self._state[ended])
        elapsed = round(time.time() - self._started, 6)
        for i, env in enumerate(ended.tolist()):
            infos[env] = {
                TASK_ID: int(self.tasks.task_id[self._row[env]]),
                FAILURE: bool(failure[env]),
                "is_success": bool(success[env]),
                # Motion is deterministic: an executed action either fails or does not, so its risk is 0 or 1.
                RISK: float(failure[env]),
                "terminal_observation": last[i],
                "TimeLimit.truncated": False,
                "episode": {"r": float(self._return[env]), "l": int(self._step[env]), "t": elapsed},
            }
        self._begin(ended)

    def fatal_probability(self) -> NDArray[np.float32]:
        """P(failure at the next step | state, action) in the states that the current observations show.

        :return: shape (num_envs, n_actions), 0 or 1 in this deterministic world
        """
        tile = self.tasks.tile[self._row[:, None], self._entered[self._state]]
        fatal: NDArray[np.float32] = (tile != EMPTY).astype(np.float32)
        return fatal

    def close(self) -> None:
        """Nothing to release."""

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Reseed the queue of tasks; dynamics draw no random numbers.

        :param seed: ``None`` leaves the queue as it is
        """
        if seed is not None:
            self._queue = TaskQueue(len(self.tasks), self.episodes_per_task, np.random.default_rng(seed))
        return [seed] * self.num_envs

    def _indices(self, indices: VecEnvIndices) -> Iterable[int]:
        return self._get_indices(indices)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The engine's attribute, once per environment asked for."""
        value = getattr(self, attr_name)
        return [value for _ in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the engine's attribute; it is shared by all environments."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call the engine's method once; every environment asked for gets the same result."""
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No environment is wrapped: episodes report ``episode`` by themselves."""
        return [False for _ in self._indices(indices)]
