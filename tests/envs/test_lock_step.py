"""Engine and single environment against stock MiniGrid: same layouts, same actions, every step equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Goal, Lava
from minigrid.minigrid_env import MiniGridEnv

from envs import FAMILIES, GridVecEnv, GridWorld, RiskGridEnv
from envs.gridworld.minigrid_env import RecoloredLava
from envs.gridworld.observation import CHANNELS, VIEW_SIZE
from envs.gridworld.rules import EMPTY, LAVA
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, SPLITS, TASK_ID


class StockRoom(MiniGridEnv):
    """A layout in MiniGrid's own environment, which knows nothing of our table of moves."""

    def __init__(self, world: GridWorld) -> None:
        self.world = world
        super().__init__(
            mission_space=MissionSpace(mission_func=lambda: "go"),
            grid_size=world.size + 2,
            max_steps=world.horizon,
            see_through_walls=True,
            agent_view_size=VIEW_SIZE,
        )

    def play(self, task_id: int) -> None:
        self.task = self.world.tasks(np.array([task_id]))
        self.reset()

    def _gen_grid(self, width: int, height: int) -> None:
        size = self.world.size
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for cell, tile in enumerate(self.task.tile[0, :-1].tolist()):
            if tile != EMPTY:
                self.put_obj(Lava() if tile == LAVA else RecoloredLava(), cell % size + 1, cell // size + 1)
        goal, start = int(self.task.goal_cell[0]), int(self.task.start_state[0])
        self.goal = np.array((goal % size + 1, goal // size + 1))
        self.put_obj(Goal(), *self.goal)
        self.agent_pos = (start // 4 % size + 1, start // 4 // size + 1)
        self.agent_dir = start % 4

    def seen(self, severity: float) -> np.ndarray:
        """Our observation, written down from MiniGrid's view of the grid."""
        view, _ = self.gen_obs_grid()
        # MiniGrid hides what the agent stands on; at the end of an episode that is what matters.
        view.set(VIEW_SIZE // 2, VIEW_SIZE - 1, self.grid.get(*self.agent_pos))
        seen = np.zeros((VIEW_SIZE, VIEW_SIZE, len(CHANNELS)), dtype=np.float32)
        for row in range(VIEW_SIZE):
            for column in range(VIEW_SIZE):
                tile = view.get(column, row)
                if tile is not None and tile.type == "lava":
                    seen[row, column] = (1, 1, 0, 0) if tile.color == "red" else (severity, 0, 1, 0)
                elif tile is not None and tile.type == "wall":
                    seen[row, column, CHANNELS.index("wall")] = 1.0
        to_goal = self.goal - np.asarray(self.agent_pos)
        offset = np.zeros((2, 2 * self.world.size - 1), dtype=np.float32)
        offset[0, to_goal @ self.dir_vec + self.world.size - 1] = 1.0
        offset[1, to_goal @ self.right_vec + self.world.size - 1] = 1.0
        return np.concatenate([seen.ravel(), offset.ravel()])

    def fatal(self) -> np.ndarray:
        ahead = self.grid.get(*self.front_pos)
        return np.array([0, 0, ahead is not None and ahead.type == "lava"], dtype=np.float32)


def _episodes(batched: GridVecEnv, n_episodes: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Finished episodes of the engine: the task and, per step, what was seen, done and got."""
    n_envs, n_actions = batched.num_envs, batched.world.rules.n_actions
    # Mostly forward where the agent turns, so that episodes reach lava, goal and horizon alike.
    weight = np.array([0.2, 0.2, 0.6]) if batched.world.rules.turning else np.full(n_actions, 1 / n_actions)
    observation = batched.reset()
    open_episodes: list[dict[str, Any]] = [{"steps": []} for _ in range(n_envs)]
    finished: list[dict[str, Any]] = []
    while len(finished) < n_episodes:
        action = rng.choice(n_actions, size=n_envs, p=weight)
        fatal = batched.fatal_probability()
        after, reward, done, infos = batched.step(action)
        for env, episode in enumerate(open_episodes):
            episode["steps"].append((observation[env], fatal[env], action[env], reward[env], done[env], infos[env]))
            if done[env]:
                finished.append(episode | {"task": infos[env][TASK_ID]})
                open_episodes[env] = {"steps": []}
        observation = after
    return finished[:n_episodes]


@pytest.mark.parametrize(
    ("family", "settings", "n_episodes"),
    [
        ("recolor", {}, 300),
        pytest.param("recolor", {}, 10_000, marks=pytest.mark.slow),
        ("recolor", {"severity": 0.75, "rare_probability": 0.5, "failure_cost": 0.2, "size": 6}, 200),
        ("mixed", {"severity": 0.5, "rare_probability": 0.5}, 200),
        ("control", {}, 200),
        ("shift", {"size": 7, "horizon": 30}, 200),
    ],
)
def test_thousands_of_random_episodes_equal_stock_minigrid(
    family: str, settings: dict[str, Any], n_episodes: int
) -> None:
    world = FAMILIES[family](**settings)
    stock, single = StockRoom(world), RiskGridEnv(family, **settings)
    batched = GridVecEnv(world, SPLITS["train"].task_ids(n_episodes, seed=3), num_envs=50, seed=1)
    ends = {"failure": 0, "success": 0, "horizon": 0}
    for episode in _episodes(batched, n_episodes, np.random.default_rng(0)):
        stock.play(episode["task"])
        seen, info = single.reset(options={TASK_ID: episode["task"]})
        for expected_seen, expected_fatal, action, expected_reward, expected_done, _ in episode["steps"]:
            for observation, fatal in (
                (seen, info[FATAL_PROBABILITY]),
                (stock.seen(world.shown_severity), stock.fatal()),
            ):
                np.testing.assert_array_equal(observation, expected_seen)
                np.testing.assert_array_equal(fatal, expected_fatal)
            _, stock_reward, stock_terminated, stock_truncated, _ = stock.step(action)
            seen, reward, terminated, truncated, info = single.step(action)
            assert reward == pytest.approx(expected_reward)
            assert (reward > 0) == (stock_reward > 0)
            assert terminated == stock_terminated
            assert (terminated or truncated) == (stock_terminated or stock_truncated) == expected_done
        last_info = episode["steps"][-1][5]
        np.testing.assert_array_equal(seen, last_info["terminal_observation"])
        np.testing.assert_array_equal(stock.seen(world.shown_severity), seen)
        under = stock.grid.get(*stock.agent_pos)
        assert info[FAILURE] == (under is not None and under.type == "lava")
        assert info["is_success"] == (under is not None and under.type == "goal")
        for key in (TASK_ID, FAILURE, "is_success", RISK):
            assert info[key] == last_info[key]
        ends["failure" if info[FAILURE] else "success" if info["is_success"] else "horizon"] += 1
    assert min(ends.values()) > n_episodes // 50, ends
