"""Which visited states made which task risky: the memory between rollouts and the forecast term.

The failure probability of task i under policy pi is estimated without a single failure (Rao-Blackwell over actions) as

    p_i = 1/J  sum over its J episodes, sum over visited states s:  sum_a pi(a | s) fatal(s, a)

so a task is fully described by its *rows*: visited observations with a fatal action, their fatal probabilities and
weights. With the rows kept, p_i can be evaluated again under any later policy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RiskLedger", "RiskRows"]

# The ledger's three collections of rows.
_ROWS = ("rows", "_open", "_waiting")


@dataclass(frozen=True, eq=False)
class RiskRows:
    """Visited states with a fatal action.

    :param owner: shape (r,), int64: what the row belongs to, see where it is used
    :param observation: shape (r, *observation_shape)
    :param fatal: shape (r, n_actions), probability
    :param weight: shape (r,)
    """

    owner: NDArray[np.int64]
    observation: NDArray[np.float32]
    fatal: NDArray[np.float32]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.owner.shape[0])

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> RiskRows:
        return RiskRows(self.owner[rows], self.observation[rows], self.fatal[rows], self.weight[rows])

    def owned_by(self, owner: NDArray[np.int64]) -> RiskRows:
        """The same rows with other owners, shape (r,)."""
        return RiskRows(owner, self.observation, self.fatal, self.weight)

    def placed(self, place: NDArray[np.int64]) -> RiskRows:
        """The rows whose owner has a place, owned by that place.

        :param place: shape (n_owners,), new owner of each old one, negative to drop its rows
        """
        owner = place[self.owner]
        if (owner >= 0).all():
            return self.owned_by(owner)
        kept = self[owner >= 0]
        return kept.owned_by(owner[owner >= 0])

    def __add__(self, other: RiskRows) -> RiskRows:
        return RiskRows(
            np.concatenate([self.owner, other.owner]),
            np.concatenate([self.observation, other.observation]),
            np.concatenate([self.fatal, other.fatal]),
            np.concatenate([self.weight, other.weight]),
        )

    def merged(self) -> RiskRows:
        """One row for each distinct (owner, observation, fatal), the weights of equal rows added."""
        if len(self) == 0:
            return self
        n = len(self)
        key = np.concatenate(
            [
                np.ascontiguousarray(part).reshape(n, -1).view(np.uint8)
                for part in (self.owner, self.observation, self.fatal)
            ],
            axis=1,
        )
        _, first, inverse = np.unique(
            key.view(np.dtype((np.void, key.shape[1]))).ravel(), return_index=True, return_inverse=True
        )
        weight = np.bincount(inverse, weights=self.weight, minlength=len(first)).astype(np.float64)
        rows = self[first]
        return RiskRows(rows.owner, rows.observation, rows.fatal, weight)


class RiskLedger:
    """Rows of the most recently completed tasks.

    An episode enters when it has ended, a task when ``episodes_per_task`` of its episodes have: scoring what happens
    to be finished at a rollout's end would favour short episodes. Whatever is unfinished waits for the next rollout.

    :param episodes_per_task: episodes J after which a task counts as known
    :param capacity: number of known tasks kept; the oldest are forgotten
    """

    def __init__(self, episodes_per_task: int, capacity: int) -> None:
        self._episodes_per_task = episodes_per_task
        self._capacity = capacity
        #: shape (n_tasks,): known tasks, oldest first
        self.task_id: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        #: rows of the known tasks; an owner is an index into :attr:`task_id`
        self.rows: RiskRows | None = None
        self._open: RiskRows | None = None  # rows of running episodes; an owner is an environment
        self._waiting: RiskRows | None = None  # rows of finished episodes of unfinished tasks; an owner is a task id
        self._finished: dict[int, int] = {}  # task id -> episodes finished since it was last published

    @property
    def n_waiting(self) -> int:
        """Number of tasks of which some but not all episodes have ended."""
        return len(self._finished)

    def forget_running_episodes(self) -> None:
        """The environments were reset: what they had begun will never end."""
        self._open = None

    def ingest(
        self,
        observation: NDArray[np.float32],
        fatal: NDArray[np.float32],
        done: NDArray[np.bool_],
        task_id: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Take in one rollout.

        :param observation: shape (n_steps, n_envs, *observation_shape), before each step
        :param fatal: shape (n_steps, n_envs, n_actions), probability, of the same states
        :param done: shape (n_steps, n_envs), whether the step ended the episode
        :param task_id: shape (n_steps, n_envs), the task of the episode that ended there, read where ``done``
        :return: ids of the tasks that became known
        """
        step, env = np.nonzero(fatal.any(axis=2))
        # Episodes of an environment within this rollout are numbered 0, 1, ...; number 0 may have begun earlier.
        episode: NDArray[np.int64] = (np.cumsum(done, axis=0) - done)[step, env]
        rows = RiskRows(env.astype(np.int64), observation[step, env], fatal[step, env], np.ones(len(step)))
        if self._open is not None:
            rows = self._open + rows
            episode = np.concatenate([np.zeros(len(self._open), dtype=episode.dtype), episode])
        ended = done.sum(axis=0)
        finished = episode < ended[rows.owner]
        self._open = rows[~finished]

        # Tasks of the ended episodes, environment by environment in time order: episode j of environment e is entry
        # first[e] + j.
        first = np.cumsum(ended) - ended
        ended_task = task_id.T[done.T]
        closed = rows[finished]
        closed = closed.owned_by(ended_task[first[closed.owner] + episode[finished]])
        self._waiting = closed if self._waiting is None else self._waiting + closed
        for task in ended_task.tolist():
            self._finished[task] = self._finished.get(task, 0) + 1
        complete = [task for task, count in self._finished.items() if count >= self._episodes_per_task]
        return self._publish(np.array(complete, dtype=np.int64))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that is known and all that waits, as flat arrays."""
        state: dict[str, NDArray[Any]] = {
            "task_id": self.task_id,
            "finished_task": np.array(list(self._finished), dtype=np.int64),
            "finished_count": np.array(list(self._finished.values()), dtype=np.int64),
        }
        for name in _ROWS:
            rows: RiskRows | None = getattr(self, name)
            if rows is not None:
                state |= {f"{name}.{field.name}": getattr(rows, field.name) for field in fields(rows)}
        return state

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.task_id = state["task_id"]
        self._finished = dict(zip(state["finished_task"].tolist(), state["finished_count"].tolist(), strict=True))
        for name in _ROWS:
            there = f"{name}.owner" in state
            setattr(self, name, RiskRows(*(state[f"{name}.{f.name}"] for f in fields(RiskRows))) if there else None)

    def _publish(self, task: NDArray[np.int64]) -> NDArray[np.int64]:
        """Move complete tasks from waiting to known; a task known from earlier is replaced."""
        assert self._waiting is not None
        order = np.argsort(task)
        place, is_complete = _find(task[order], self._waiting.owner)
        new = self._waiting[is_complete]
        self._waiting = self._waiting[~is_complete]
        episodes = np.array([self._finished.pop(t) for t in task.tolist()], dtype=np.float64)
        owner = order[place[is_complete]]
        new = RiskRows(owner, new.observation, new.fatal, new.weight / episodes[owner]).merged()

        _, replaced = _find(task[order], self.task_id)
        known = np.concatenate([self.task_id[~replaced], task])
        forgotten = max(0, len(known) - self._capacity)
        self.task_id = known[forgotten:]
        # Where each task, old or new, stands among the remembered ones; negative if forgotten or replaced.
        n_old = len(known) - len(task)
        old_place = np.where(replaced, -1, np.cumsum(~replaced) - 1 - forgotten)
        new_place = np.arange(n_old, len(known)) - forgotten
        parts = [new.placed(new_place)]
        if self.rows is not None:
            parts.insert(0, self.rows.placed(old_place))
        self.rows = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return task


def _find(ordered: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Position of each value in an ordered array (0 where absent), and whether it is there."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=np.intp), np.zeros(len(values), dtype=np.bool_)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return place, ordered[place] == values
