"""The memory of tasks against a slow dictionary that does the same by hand, and its promises one by one."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.risk import DirectRisk
from agents.task_memory import RolloutRecord, TaskMemory, VisitedStates

N_ENVS, N_ACTIONS = 5, 3


def _memory(episodes_per_task: int, capacity: int, n_envs: int = 2) -> TaskMemory:
    memory = TaskMemory(episodes_per_task, capacity, DirectRisk().compress)
    memory.resume_episodes(np.ones(n_envs, dtype=bool), continues=False)
    return memory


def _ingest(
    memory: TaskMemory,
    observation: NDArray[np.float32],
    fatal: NDArray[np.float32],
    done: NDArray[np.bool_],
    task: NDArray[np.int64],
    failure: NDArray[np.float64] | None = None,
) -> int:
    record = RolloutRecord(True, False)
    record.done, record.task_id = done, task
    record.failure = np.full(done.shape, np.nan) if failure is None else failure
    return memory.ingest({"observation": observation, "fatal": fatal}, fatal.any(axis=2), record)


class SlowMemory:
    """Episode by episode, step by step."""

    def __init__(self, episodes_per_task: int, capacity: int) -> None:
        self.episodes_per_task, self.capacity = episodes_per_task, capacity
        self.running: list[list[tuple[tuple[float, ...], tuple[float, ...]]]] = [[] for _ in range(N_ENVS)]
        self.episodes: dict[int, list[list[tuple[tuple[float, ...], tuple[float, ...]]]]] = defaultdict(list)
        self.known: dict[int, dict[tuple[tuple[float, ...], tuple[float, ...]], float]] = {}

    def ingest(
        self,
        observation: NDArray[np.float32],
        fatal: NDArray[np.float32],
        done: NDArray[np.bool_],
        task: NDArray[np.int64],
    ) -> None:
        for env in range(N_ENVS):
            for t in range(len(done)):
                if fatal[t, env].any():
                    self.running[env].append((tuple(observation[t, env]), tuple(fatal[t, env])))
                if done[t, env]:
                    self.episodes[int(task[t, env])].append(self.running[env])
                    self.running[env] = []
        for task_id in [i for i, episodes in self.episodes.items() if len(episodes) >= self.episodes_per_task]:
            episodes = self.episodes.pop(task_id)
            rows: dict[tuple[tuple[float, ...], tuple[float, ...]], float] = defaultdict(float)
            for episode in episodes:
                for row in episode:
                    rows[row] += 1 / len(episodes)
            self.known.pop(task_id, None)
            self.known[task_id] = rows


def _as_dict(memory: TaskMemory) -> dict[int, dict[tuple[tuple[float, ...], tuple[float, ...]], float]]:
    rows = memory.scored
    assert rows is not None
    result: dict[int, dict[tuple[tuple[float, ...], tuple[float, ...]], float]] = {int(i): {} for i in memory.task_id}
    for place, observation, fatal, weight in zip(
        *(rows[name] for name in ("task", "observation", "fatal", "weight")), strict=True
    ):
        key = (tuple(observation), tuple(fatal))
        task = result[int(memory.task_id[place])]
        assert key not in task, "rows of a task are merged"
        task[key] = float(weight)
    return result


@pytest.mark.parametrize("episodes_per_task", [1, 2, 4])
def test_equals_a_slow_memory(episodes_per_task: int) -> None:
    rng = np.random.default_rng(episodes_per_task)
    fast, slow = _memory(episodes_per_task, 10_000, N_ENVS), SlowMemory(episodes_per_task, 10_000)
    for _ in range(30):
        n_steps = int(rng.integers(1, 9))
        # Few distinct observations, so that rows merge; few tasks, so that tasks come again.
        observation = rng.integers(0, 3, size=(n_steps, N_ENVS, 2)).astype(np.float32)
        fatal = (rng.random((n_steps, N_ENVS, N_ACTIONS)) < 0.15).astype(np.float32) * 0.5
        done = rng.random((n_steps, N_ENVS)) < 0.3
        task = np.where(done, rng.integers(0, 12, size=done.shape), -1)
        _ingest(fast, observation, fatal, done, task)
        slow.ingest(observation, fatal, done, task)
        if not slow.known:
            continue
        result = _as_dict(fast)
        assert set(result) == set(slow.known)
        for task_id, rows in slow.known.items():
            assert result[task_id] == pytest.approx(rows)
        assert fast.n_pending == sum(1 for episodes in slow.episodes.values() if episodes)


def _rollout(
    n_steps: int, ends: dict[tuple[int, int], int], at_risk: set[tuple[int, int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """A rollout of two environments: where episodes end (with their task) and where an action is fatal."""
    observation = np.arange(n_steps * 2, dtype=np.float32).reshape(n_steps, 2, 1)
    fatal = np.zeros((n_steps, 2, N_ACTIONS), dtype=np.float32)
    done = np.zeros((n_steps, 2), dtype=bool)
    task = np.full((n_steps, 2), -1, dtype=np.int64)
    for place in at_risk:
        fatal[(*place, 2)] = 1.0
    for place, task_id in ends.items():
        done[place], task[place] = True, task_id
    return observation, fatal, done, task


def test_an_episode_that_spans_rollouts_keeps_its_earlier_rows() -> None:
    memory = _memory(1, 10)
    assert _ingest(memory, *_rollout(3, {}, {(1, 0)})) == 0
    assert _ingest(memory, *_rollout(3, {(0, 0): 7}, {(2, 0)})) == 1
    assert memory.task_id.tolist() == [7]
    assert memory.scored is not None
    assert memory.scored["observation"].ravel().tolist() == [2.0]  # step 1 of the first rollout


def test_a_task_without_fatal_actions_is_scored_and_has_no_rows() -> None:
    memory = _memory(1, 10)
    assert _ingest(memory, *_rollout(2, {(0, 0): 3, (1, 1): 4}, set())) == 2
    assert memory.task_id.tolist() == [3, 4]
    assert memory.scored is not None
    assert len(memory.scored) == 0


def test_the_oldest_tasks_are_forgotten() -> None:
    memory = _memory(1, 3)
    for task_id in range(5):
        _ingest(memory, *_rollout(1, {(0, 0): task_id}, {(0, 0)}))
    assert memory.task_id.tolist() == [2, 3, 4]
    assert memory.scored is not None
    assert memory.scored["task"].tolist() == [0, 1, 2]
    _ingest(memory, *_rollout(1, {(0, 0): 3}, set()))  # played again, this time without risk
    assert memory.task_id.tolist() == [2, 4, 3]
    assert memory.scored["task"].tolist() == [0, 1]
    many = _rollout(4, {(t, e): 100 + 2 * t + e for t in range(4) for e in range(2)}, {(3, 1)})
    assert _ingest(memory, *many) == 8
    assert len(memory.task_id) == 3
    assert 107 in memory.task_id


@pytest.mark.parametrize("resets", [True, False])
def test_what_is_begun_again_or_was_not_seen_from_its_beginning_is_not_scored(resets: bool) -> None:
    """A reset begins new episodes; without one, the episodes under way are ignored up to their ends."""
    memory = _memory(2, 10)
    _ingest(memory, *_rollout(2, {(0, 0): 1}, {(0, 0), (1, 0), (1, 1)}))
    memory.resume_episodes(np.full(2, resets), continues=False)
    _ingest(memory, *_rollout(2, {(0, 0): 1, (1, 0): 1, (1, 1): 5}, set()))
    assert memory.scored is not None
    assert memory.task_id.tolist() == [1]
    assert memory.episodes.tolist() == [3 if resets else 2]
    assert memory.scored["weight"].tolist() == [1 / 3 if resets else 0.5], "the row of the ended episode alone"
    assert memory.n_pending == (1 if resets else 0)


def test_episodes_continue_from_one_learn_to_the_next() -> None:
    memory = _memory(1, 10)
    _ingest(memory, *_rollout(2, {}, {(1, 0), (1, 1)}))
    memory.resume_episodes(np.array([False, True]), continues=True)  # the second environment was reset
    _ingest(memory, *_rollout(1, {(0, 0): 3, (0, 1): 4}, set()))
    assert memory.scored is not None
    assert memory.task_id[memory.scored["task"]].tolist() == [3]


def test_merging_adds_weights() -> None:
    columns = {
        "task": np.array([1, 0, 1]),
        "observation": np.zeros((3, 2), np.float32),
        "fatal": np.ones((3, 1), np.float32),
        "weight": np.array([0.25, 1.0, 0.5]),
        "episode": np.arange(3),
    }
    merged = VisitedStates(columns).merged(("observation", "fatal", "action_masks"))
    assert dict(zip(merged["task"].tolist(), merged["weight"].tolist(), strict=True)) == {0: 1.0, 1: 0.75}
    assert set(merged.columns) == {"task", "observation", "fatal", "weight"}


def test_a_state_is_the_memory() -> None:
    memory, restored = _memory(2, 10), _memory(2, 10)
    _ingest(memory, *_rollout(3, {(0, 0): 1, (1, 0): 1, (0, 1): 2}, {(0, 0), (2, 0), (0, 1)}))
    restored.load_state_dict(memory.state_dict())
    for one in (memory, restored):
        _ingest(one, *_rollout(2, {(0, 0): 2, (1, 1): 3}, {(1, 1)}))
    first, second = memory.state_dict(), restored.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_failure_rates_stand_beside_their_tasks() -> None:
    memory = _memory(2, 2)
    observation, fatal, done, task = _rollout(4, {(0, 0): 5, (1, 0): 5, (2, 0): 6, (3, 0): 6, (0, 1): 7}, set())
    failure = np.full(done.shape, np.nan)
    failure[:, 0], failure[0, 1] = [1, 0, 0, 0], 1
    _ingest(memory, observation, fatal, done, task, failure)
    assert (memory.task_id.tolist(), memory.episodes.tolist(), memory.failure_rate.tolist()) == (
        [5, 6],
        [2, 2],
        [0.5, 0],
    )
    observation, fatal, done, task = _rollout(2, {(0, 0): 7}, set())
    _ingest(memory, observation, fatal, done, task, np.zeros(done.shape))
    assert (memory.task_id.tolist(), memory.failure_rate.tolist()) == ([6, 7], [0, 0.5])


def test_new_rows_are_those_of_the_tasks_that_were_just_completed() -> None:
    memory = _memory(1, 10)
    _ingest(memory, *_rollout(3, {(0, 0): 1, (2, 0): 2}, {(0, 0), (1, 0), (2, 0)}))
    assert memory.new is not None
    assert memory.task_id[memory.new["task"]].tolist() == [1, 2, 2]
    assert len(set(memory.new["episode"].tolist())) == 2
    _ingest(memory, *_rollout(1, {(0, 1): 3}, {(0, 1)}))
    assert memory.task_id[memory.new["task"]].tolist() == [3]
