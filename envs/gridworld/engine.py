"""The batched engine: thousands of tasks stepped at once in numpy. Both vectorised environments call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.gridworld.rules import EMPTY
from envs.gridworld.world import GridWorld, TaskBatch

# Arrays of the running episodes, one entry per environment.
_EPISODE = ("row", "state", "step", "return", "risk")


def executed_moves(
    world: GridWorld, tasks: TaskBatch, row: NDArray[np.intp], action: NDArray[np.integer], rng: np.random.Generator
) -> NDArray[np.integer]:
    """The moves that are executed in b rows of ``tasks`` when actions are chosen: the actions, unless they slip."""
    slip_move = world.rules.slip_move
    if slip_move is None:
        return action
    slips = np.flatnonzero(rng.random(len(row)) < tasks.slip[row])
    if slips.size:
        action = action.copy()
        above = slip_move[action[slips]].cumsum(axis=1)
        action[slips] = (rng.random((slips.size, 1)) >= above).sum(axis=1)
    return action


def action_fatality(
    world: GridWorld, tasks: TaskBatch, row: NDArray[np.intp], state: NDArray[np.intp]
) -> NDArray[np.float64]:
    """P(failure at the next step | state, action) in b rows of ``tasks``, averaged over slips, shape (b, n_actions)."""
    rules = world.rules
    n_tiles = tasks.tile.shape[1]
    tile = tasks.tile.ravel().take(rules.cell[rules.move[state]] + (row * n_tiles)[:, None])
    fatal: NDArray[np.float64] = (tile != EMPTY).astype(np.float64)
    if rules.slip_move is None:
        return fatal
    slip = tasks.slip[row][:, None]
    mixed: NDArray[np.float64] = (1.0 - slip) * fatal + slip * (fatal @ rules.slip_move.T)
    return mixed


class TaskQueue:
    """Endless shuffled passes over a pool of tasks, each given out ``repeats`` times in a row. One queue serves all
    environments, so the repetitions of a task run in parallel and end within few rollouts.
    """

    def __init__(self, n_tasks: int, repeats: int, rng: np.random.Generator) -> None:
        self._n_tasks, self._repeats, self._rng = n_tasks, repeats, rng
        self._pass: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._next = 0

    def take(self, count: int) -> NDArray[np.intp]:
        """The next rows of the pool, shape (count,)."""
        while self._pass.size - self._next < count:
            fresh = np.repeat(self._rng.permutation(self._n_tasks), self._repeats)
            self._pass, self._next = np.concatenate([self._pass[self._next :], fresh]), 0
        rows = self._pass[self._next : self._next + count]
        self._next += count
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The rest of the pass, and the generator."""
        return {"pass": self._pass[self._next :].copy(), "queue_rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pass, self._next = state["pass"].copy(), 0
        self._rng.bit_generator.state = state["queue_rng"]


@dataclass(frozen=True, eq=False)
class StepResult:
    """Outcome of one step: shape (n_envs,) down to ``horizon``, then one entry per episode that ended.

    :param horizon: whether the episode ended at the horizon, as neither failure nor success
    :param ended: environments whose episode ended
    :param last_observation: observation at the end, shape (n_ended, dimension)
    :param risk: sum over the episode of P(failure at this step | state, chosen action)
    """

    reward: NDArray[np.float32]
    done: NDArray[np.bool_]
    horizon: NDArray[np.bool_]
    ended: NDArray[np.intp]
    last_observation: NDArray[np.float32]
    task_id: NDArray[np.int64]
    failure: NDArray[np.bool_]
    success: NDArray[np.bool_]
    risk: NDArray[np.float64]
    episode_return: NDArray[np.float64]
    episode_length: NDArray[np.intp]


class GridEngine:
    """Environments that share a pool and a queue of tasks; an episode that ends is replaced at once."""

    def __init__(
        self, world: GridWorld, task_ids: NDArray[np.int64], num_envs: int, episodes_per_task: int = 1, seed: int = 0
    ) -> None:
        if len(task_ids) == 0:
            raise ValueError("the pool of tasks is empty")
        if episodes_per_task < 1:
            raise ValueError(f"episodes_per_task must be at least 1, it is {episodes_per_task}")
        self.world, self.tasks = world, world.tasks(task_ids)
        self.num_envs, self.episodes_per_task = num_envs, episodes_per_task
        self._row, self._state, self._step = (np.zeros(num_envs, dtype=np.intp) for _ in range(3))
        self._return, self._risk = np.zeros(num_envs), np.zeros(num_envs)
        self._noisy = world.rules.slip_move is not None
        self._fatality: NDArray[np.float64] | None = None
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start a new queue and new slips; running episodes continue."""
        self._queue = TaskQueue(len(self.tasks), self.episodes_per_task, np.random.default_rng(seed))
        self._noise = np.random.default_rng([seed, 1])

    def reset(self) -> NDArray[np.float32]:
        """Start a new episode in every environment; observations of shape (num_envs, dimension)."""
        self._begin(np.arange(self.num_envs))
        return self.observe()

    def observe(self) -> NDArray[np.float32]:
        """Observations of the current states, shape (num_envs, dimension)."""
        return self.world.observation.encode(self.tasks, self._row, self._state)

    def fatal_probability(self) -> NDArray[np.float64]:
        """P(failure at the next step | state, action) in the current states, shape (num_envs, n_actions)."""
        # A noisy world needs it at every step for the episodes' risk, and the caller asks again.
        if self._fatality is None:
            self._fatality = action_fatality(self.world, self.tasks, self._row, self._state)
        return self._fatality

    def step(self, action: NDArray[np.integer]) -> StepResult:
        """Execute the chosen actions, shape (num_envs,); environments whose episode ends begin their next task."""
        world, rules = self.world, self.world.rules
        if self._noisy:
            self._risk += self.fatal_probability()[np.arange(self.num_envs), action]
            action = executed_moves(world, self.tasks, self._row, action, self._noise)
        self._state = rules.move[self._state, action]
        self._fatality = None
        self._step += 1
        cell = rules.cell[self._state]
        failure = self.tasks.tile[self._row, cell] != EMPTY
        success = cell == self.tasks.goal_cell[self._row]
        if not self._noisy:
            # Motion is deterministic: an executed action either fails or does not, so its risk is 0 or 1.
            self._risk += failure
        reward = (success * self.tasks.goal_reward[self._row]).astype(np.float32)
        if world.failure_cost:
            reward -= world.failure_cost * failure
        self._return += reward
        over = failure | success
        done = over | (self._step >= world.horizon)
        ended = np.flatnonzero(done)
        rows = self._row[ended]
        result = StepResult(
            reward=reward,
            done=done,
            horizon=done & ~over,
            ended=ended,
            last_observation=world.observation.encode(self.tasks, rows, self._state[ended]),
            task_id=self.tasks.task_id[rows],
            failure=failure[ended],
            success=success[ended],
            risk=self._risk[ended],
            episode_return=self._return[ended],
            episode_length=self._step[ended],
        )
        self._begin(ended)
        return result

    def state_dict(self) -> dict[str, Any]:
        """All that determines how the episodes continue: arrays and values that JSON can hold."""
        arrays = {name: getattr(self, f"_{name}").copy() for name in _EPISODE}
        fixed = {"world": repr(self.world), "pool": self.tasks.task_id.copy()}
        return fixed | arrays | {"noise_rng": self._noise.bit_generator.state} | self._queue.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from where :meth:`state_dict` was taken.

        :raises ValueError: another world, pool, or number of environments
        """
        if state["world"] != repr(self.world):
            raise ValueError(f"the saved state belongs to another world: {state['world']}, not {self.world!r}")
        if not np.array_equal(state["pool"], self.tasks.task_id):
            raise ValueError("the saved state belongs to another pool of tasks: give the same task_ids, in that order")
        if len(state["row"]) != self.num_envs:
            raise ValueError(f"the saved state has {len(state['row'])} environments, this engine has {self.num_envs}")
        for name in _EPISODE:
            setattr(self, f"_{name}", state[name].copy())
        self._noise.bit_generator.state = state["noise_rng"]
        self._queue.load_state_dict(state)
        self._fatality = None

    def _begin(self, envs: NDArray[np.intp]) -> None:
        self._row[envs] = self._queue.take(len(envs))
        self._state[envs] = self.tasks.start_state[self._row[envs]]
        self._step[envs] = self._return[envs] = self._risk[envs] = 0
        self._fatality = None
