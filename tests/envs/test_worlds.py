"""The worlds: their tasks, the environment, the engine."""

from __future__ import annotations

import hashlib
import pickle
from collections import deque
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper, RGBImgObsWrapper
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs import (
    FAMILIES,
    BridgeWorld,
    GaleWorld,
    GridVecEnv,
    MiniGridObservation,
    MixedWorld,
    RecolorWorld,
    RiskGridEnv,
    ShiftWorld,
    SlipWorld,
)
from envs.gridworld.engine import TaskQueue
from envs.gridworld.minigrid_env import RecoloredLava
from envs.gridworld.rules import EMPTY, LAVA, RECOLORED_LAVA, WALL
from rl_forecast.tasks import SPLITS

ID = "RiskGrid/Recolor-v0"
IDS = list(envs.REGISTERED)
# Published numbers name task ids: changing the generator changes their meaning.
PINNED = "ce9fb40b5a9f4464d01daedb6bd8e0246ecbcee54821a0b53455633780cf226c"


def test_task_ids_mean_the_same_tasks_on_every_machine_and_in_every_release() -> None:
    ids = np.concatenate([split.task_ids(1000, seed=0) for split in SPLITS.values()])
    digest = hashlib.sha256()
    for arguments in envs.REGISTERED.values():
        tasks = FAMILIES[arguments["family"]](**{k: v for k, v in arguments.items() if k != "family"}).tasks(ids)
        # Levels and rewards to nine digits: their last ones are the mathematics library's.
        numbers = (np.rint(column * 1e9) for column in (tasks.slip, tasks.goal_reward))
        for column in (tasks.start_state, tasks.goal_cell, tasks.tile, tasks.rare, *numbers):
            digest.update(column.astype(np.int64).tobytes())
    assert digest.hexdigest() == PINNED


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_do_not_depend_on_their_batch(family: str) -> None:
    world, ids = FAMILIES[family](), SPLITS["held_out"].task_ids(500, seed=0)
    together = world.tasks(ids)
    for i in (0, 7, 499):
        alone = world.tasks(ids[i : i + 1])
        for name in ("start_state", "goal_cell", "tile", "rare", "slip", "goal_reward"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[i])


def _shortest_path(hazard: np.ndarray, start: int, goal: int, size: int) -> int | None:
    """Plain breadth-first search over cells, independent of the vectorised flood fill."""
    distance, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        if cell == goal:
            return distance[cell]
        x, y = cell % size, cell // size
        for nx, ny in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            neighbour = ny * size + nx
            if 0 <= nx < size and 0 <= ny < size and not hazard[neighbour] and neighbour not in distance:
                distance[neighbour] = distance[cell] + 1
                queue.append(neighbour)
    return None


@pytest.mark.parametrize("family", ["recolor", "bridge"])
@pytest.mark.parametrize("size", [4, 5, 7])
def test_every_task_can_be_solved_and_is_not_trivial(size: int, family: str) -> None:
    world = FAMILIES[family](size=size, rare_probability=0.5)
    tasks = world.tasks(np.arange(2000))
    for row in range(len(tasks)):
        start, goal = int(world.rules.cell[tasks.start_state[row]]), int(tasks.goal_cell[row])
        hazard = tasks.hazard[row]
        assert not hazard[start]
        assert not hazard[goal]
        length = _shortest_path(hazard, start, goal, size)
        assert length is not None
        assert length >= 3


def test_distribution_of_tasks() -> None:
    n = 200_000
    tasks = RecolorWorld().tasks(np.arange(n))
    rare = tasks.rare.mean()
    assert abs(rare - 0.005) < 4 * np.sqrt(0.005 / n)
    codes = [set(np.unique(tasks.tile[tasks.rare == flag, :-1])) for flag in (False, True)]
    assert codes == [{EMPTY, LAVA}, {EMPTY, RECOLORED_LAVA}]
    assert (tasks.tile[:, -1] == WALL).all()
    counts = np.bincount(tasks.hazard.sum(axis=1), minlength=6)
    # Uniform over 2..5 before cut-off layouts are drawn again, which happens more often with more hazards.
    assert counts[:2].sum() == 0
    assert counts[2] > counts[3] > counts[4] > counts[5] > 0.9 * counts[2]
    directions = np.bincount(tasks.start_state % 4) / n
    np.testing.assert_allclose(directions, 0.25, atol=0.005)


@pytest.mark.parametrize("family", ["recolor", "mixed"])
def test_rare_tasks_differ_from_common_ones_in_colour_only(family: str) -> None:
    common, rare = (FAMILIES[family](rare_probability=p).tasks(np.arange(1000)) for p in (0.0, 1.0))
    assert rare.rare.all()
    assert not common.rare.any()
    assert not (common.tile == RECOLORED_LAVA).any()
    assert np.array_equal(common.hazard, rare.hazard)
    assert np.array_equal(common.goal_cell, rare.goal_cell)


def test_one_hazard_of_a_rare_mixed_task_is_recoloured_each_as_often() -> None:
    tasks = MixedWorld(rare_probability=1.0).tasks(np.arange(20_000))
    assert ((tasks.tile == RECOLORED_LAVA).sum(axis=1) == 1).all()
    # Among tasks with two hazards the first cell in reading order is the recoloured one half of the time.
    two = tasks[tasks.hazard.sum(axis=1) == 2]
    first = two.hazard.argmax(axis=1)
    share = np.mean(two.tile[np.arange(len(two)), first] == RECOLORED_LAVA)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(two))


def test_slip_levels_are_log_uniform_and_a_gale_is_beyond_them() -> None:
    ids = np.arange(100_000)
    slip, gale = SlipWorld().tasks(ids), GaleWorld().tasks(ids)
    level = np.log10(slip.slip)
    np.testing.assert_allclose(
        np.quantile(level, [0, 0.25, 0.5, 0.75, 1]), [-4, -3.375, -2.75, -2.125, -1.5], atol=0.02
    )
    assert np.array_equal(gale.rare, slip.rare)
    assert np.array_equal(gale.slip[~gale.rare], slip.slip[~slip.rare])
    rare = np.log10(gale.slip[gale.rare])
    assert -0.8 <= rare.min() < -0.78
    assert -0.42 < rare.max() <= -0.4
    assert not (gale.tile == RECOLORED_LAVA).any()


def test_rare_tasks_of_the_bridge_carry_their_share_of_the_reward() -> None:
    tasks = BridgeWorld(rare_reward_share=0.7).tasks(np.arange(200_000))
    assert abs(tasks.goal_reward.mean() - 1) < 0.15
    share = tasks.goal_reward[tasks.rare].sum() / tasks.goal_reward.sum()
    assert abs(share - 0.7) < 0.05
    assert set(tasks.hazard[tasks.rare].sum(axis=1)) == {5, 6, 7, 8}
    rules = BridgeWorld().rules
    assert rules.slip_move is not None
    assert rules.slip_move[4].tolist() == [0, 0, 0, 0, 1]


def test_the_rare_mode_of_a_shifted_world_is_held_out_only() -> None:
    world = ShiftWorld(rare_probability=0.1)
    for split, share in (("train", 0.0), ("validation", 0.0), ("held_out", 0.1)):
        rare = world.tasks(SPLITS[split].task_ids(10_000, seed=1)).rare.mean()
        assert abs(rare - share) < 0.015
    assert world.evaluation_split == "validation"


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("control", {"rare_probability": 0.1}, "rare_probability must be 0"),
        ("gale", {"log10_gale": (0.0, -1.0)}, "log10_gale must be a rising pair"),
        ("bridge", {"rare_reward_share": 2.0}, "rare_reward_share must lie in"),
        ("recolor", {"severity": 1.5}, "severity must lie in"),
        ("recolor", {"rare_probability": -0.1}, "rare_probability must lie in"),
        ("recolor", {"size": 3}, "size must be at least 4"),
        ("recolor", {"horizon": 0}, "horizon must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(family: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FAMILIES[family](**settings)


@pytest.mark.parametrize("ids", [np.array([-1]), np.array([0.5]), np.array([[1]])])
def test_bad_task_ids_are_refused(ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="task ids must be"):
        RecolorWorld().tasks(ids)


@pytest.mark.parametrize("env_id", IDS)
def test_checkers_of_gymnasium_and_stable_baselines3_pass_without_warnings(env_id: str) -> None:
    # pytest turns every warning into an error
    # (the render check opens a window, for which a test machine has no screen: pictures are tested below)
    gymnasium_check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)
    sb3_check_env(gymnasium.make(env_id).unwrapped)
    assert len({arguments["family"] for arguments in envs.REGISTERED.values()}) == len(FAMILIES)


def test_reset_options() -> None:
    env = RiskGridEnv(split="validation")
    first = env.reset(seed=4)[1]["task_id"]
    assert env.reset(seed=4)[1]["task_id"] == first
    assert first in SPLITS["validation"]
    assert env.reset(options={"task_id": 12})[1]["task_id"] == 12
    for bad in (-1, 0.5, True):
        with pytest.raises(ValueError, match="task_id must be"):
            env.reset(options={"task_id": bad})
    with pytest.raises(ValueError, match="unknown reset option 'task'"):
        env.reset(options={"task": 3})
    with pytest.raises(ValueError, match="unknown split"):
        RiskGridEnv(split="test")
    with pytest.raises(ValueError, match="unknown family 'lava': choose one of recolor"):
        RiskGridEnv("lava")
    with pytest.raises(ValueError, match="unknown setting 'severity' of family 'gale': choose among rare_probability"):
        RiskGridEnv("gale", severity=0.5)


def test_recoloured_lava_encodes_as_lava_and_looks_different() -> None:
    assert RecoloredLava().encode() == (OBJECT_TO_IDX["lava"], COLOR_TO_IDX["green"], 0)
    common, rare = (RiskGridEnv(rare_probability=p, render_mode="rgb_array") for p in (0.0, 1.0))
    for env in (common, rare):
        env.reset(options={"task_id": 5})
    red_picture, green_picture = common.render(), rare.render()
    assert red_picture.shape == green_picture.shape
    assert (red_picture != green_picture).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_environment_survives_pickling(family: str) -> None:
    env = RiskGridEnv(family)
    copy = pickle.loads(pickle.dumps(env))
    a, b = copy.reset(options={"task_id": 3})[0], env.reset(options={"task_id": 3})[0]
    assert np.array_equal(a, b)


def test_minigrid_wrappers_work_on_minigrids_own_observation() -> None:
    env = MiniGridObservation(gymnasium.make(ID, render_mode="rgb_array", rare_probability=1.0))
    seen, _ = env.reset(options={"task_id": 3})
    assert seen in env.observation_space
    full, _ = FullyObsWrapper(env).reset(options={"task_id": 3})
    tasks = RecolorWorld(rare_probability=1.0).tasks(np.array([3]))
    lava = full["image"][1:-1, 1:-1, 0].T.ravel() == OBJECT_TO_IDX["lava"]
    assert np.array_equal(lava, tasks.hazard[0])
    assert (full["image"][1:-1, 1:-1, 1].T.ravel()[lava] == COLOR_TO_IDX["green"]).all()
    picture, _ = ImgObsWrapper(RGBImgObsWrapper(env)).reset(options={"task_id": 3})
    assert picture.ndim == 3


def test_engine_infos_and_rewards() -> None:
    engine = GridVecEnv(RecolorWorld(failure_cost=0.3), np.arange(200), num_envs=16, seed=0)
    engine.reset()
    rng = np.random.default_rng(0)
    returns, lengths = np.zeros(16), np.zeros(16, dtype=int)
    for _ in range(300):
        _, reward, done, infos = engine.step(rng.choice(3, size=16, p=[0.2, 0.2, 0.6]))
        returns += reward
        lengths += 1
        for env in np.flatnonzero(done):
            info = infos[env]
            assert info["episode"]["r"] == pytest.approx(returns[env])
            assert info["episode"]["l"] == lengths[env] <= 20
            expected = 1.0 if info["is_success"] else -0.3 if info["failure"] else 0.0
            assert info["episode"]["r"] == pytest.approx(expected)
            assert info["risk"] == float(info["failure"])
            assert not info["TimeLimit.truncated"]
        assert not any(infos[env] for env in np.flatnonzero(~done))
        returns[done], lengths[done] = 0, 0


def test_queue_hands_out_each_task_in_a_row_and_every_task_in_a_pass() -> None:
    queue = TaskQueue(7, 3, np.random.default_rng(0))
    rows = np.concatenate([queue.take(5) for _ in range(21)])
    passes = rows.reshape(5, 21)
    for one_pass in passes:
        runs = one_pass.reshape(7, 3)
        assert (runs == runs[:, :1]).all()
        assert sorted(runs[:, 0]) == list(range(7))
    assert not np.array_equal(passes[0], passes[1])


def test_engine_refuses_an_empty_pool_and_no_episodes() -> None:
    with pytest.raises(ValueError, match="pool of tasks is empty"):
        GridVecEnv(RecolorWorld(), np.array([], dtype=np.int64), 4)
    with pytest.raises(ValueError, match="episodes_per_task"):
        GridVecEnv(RecolorWorld(), np.arange(4), 4, episodes_per_task=0)
