"""The batched engine as a native ``gymnasium.vector.VectorEnv``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.gridworld.engine import GridEngine, StepResult
from envs.gridworld.world import GridWorld
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, TASK_ID


class GridVectorEnv(VectorEnv[Any, Any, Any]):
    """Gridworld tasks from a pool, with Gymnasium's conventions: an episode that ends is reset in the same step, the
    horizon is a truncation, ``final_obs`` and ``final_info`` describe the episodes that ended, a mask ``_key`` says
    which entries of ``key`` are meant. ``info["fatal_probability"]``, shape (num_envs, n_actions), belongs to the
    observations returned with it.

    The arguments are those of :class:`envs.GridVecEnv`; ``reset(seed=...)`` gives another seed.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self, world: GridWorld, task_ids: NDArray[np.int64], num_envs: int, episodes_per_task: int = 1, seed: int = 0
    ) -> None:
        self.engine = GridEngine(world, task_ids, num_envs, episodes_per_task, seed)
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0.0, 1.0, (world.observation.dimension,), dtype=np.float32)
        self.single_action_space = spaces.Discrete(world.rules.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start a new episode in every environment; one seed, of the queue that all environments share.

        :raises ValueError: a list of seeds, or an option
        """
        if isinstance(seed, list):
            raise ValueError("the environments share one queue of tasks: give one seed, not a list")
        if options:
            raise ValueError(f"unknown reset option {sorted(options)[0]!r}: there are none")
        if seed is not None:
            self.engine.seed(seed)
        return self.engine.reset(), {FATAL_PROBABILITY: self.engine.fatal_probability()}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        step = self.engine.step(actions)
        info: dict[str, Any] = {FATAL_PROBABILITY: self.engine.fatal_probability()}
        if step.ended.size:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for env, last in zip(step.ended.tolist(), step.last_observation, strict=True):
                final_obs[env] = last
            info |= {"final_obs": final_obs, "final_info": self._final_info(step)}
            info |= {"_final_obs": step.done.copy(), "_final_info": step.done.copy()}
        return self.engine.observe(), step.reward, step.done & ~step.horizon, step.horizon, info

    def _final_info(self, step: StepResult) -> dict[str, Any]:
        info: dict[str, Any] = {}
        ends = {TASK_ID: step.task_id, FAILURE: step.failure, "is_success": step.success, RISK: step.risk}
        for key, values in ends.items():
            info[key] = np.zeros(self.num_envs, dtype=values.dtype)
            info[key][step.ended] = values
            info[f"_{key}"] = step.done.copy()
        return info
