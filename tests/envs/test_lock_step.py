"""The batched engine against MiniGrid itself: same tasks, same actions, everything equal at every step."""

from __future__ import annotations

import numpy as np
import pytest

from envs import GridVecEnv, RecolorEnv, RecolorWorld
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, SPLITS, TASK_ID


@pytest.mark.parametrize(
    ("settings", "n_episodes"),
    [({}, 9000), ({"severity": 0.75, "rare_probability": 0.5, "failure_cost": 0.2, "size": 6}, 1000)],
)
def test_ten_thousand_random_episodes_equal_minigrid(settings: dict[str, float], n_episodes: int) -> None:
    world = RecolorWorld(**settings)  # type: ignore[arg-type]
    single = RecolorEnv(**settings)  # type: ignore[arg-type]
    batched = GridVecEnv(world, SPLITS["train"].task_ids(n_episodes, seed=3), num_envs=50, seed=1)
    rng = np.random.default_rng(0)

    # The batched run first: its episodes are replayed one by one in MiniGrid.
    observation = batched.reset()
    open_episodes: list[dict[str, list[object]]] = [{} for _ in range(50)]
    finished = []
    while len(finished) < n_episodes:
        # Mostly forward, so that episodes reach lava, goal and horizon alike.
        action = rng.choice(3, size=50, p=[0.2, 0.2, 0.6])
        fatal, task = batched.fatal_probability(), batched.tasks.task_id[batched._row]
        after, reward, done, infos = batched.step(action)
        for env, episode in enumerate(open_episodes):
            step = (observation[env], fatal[env], action[env], reward[env], done[env], infos[env])
            episode.setdefault("task", [task[env]])
            episode.setdefault("steps", []).append(step)
            if done[env]:
                finished.append(episode)
                open_episodes[env] = {}
        observation = after

    ends = {"failure": 0, "success": 0, "horizon": 0}
    for episode in finished[:n_episodes]:
        seen, info = single.reset(options={TASK_ID: int(episode["task"][0])})  # type: ignore[call-overload]
        for step in episode["steps"]:
            expected_seen, expected_fatal, action, expected_reward, expected_done, expected_info = step  # type: ignore[misc]
            np.testing.assert_array_equal(seen, expected_seen)
            np.testing.assert_array_equal(info[FATAL_PROBABILITY], expected_fatal)
            seen, reward, terminated, truncated, info = single.step(action)
            assert reward == pytest.approx(expected_reward)
            assert (terminated or truncated) == expected_done
        np.testing.assert_array_equal(seen, expected_info["terminal_observation"])
        for key in (TASK_ID, FAILURE, "is_success", RISK):
            assert info[key] == expected_info[key]
        ends["failure" if info[FAILURE] else "success" if info["is_success"] else "horizon"] += 1
    assert min(ends.values()) > n_episodes // 50, ends
