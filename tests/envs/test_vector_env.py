"""The native Gymnasium vector environment: same engine, Gymnasium's conventions; and how often moves slip."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import FAMILIES, GridVecEnv, GridVectorEnv, GridWorld, SlipWorld
from envs.gridworld.engine import action_fatality, executed_moves

POOL = np.arange(300)


@pytest.mark.parametrize("family", ["recolor", "slip"])
def test_same_episodes_as_the_stable_baselines3_environment(family: str) -> None:
    world = FAMILIES[family]()
    native, sb3 = (kind(world, POOL, num_envs=16, seed=4) for kind in (GridVectorEnv, GridVecEnv))
    rng = np.random.default_rng(0)
    observation, info = native.reset()
    np.testing.assert_array_equal(observation, sb3.reset())
    for _ in range(60):
        np.testing.assert_allclose(info["fatal_probability"], sb3.fatal_probability(), rtol=1e-6)
        action = rng.integers(0, world.rules.n_actions, size=16)
        observation, reward, terminated, truncated, info = native.step(action)
        expected, expected_reward, done, infos = sb3.step(action)
        np.testing.assert_array_equal(observation, expected)
        np.testing.assert_array_equal(reward, expected_reward)
        np.testing.assert_array_equal(terminated | truncated, done)
        assert not (terminated & truncated).any()
        assert ("final_info" in info) == bool(done.any())
        for env in np.flatnonzero(done):
            np.testing.assert_array_equal(info["final_obs"][env], infos[env]["terminal_observation"])
            for key in ("task_id", "failure", "is_success", "risk"):
                assert info["final_info"][key][env] == infos[env][key]
            assert truncated[env] == (not infos[env]["failure"] and not infos[env]["is_success"])


def test_layout_of_infos_is_gymnasiums_own() -> None:
    """The same keys, masks and shapes as ``SyncVectorEnv`` makes of single environments."""
    peer = SyncVectorEnv(
        [lambda: gymnasium.make("RiskGrid/Control-v0") for _ in range(4)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    native = GridVectorEnv(FAMILIES["control"](), POOL, num_envs=4)
    assert native.observation_space == peer.observation_space
    assert native.action_space == peer.action_space
    assert native.metadata["autoreset_mode"] == peer.metadata["autoreset_mode"]
    for env in (native, peer):
        env.reset(seed=0)
        for _ in range(40):
            _, _, terminated, truncated, info = env.step(np.full(4, 2))
            if (terminated | truncated).any():
                break
        else:
            raise AssertionError("no episode ended")
        done = terminated | truncated
        assert np.array_equal(info["_final_obs"], done)
        assert info["final_obs"].dtype == object
        assert [seen is not None for seen in info["final_obs"]] == done.tolist()
        for key in ("task_id", "failure", "is_success", "risk"):
            assert np.array_equal(info["final_info"][f"_{key}"], done)
            assert info["final_info"][key].shape == (4,)
        assert np.asarray(info["fatal_probability"]).shape == (4, 3)
    peer.close()


def test_seeds_and_options() -> None:
    env = GridVectorEnv(SlipWorld(), POOL, num_envs=4)
    first, again = (env.reset(seed=7)[0] for _ in range(2))
    assert np.array_equal(first, again)
    with pytest.raises(ValueError, match="one seed"):
        env.reset(seed=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="unknown reset option 'task_id'"):
        env.reset(options={"task_id": 3})


def _transition_by_hand(world: GridWorld, slip: float, x: int, y: int, action: int) -> dict[tuple[int, int], float]:
    """Where a cardinal move leads, from the sentences of the world's description."""
    steps = [(1, 0), (0, 1), (-1, 0), (0, -1), (0, 0)]
    chances = [0.0] * 5
    chances[action] += 1 - slip
    if action == 4 and world.family == "bridge":
        chances[4] += slip
    else:
        for direction in range(4):
            chances[direction] += slip / 4
    result: dict[tuple[int, int], float] = {}
    for (dx, dy), chance in zip(steps, chances, strict=True):
        nx, ny = x + dx, y + dy
        if not (0 <= nx < 5 and 0 <= ny < 5):
            nx, ny = x, y
        result[nx, ny] = result.get((nx, ny), 0.0) + chance
    return result


@pytest.mark.parametrize("family", ["slip", "gale", "bridge"])
def test_executed_moves_have_the_frequencies_of_the_description(family: str) -> None:
    world = FAMILIES[family](rare_probability=1.0)
    tasks = world.tasks(np.arange(40))
    row = int(tasks.slip.argmax())
    slip, n = float(tasks.slip[row]), 40_000
    rng = np.random.default_rng(0)
    rows = np.full(n, row)
    for cell in (0, 7, 12):
        for action in range(5):
            moves = executed_moves(world, tasks, rows, np.full(n, action), rng)
            reached = np.bincount(world.rules.move[cell, moves], minlength=25) / n
            expected = np.zeros(25)
            for (x, y), chance in _transition_by_hand(world, slip, cell % 5, cell // 5, action).items():
                expected[y * 5 + x] = chance
            assert np.abs(reached - expected).max() < 5 * np.sqrt(0.25 / n)
            assert set(np.flatnonzero(reached)) <= set(np.flatnonzero(expected))
            fatal = action_fatality(world, tasks, np.array([row]), np.array([cell]))[0, action]
            assert fatal == pytest.approx(expected[tasks.hazard[row]].sum(), abs=1e-12)


@pytest.mark.parametrize("family", ["recolor", "slip"])
def test_a_state_continues_in_another_engine(family: str) -> None:
    world, rng = FAMILIES[family](), np.random.default_rng(0)
    env, other = (GridVecEnv(world, POOL, num_envs=16, episodes_per_task=3, seed=seed) for seed in (4, 5))
    env.reset()
    for _ in range(25):
        env.step(rng.integers(0, world.rules.n_actions, size=16))
    state = env.state_dict()
    for _ in range(10):
        env.step(rng.integers(0, world.rules.n_actions, size=16))  # must not reach into the state
    env.load_state_dict(state)
    other.load_state_dict(state)
    # Far enough that the queue is shuffled anew.
    for _ in range(400):
        action = rng.integers(0, world.rules.n_actions, size=16)
        (observation, reward, done, infos), (seen, got, over, told) = env.step(action), other.step(action)
        np.testing.assert_array_equal(observation, seen)
        np.testing.assert_array_equal(reward, got)
        np.testing.assert_array_equal(done, over)
        np.testing.assert_array_equal(env.fatal_probability(), other.fatal_probability())
        for i in np.flatnonzero(done):
            assert {**infos[i]["episode"], "t": 0} == {**told[i]["episode"], "t": 0}
            assert all(infos[i][key] == told[i][key] for key in ("task_id", "failure", "risk"))


def test_a_state_of_something_else_is_refused() -> None:
    state = GridVecEnv(SlipWorld(), POOL, 4).state_dict()
    for other, message in (
        (GridVecEnv(SlipWorld(horizon=30), POOL, 4), "another world"),
        (GridVecEnv(SlipWorld(), POOL[::-1], 4), "another pool"),
        (GridVecEnv(SlipWorld(), POOL, 5), "has 4 environments, this engine has 5"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
