"""The ledger against a slow dictionary that does the same by hand, and its promises one by one."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.risk import DirectEstimator
from agents.task_memory import RiskLedger, RiskRows

N_ENVS, N_ACTIONS = 5, 3


def _ledger(episodes_per_task: int, capacity: int) -> RiskLedger:
    return RiskLedger(episodes_per_task, capacity, DirectEstimator().condense)


def _ingest(
    ledger: RiskLedger,
    observation: NDArray[np.float32],
    fatal: NDArray[np.float32],
    done: NDArray[np.bool_],
    task: NDArray[np.int64],
    failure: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    failure = np.full(done.shape, np.nan) if failure is None else failure
    return ledger.ingest({"observation": observation, "fatal": fatal}, fatal.any(axis=2), done, task, failure)


class SlowLedger:
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


def _as_dict(ledger: RiskLedger) -> dict[int, dict[tuple[tuple[float, ...], tuple[float, ...]], float]]:
    assert ledger.rows is not None
    result: dict[int, dict[tuple[tuple[float, ...], tuple[float, ...]], float]] = {int(i): {} for i in ledger.task_id}
    rows = ledger.rows
    for owner, observation, fatal, weight in zip(rows.owner, rows.observation, rows.fatal, rows.weight, strict=True):
        key = (tuple(observation), tuple(fatal))
        task = result[int(ledger.task_id[owner])]
        assert key not in task, "rows of a task are merged"
        task[key] = float(weight)
    return result


@pytest.mark.parametrize("episodes_per_task", [1, 2, 4])
def test_equals_a_slow_ledger(episodes_per_task: int) -> None:
    rng = np.random.default_rng(episodes_per_task)
    fast, slow = _ledger(episodes_per_task, 10_000), SlowLedger(episodes_per_task, 10_000)
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
        assert fast.n_waiting == sum(1 for episodes in slow.episodes.values() if episodes)


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
    ledger = _ledger(episodes_per_task=1, capacity=10)
    assert len(_ingest(ledger, *_rollout(3, {}, {(1, 0)}))) == 0
    published = _ingest(ledger, *_rollout(3, {(0, 0): 7}, {(2, 0)}))
    assert published.tolist() == [7]
    assert ledger.rows is not None
    assert ledger.rows.observation.ravel().tolist() == [2.0]  # step 1 of the first rollout, not step 2 of the second


def test_a_task_without_fatal_actions_is_known_and_has_no_rows() -> None:
    ledger = _ledger(1, 10)
    assert _ingest(ledger, *_rollout(2, {(0, 0): 3, (1, 1): 4}, set())).tolist() == [3, 4]
    assert ledger.rows is not None
    assert len(ledger.rows) == 0


def test_the_oldest_tasks_are_forgotten() -> None:
    ledger = _ledger(1, capacity=3)
    for task_id in range(5):
        _ingest(ledger, *_rollout(1, {(0, 0): task_id}, {(0, 0)}))
    assert ledger.task_id.tolist() == [2, 3, 4]
    assert ledger.rows is not None
    assert ledger.rows.owner.tolist() == [0, 1, 2]
    _ingest(ledger, *_rollout(1, {(0, 0): 3}, set()))  # played again, this time without risk
    assert ledger.task_id.tolist() == [2, 4, 3]
    assert ledger.rows.owner.tolist() == [0, 1]
    many = _rollout(4, {(t, e): 100 + 2 * t + e for t in range(4) for e in range(2)}, {(3, 1)})
    assert len(_ingest(ledger, *many)) == 8
    assert len(ledger.task_id) == 3
    assert 107 in ledger.task_id


def test_a_reset_drops_running_episodes_only() -> None:
    ledger = _ledger(2, 10)
    _ingest(ledger, *_rollout(2, {(0, 0): 1}, {(0, 0), (1, 0)}))
    ledger.forget_running_episodes()
    _ingest(ledger, *_rollout(1, {(0, 0): 1}, set()))
    assert ledger.rows is not None
    assert ledger.task_id.tolist() == [1]
    assert ledger.rows.weight.tolist() == [0.5]


def test_merging_adds_weights() -> None:
    columns = {
        "observation": np.zeros((3, 2), np.float32),
        "fatal": np.ones((3, 1), np.float32),
        "weight": np.array([0.25, 1.0, 0.5]),
        "episode": np.arange(3),
    }
    merged = RiskRows(np.array([1, 0, 1]), columns).merged(("observation", "fatal"))
    assert dict(zip(merged.owner.tolist(), merged.weight.tolist(), strict=True)) == {0: 1.0, 1: 0.75}
    assert set(merged.columns) == {"observation", "fatal", "weight"}


def test_failure_rates_stand_beside_their_tasks() -> None:
    ledger = _ledger(episodes_per_task=2, capacity=2)
    observation, fatal, done, task = _rollout(4, {(0, 0): 5, (1, 0): 5, (2, 0): 6, (3, 0): 6, (0, 1): 7}, set())
    failure = np.full(done.shape, np.nan)
    failure[:, 0], failure[0, 1] = [1, 0, 0, 0], 1
    _ingest(ledger, observation, fatal, done, task, failure)
    assert (ledger.task_id.tolist(), ledger.episodes.tolist(), ledger.failure_rate.tolist()) == (
        [5, 6],
        [2, 2],
        [0.5, 0],
    )
    observation, fatal, done, task = _rollout(2, {(0, 0): 7}, set())
    _ingest(ledger, observation, fatal, done, task, np.zeros(done.shape))
    assert (ledger.task_id.tolist(), ledger.failure_rate.tolist()) == ([6, 7], [0, 0.5])


def test_fresh_rows_are_those_of_the_tasks_that_just_became_known() -> None:
    ledger = _ledger(1, 10)
    _ingest(ledger, *_rollout(3, {(0, 0): 1, (2, 0): 2}, {(0, 0), (1, 0), (2, 0)}))
    assert ledger.fresh is not None
    assert ledger.task_id[ledger.fresh.owner].tolist() == [1, 2, 2]
    assert len(set(ledger.fresh.columns["episode"].tolist())) == 2
    _ingest(ledger, *_rollout(1, {(0, 1): 3}, {(0, 1)}))
    assert ledger.task_id[ledger.fresh.owner].tolist() == [3]
