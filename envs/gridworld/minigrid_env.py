"""The single Gymnasium environment: MiniGrid's grid, objects and rendering around the world's table of moves."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLORS
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Goal, Lava, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from envs.gridworld.engine import action_fatality, executed_moves
from envs.gridworld.families import FAMILIES
from envs.gridworld.observation import VIEW_SIZE
from envs.gridworld.rules import EMPTY, LAVA
from envs.gridworld.world import GridWorld
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, SPLITS, TASK_ID

# The single task of an environment is a batch of one.
_ROW = np.zeros(1, dtype=np.intp)


class RecoloredLava(Lava):
    """Lava of another colour, which MiniGrid's ``Lava`` cannot draw. It encodes as lava of its colour."""

    def __init__(self, color: str = "green") -> None:
        WorldObj.__init__(self, "lava", color)

    def render(self, img: NDArray[np.uint8]) -> None:  # type: ignore[override]  # annotated wrongly in MiniGrid
        """MiniGrid's picture on a ground of this lava's colour; its waves are black."""
        super().render(img)
        img[img.any(axis=2)] = [int(0.75 * channel) for channel in COLORS[self.color]]


class RiskGridEnv(MiniGridEnv):
    """## Description

    One task of a risk gridworld at a time, with MiniGrid's grid, objects and rendering. The families, their hazards
    and their rare modes are described in :mod:`envs.gridworld.families`.

    A task is an integer: ``reset(options={"task_id": i})`` plays task ``i``, the same on every machine. Without the
    option a task of the environment's split is drawn. ``envs.REGISTERED`` lists the ids.

    ## Action Space

    `Recolor`, `Mixed`, `Control`, `Shift`: 0 left, 1 right, 2 forward, as in MiniGrid.
    `Slip`, `Gale`, `Bridge`: 0 east, 1 south, 2 west, 3 north, 4 stay; a chosen action may slip.

    ## Observation Space

    Numbers in [0, 1], 118 or 119 of them in a room of 5x5 cells, see :mod:`envs.gridworld.observation`.

    ## Rewards

    ``goal_reward`` of the task at the goal (1 but in `Bridge`), ``-failure_cost`` in lava, 0 otherwise.

    ## Termination

    The episode terminates in lava (failure) and at the goal (success); it is truncated at the horizon.

    ## Risk contract

    ``fatal_probability()``, also in every ``info``; the last ``info`` has ``task_id``, ``failure``, ``is_success`` and
    ``risk``.

    :param family: name of the family, or a world, whose settings are then fixed
    :param split: split from which tasks are drawn when none is asked for
    :param max_steps: horizon, that of the family if ``None``
    :param settings: settings of the family's world, and arguments of ``MiniGridEnv`` such as ``render_mode``
    :raises ValueError: unknown family, split or setting, or a setting out of range
    """

    def __init__(
        self, family: str | GridWorld = "recolor", split: str = "train", max_steps: int | None = None, **settings: Any
    ) -> None:
        self.world = family if isinstance(family, GridWorld) else _make_world(family, max_steps, settings)
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        self.split = SPLITS[split]
        self._requested: int | None = None
        if not self.world.rules.turning:
            # MiniGrid highlights its own view, which is not the one these agents have.
            settings.setdefault("highlight", False)
        size = self.world.size + 2
        super().__init__(
            mission_space=MissionSpace(mission_func=self._mission),
            width=size,
            height=size,
            max_steps=self.world.horizon,
            see_through_walls=True,
            agent_view_size=VIEW_SIZE,
            **settings,
        )
        #: MiniGrid's own observation space, for :class:`MiniGridObservation`.
        self.minigrid_observation_space = self.observation_space
        self.action_space = spaces.Discrete(self.world.rules.n_actions)
        self.observation_space = spaces.Box(0.0, 1.0, shape=(self.world.observation.dimension,), dtype=np.float32)

    @property
    def task_id(self) -> int:
        return int(self._task.task_id[0])

    def reset(  # type: ignore[override]  # MiniGrid's type is an unbound variable
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; ``{"task_id": i}`` plays task i, the seed draws tasks and slips.

        :raises ValueError: the task id is not a non-negative integer, or an option is unknown
        """
        unknown = set(options or {}) - {TASK_ID}
        if unknown:
            raise ValueError(f"unknown reset option {sorted(unknown)[0]!r}: the only one is {TASK_ID!r}")
        requested = (options or {}).get(TASK_ID)
        if requested is not None and (isinstance(requested, bool) or int(requested) != requested or requested < 0):
            raise ValueError(f"task_id must be a non-negative integer, it is {requested!r}")
        self._requested = None if requested is None else int(requested)
        observation, _ = super().reset(seed=seed)
        return observation, {TASK_ID: self.task_id, FATAL_PROBABILITY: self.fatal_probability()}

    def step(  # type: ignore[override]
        self, action: Any
    ) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        self.step_count += 1
        if int(action) < self.world.rules.n_actions:  # MiniGrid's others (pick up, toggle, ...) do nothing
            self._risk += float(action_fatality(self.world, self._task, _ROW, self._state)[0, action])
            executed = executed_moves(self.world, self._task, _ROW, np.array([int(action)]), self.np_random)
            self._place(self.world.rules.move[self._state, executed])
        cell = self.world.rules.cell[self._state]
        failure = bool(self._task.hazard[0, cell[0]])
        success = bool(self._task.goal_cell[0] == cell[0])
        reward = float(self._task.goal_reward[0]) if success else -self.world.failure_cost if failure else 0.0
        terminated = failure or success
        truncated = not terminated and self.step_count >= self.max_steps
        info: dict[str, Any] = {FATAL_PROBABILITY: self.fatal_probability()}
        if terminated or truncated:
            info |= {TASK_ID: self.task_id, FAILURE: failure, "is_success": success, RISK: self._risk}
        if self.render_mode == "human":
            self.render()
        return self.gen_obs(), reward, terminated, truncated, info

    def fatal_probability(self) -> NDArray[np.float32]:
        """P(failure at the next step | this state, action), averaged over slips, shape (n_actions,)."""
        return np.asarray(action_fatality(self.world, self._task, _ROW, self._state)[0], dtype=np.float32)

    def gen_obs(self) -> NDArray[np.float32]:
        return np.asarray(self.world.observation.encode(self._task, _ROW, self._state)[0])

    def minigrid_observation(self) -> dict[str, Any]:
        """MiniGrid's own observation of the current state: ``image``, ``direction``, ``mission``."""
        observation: dict[str, Any] = super().gen_obs()
        return observation

    def _gen_grid(self, width: int, height: int) -> None:
        task_id = self._requested
        if task_id is None:
            task_id = int(self.np_random.integers(self.split.start, self.split.stop))
        self._task = self.world.tasks(np.array([task_id]))
        self._risk = 0.0
        size = self.world.size
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for cell, tile in enumerate(self._task.tile[0, :-1].tolist()):
            if tile != EMPTY:
                self.put_obj(Lava() if tile == LAVA else RecoloredLava(), cell % size + 1, cell // size + 1)
        goal = int(self._task.goal_cell[0])
        self.put_obj(Goal(), goal % size + 1, goal // size + 1)
        self._place(self._task.start_state)
        self.mission = self._mission()

    def _place(self, state: NDArray[np.intp]) -> None:
        """Put the agent where the table of moves says, shape (1,)."""
        self._state = state
        rules = self.world.rules
        cell = int(rules.cell[state[0]])
        self.agent_pos = (cell % rules.size + 1, cell // rules.size + 1)
        self.agent_dir = int(rules.heading[state[0]])

    @staticmethod
    def _mission() -> str:
        return "avoid the lava and get to the goal"


def _make_world(family: str, horizon: int | None, settings: dict[str, Any]) -> GridWorld:
    """The family's world; its settings are taken out of ``settings``."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}")
    world = FAMILIES[family]
    own = {f.name: settings.pop(f.name) for f in fields(world) if f.name in settings}
    unknown = set(settings) - set(inspect.signature(MiniGridEnv).parameters)
    if unknown:
        names = ", ".join(f.name for f in fields(world))
        raise ValueError(f"unknown setting {sorted(unknown)[0]!r} of family {family!r}: choose among {names}")
    if horizon is not None:
        own["horizon"] = horizon
    return world(**own)


class MiniGridObservation(gymnasium.ObservationWrapper[dict[str, Any], Any, NDArray[np.float32]]):
    """MiniGrid's own observation of a :class:`RiskGridEnv`, on top of which MiniGrid's wrappers can be put."""

    def __init__(self, env: gymnasium.Env[NDArray[np.float32], Any]) -> None:
        super().__init__(env)
        self.observation_space = self.env.get_wrapper_attr("minigrid_observation_space")

    def observation(self, observation: NDArray[np.float32]) -> dict[str, Any]:
        """The current state as MiniGrid shows it."""
        del observation  # the vector of the same state
        shown: dict[str, Any] = self.env.get_wrapper_attr("minigrid_observation")()
        return shown
