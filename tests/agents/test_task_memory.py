"""The memory of tasks against a slow dictionary that does the same by hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.risk import DirectRisk
from agents.task_memory import RolloutRecord, TaskMemory

N_ENVS, N_ACTIONS = 5, 3
Row = tuple[tuple[float, ...], tuple[float, ...]]


def _memory(episodes_per_task: int, capacity: int) -> TaskMemory:
    memory = TaskMemory(episodes_per_task, capacity, DirectRisk().compress)
    memory.resume_episodes(np.ones(N_ENVS, dtype=bool), continues=False)
    return memory


class SlowMemory:
    """Episode by episode, step by step."""

    def __init__(self, episodes_per_task: int, capacity: int) -> None:
        self.episodes_per_task, self.capacity = episodes_per_task, capacity
        # The rows of the episode under way in each environment; None where its beginning was not seen.
        self.running: list[list[Row] | None] = [[] for _ in range(N_ENVS)]
        self.ended: dict[int, list[tuple[list[Row], float]]] = defaultdict(list)
        self.scored: dict[int, tuple[dict[Row, float], int, float]] = {}
        self.new: dict[int, list[list[Row]]] = {}

    def resume(self, starts: NDArray[np.bool_], continues: bool) -> None:
        for env, start in enumerate(starts):
            self.running[env] = [] if start else self.running[env] if continues else None

    def ingest(self, observation: Any, fatal: Any, done: Any, task: Any, failure: Any) -> None:
        for env in range(N_ENVS):
            for t in range(len(done)):
                running = self.running[env]
                if running is not None and fatal[t, env].any():
                    running.append((tuple(observation[t, env]), tuple(fatal[t, env])))
                if done[t, env]:
                    if running is not None:
                        self.ended[int(task[t, env])].append((running, float(failure[t, env])))
                    self.running[env] = []
        self.new = {}
        for i in [i for i, episodes in self.ended.items() if len(episodes) >= self.episodes_per_task]:
            episodes = self.ended.pop(i)
            rows: dict[Row, float] = defaultdict(float)
            for episode, _ in episodes:
                for row in episode:
                    rows[row] += 1 / len(episodes)
            self.scored.pop(i, None)
            self.scored[i] = (rows, len(episodes), sum(failed for _, failed in episodes) / len(episodes))
            self.new[i] = [episode for episode, _ in episodes]
        self.n_completed = len(self.new)
        for i in list(self.scored)[: -self.capacity]:
            del self.scored[i]
        self.new = {i: episodes for i, episodes in self.new.items() if i in self.scored}


def _assert_equal(memory: TaskMemory, slow: SlowMemory) -> None:
    assert memory.task_id.tolist() == list(slow.scored)
    assert memory.n_pending == sum(1 for episodes in slow.ended.values() if episodes)
    assert memory.episodes.tolist() == [n for _, n, _ in slow.scored.values()]
    np.testing.assert_allclose(memory.failure_rate, [rate for _, _, rate in slow.scored.values()])
    assert memory.scored is not None
    assert memory.new is not None
    rows: dict[int, dict[Row, float]] = {i: {} for i in slow.scored}
    columns = (memory.scored[name] for name in ("task", "observation", "fatal", "weight"))
    for place, observation, fatal, weight in zip(*columns, strict=True):
        task, row = rows[int(memory.task_id[place])], (tuple(observation), tuple(fatal))
        assert row not in task, "equal rows of a task are merged"
        task[row] = float(weight)
    for i, (expected, _, _) in slow.scored.items():
        assert rows[i] == pytest.approx(expected)
    # New rows stand by themselves, each with its episode.
    new: dict[tuple[int, int], list[Row]] = defaultdict(list)
    columns = (memory.new[name] for name in ("task", "episode", "observation", "fatal"))
    for place, episode, observation, fatal in zip(*columns, strict=True):
        new[int(memory.task_id[place]), int(episode)].append((tuple(observation), tuple(fatal)))
    assert Counter((i, tuple(rows)) for (i, _), rows in new.items()) == Counter(
        (i, tuple(rows)) for i, episodes in slow.new.items() for rows in episodes if rows
    )


@pytest.mark.parametrize("capacity", [1000, 4])
@pytest.mark.parametrize("episodes_per_task", [1, 2, 4])
def test_equals_a_slow_memory(episodes_per_task: int, capacity: int) -> None:
    """Episodes span rollouts, some end without any risk, some begin unseen, and the state moves to another memory."""
    rng = np.random.default_rng(episodes_per_task)
    memory, slow = _memory(episodes_per_task, capacity), SlowMemory(episodes_per_task, capacity)
    for _ in range(60):
        n_steps = int(rng.integers(1, 9))
        # Few distinct observations, so that rows merge; few tasks, so that tasks come again.
        observation = rng.integers(0, 3, size=(n_steps, N_ENVS, 2)).astype(np.float32)
        fatal: Any = (rng.random((n_steps, N_ENVS, N_ACTIONS)) < 0.15).astype(np.float32) * 0.5
        done: Any = rng.random((n_steps, N_ENVS)) < 0.3
        task = np.where(done, rng.integers(0, 12, size=done.shape), -1)
        failure = rng.integers(0, 2, size=done.shape).astype(float)
        record = RolloutRecord(with_fatal=True, with_failure=False)
        record.done, record.task_id, record.failure = done, task, failure
        n_completed = memory.ingest({"observation": observation, "fatal": fatal}, fatal.any(axis=2), record)
        slow.ingest(observation, fatal, done, task, failure)
        assert n_completed == slow.n_completed
        _assert_equal(memory, slow)
        if rng.random() < 0.3:
            starts, continues = rng.random(N_ENVS) < 0.5, bool(rng.random() < 0.5)
            memory.resume_episodes(starts, continues)
            slow.resume(starts, continues)
        if rng.random() < 0.2:
            state, memory = memory.state_dict(), _memory(episodes_per_task, capacity)
            memory.load_state_dict(state)
    assert len(slow.scored) == min(capacity, 12)
