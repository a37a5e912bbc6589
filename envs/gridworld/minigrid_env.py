"""The single Gymnasium environment: MiniGrid's own grid, objects, moves and rendering."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLORS
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Goal, Lava, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.rendering import fill_coords, point_in_line, point_in_rect
from numpy.typing import NDArray

from envs.gridworld.observation import CHANNELS, VIEW_SIZE, tile_features
from envs.gridworld.recolor import RecolorWorld
from envs.gridworld.tasks import EMPTY, LAVA, RECOLORED_LAVA
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, SPLITS, TASK_ID

__all__ = ["MiniGridObservation", "RecolorEnv", "RecoloredLava"]


class RecoloredLava(Lava):
    """Lava of another colour.

    MiniGrid's ``Lava`` is always drawn orange and its ``WorldObj.decode`` forgets the colour, so the recoloured hazard
    is an object of its own. It encodes as lava of its colour.

    :param color: a key of ``minigrid.core.constants.COLORS``
    """

    def __init__(self, color: str = "green") -> None:
        WorldObj.__init__(self, "lava", color)

    def render(self, img: NDArray[np.uint8]) -> None:  # type: ignore[override]  # annotated wrongly in MiniGrid
        """Draw the tile: waves on a ground of the lava's colour."""
        ground = tuple(int(0.75 * channel) for channel in COLORS[self.color])
        fill_coords(img, point_in_rect(0, 1, 0, 1), ground)
        for y in (0.3, 0.5, 0.7):
            for left, right, rise in ((0.1, 0.3, 0.1), (0.3, 0.5, -0.1), (0.5, 0.7, 0.1), (0.7, 0.9, -0.1)):
                start = y if rise > 0 else y + 0.1
                fill_coords(img, point_in_line(left, start, right, start + rise, r=0.03), (0, 0, 0))


class RecolorEnv(MiniGridEnv):
    """## Description

    A room of 5x5 cells with 2-5 lava tiles, at random. The agent has to reach the goal and avoid the lava. In a small
    fraction of tasks all lava is green instead of red: a rare mode that an agent trained on red lava half-recognises.
    See :mod:`envs.gridworld.recolor`.

    ## Task ids

    A task is an integer: ``reset(options={"task_id": i})`` plays task ``i``, the same on every machine. Without the
    option a task of the environment's split is drawn.

    ## Action Space

    | Num | Name    | Action       |
    |-----|---------|--------------|
    | 0   | left    | Turn left    |
    | 1   | right   | Turn right   |
    | 2   | forward | Move forward |

    ## Observation Space

    A vector of 118 numbers in [0, 1]: the 5x5 tiles ahead, far row first, with the channels ``hazard``, ``red``,
    ``green``, ``wall``; then one-hot offsets of the goal ahead and to the right (a privileged compass).

    ## Rewards

    1 at the goal, ``-failure_cost`` in lava, 0 otherwise.

    ## Termination

    The episode terminates in lava (failure) and at the goal (success); it is truncated at ``max_steps``.

    ## Risk contract

    Every ``info`` carries ``fatal_probability``; the last one also ``task_id``, ``failure``, ``is_success``, ``risk``.

    ## Registered Configurations

    - `RiskGrid/Recolor-v0`

    :param severity: how much of the recoloured lava's type the agent sees, 0 nothing, 1 all
    :param rare_probability: probability that a task's lava is green
    :param failure_cost: subtracted from the reward on failure
    :param size: width and height of the room
    :param max_steps: horizon
    :param split: split from which tasks are drawn when none is asked for
    :param kwargs: arguments of ``MiniGridEnv``: ``render_mode``, ``screen_size``, ``highlight``, ``tile_size``, ...
    """

    def __init__(
        self,
        severity: float = 1.0,
        rare_probability: float = 0.005,
        failure_cost: float = 0.0,
        size: int = 5,
        max_steps: int = 20,
        split: str = "train",
        **kwargs: Any,
    ) -> None:
        self.world = RecolorWorld(severity, rare_probability, failure_cost, size, max_steps)
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        self.split = SPLITS[split]
        self._features = tile_features(severity)
        self._requested: int | None = None
        super().__init__(
            mission_space=MissionSpace(mission_func=self._mission),
            width=size + 2,
            height=size + 2,
            max_steps=max_steps,
            see_through_walls=True,
            agent_view_size=VIEW_SIZE,
            **kwargs,
        )
        #: MiniGrid's own observation space, for :class:`MiniGridObservation`.
        self.minigrid_observation_space = self.observation_space
        self.action_space = spaces.Discrete(self.world.rules.n_actions)
        self.observation_space = spaces.Box(0.0, 1.0, shape=(self.world.observation.dimension,), dtype=np.float32)

    def reset(  # type: ignore[override]  # MiniGrid's type is an unbound variable
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode.

        :param seed: seeds the drawing of tasks
        :param options: ``{"task_id": i}`` plays task i
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
        """MiniGrid's step, with the risk contract in ``info``."""
        observation, reward, terminated, truncated, _ = super().step(action)
        under = self.grid.get(*self.agent_pos)
        failure = under is not None and under.type == "lava"
        info: dict[str, Any] = {FATAL_PROBABILITY: self.fatal_probability()}
        if failure:
            reward = -self.world.failure_cost
        if terminated or truncated:
            info |= {
                TASK_ID: self.task_id,
                FAILURE: failure,
                "is_success": under is not None and under.type == "goal",
                # Motion is deterministic: an executed action either fails or does not.
                RISK: float(failure),
            }
        return observation, float(reward), terminated, truncated, info

    def fatal_probability(self) -> NDArray[np.float32]:
        """P(failure at the next step | this state, action), shape (n_actions,): 1 for a step into lava."""
        fatal = np.zeros(self.world.rules.n_actions, dtype=np.float32)
        ahead = self.grid.get(*self.front_pos)
        fatal[self.actions.forward] = ahead is not None and ahead.type == "lava"
        return fatal

    def gen_obs(self) -> NDArray[np.float32]:
        """The egocentric vector, from MiniGrid's own view of the grid."""
        view, _ = self.gen_obs_grid()
        # MiniGrid hides what the agent stands on; at the end of an episode that is what matters.
        view.set(VIEW_SIZE // 2, VIEW_SIZE - 1, self.grid.get(*self.agent_pos))
        seen = np.zeros((VIEW_SIZE, VIEW_SIZE, len(CHANNELS)), dtype=np.float32)
        for row in range(VIEW_SIZE):
            for column in range(VIEW_SIZE):
                tile = view.get(column, row)
                if tile is not None and tile.type == "lava":
                    seen[row, column] = self._features[LAVA if tile.color == "red" else RECOLORED_LAVA]
                elif tile is not None and tile.type == "wall":
                    seen[row, column, CHANNELS.index("wall")] = 1.0
        to_goal = self._goal - np.asarray(self.agent_pos)
        offset = np.zeros((2, 2 * self.world.size - 1), dtype=np.float32)
        offset[0, to_goal @ self.dir_vec + self.world.size - 1] = 1.0
        offset[1, to_goal @ self.right_vec + self.world.size - 1] = 1.0
        return np.concatenate([seen.ravel(), offset.ravel()])

    def minigrid_observation(self) -> dict[str, Any]:
        """MiniGrid's own observation of the current state: ``image``, ``direction``, ``mission``."""
        observation: dict[str, Any] = super().gen_obs()
        return observation

    def _gen_grid(self, width: int, height: int) -> None:
        if self._requested is None:
            self.task_id = int(self.np_random.integers(self.split.start, self.split.stop))
        else:
            self.task_id = self._requested
        task = self.world.tasks(np.array([self.task_id]))
        size = self.world.size
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for cell, tile in enumerate(task.tile[0, :-1].tolist()):
            if tile != EMPTY:
                self.put_obj(Lava() if tile == LAVA else RecoloredLava(), cell % size + 1, cell // size + 1)
        goal, start = int(task.goal_cell[0]), int(task.start_state[0])
        self._goal = np.array((goal % size + 1, goal // size + 1))
        self.put_obj(Goal(), *self._goal)
        self.agent_pos = (start // 4 % size + 1, start // 4 // size + 1)
        self.agent_dir = start % 4
        self.mission = self._mission()

    @staticmethod
    def _mission() -> str:
        return "avoid the lava and get to the goal"

    def _reward(self) -> float:
        """Reward at the goal: 1, whenever it is reached; the discount makes the agent hurry."""
        return 1.0


class MiniGridObservation(gymnasium.ObservationWrapper[dict[str, Any], Any, NDArray[np.float32]]):
    """MiniGrid's own observation in place of the egocentric vector, so that MiniGrid's wrappers can be put on top.

    :param env: a :class:`RecolorEnv`, wrapped or not
    """

    def __init__(self, env: gymnasium.Env[NDArray[np.float32], Any]) -> None:
        super().__init__(env)
        self.observation_space = self.env.get_wrapper_attr("minigrid_observation_space")

    def observation(self, observation: NDArray[np.float32]) -> dict[str, Any]:
        """The current state as MiniGrid shows it."""
        del observation  # the vector of the same state
        shown: dict[str, Any] = self.env.get_wrapper_attr("minigrid_observation")()
        return shown
