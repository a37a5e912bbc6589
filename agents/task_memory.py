"""Which visited states made which task risky: the memory between rollouts and the term.

A task is described by *rows*, steps of its episodes that an estimator of its risk can use, and by how its episodes
ended. With the rows kept, the risk can be evaluated again under any later policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RiskLedger", "RiskRows"]

# The collections of rows that outlive an update; the fresh ones are replaced before they are read again.
_ROWS = ("rows", "_open", "_waiting")


@dataclass(frozen=True, eq=False)
class RiskRows:
    """Visited states, as a table.

    :param owner: shape (r,), int64: what the row belongs to, see where it is used
    :param columns: name to shape (r, ...). ``observation`` and ``weight`` always, ``fatal`` (r, n_actions) the fatal
        probability of each action, ``action`` (r, action_dim) and ``log_prob`` what was done and how probable it was,
        ``episode`` a number that rows of one episode share, ``failure`` whether that episode failed
    """

    owner: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return int(self.owner.shape[0])

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> RiskRows:
        return RiskRows(self.owner[rows], {name: column[rows] for name, column in self.columns.items()})

    @property
    def observation(self) -> NDArray[np.float32]:
        """Shape (r, *observation_shape)."""
        return self.columns["observation"]

    @property
    def fatal(self) -> NDArray[np.float32]:
        """Shape (r, n_actions), probability."""
        return self.columns["fatal"]

    @property
    def weight(self) -> NDArray[np.float64]:
        """Shape (r,), share of the row in its task's mean over episodes."""
        return self.columns["weight"]

    def owned_by(self, owner: NDArray[np.int64]) -> RiskRows:
        """The same rows with other owners, shape (r,)."""
        return RiskRows(owner, self.columns)

    def with_columns(self, **columns: NDArray[Any]) -> RiskRows:
        """The same rows with further or other columns."""
        return RiskRows(self.owner, self.columns | columns)

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
            {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()},
        )

    def merged(self, names: Sequence[str]) -> RiskRows:
        """One row for each distinct owner and value of some columns, the weights of equal rows added.

        :param names: the columns that are kept, beside ``weight``
        """
        rows = RiskRows(self.owner, {name: self.columns[name] for name in (*names, "weight")})
        if len(self) == 0:
            return rows
        n = len(self)
        key = np.concatenate(
            [
                np.ascontiguousarray(part).reshape(n, -1).view(np.uint8)
                for part in (self.owner, *(self.columns[name] for name in names))
            ],
            axis=1,
        )
        _, first, inverse = np.unique(
            key.view(np.dtype((np.void, key.shape[1]))).ravel(), return_index=True, return_inverse=True
        )
        weight = np.bincount(inverse, weights=self.weight, minlength=len(first)).astype(np.float64)
        return rows[first].with_columns(weight=weight)


class RiskLedger:
    """Rows of the most recently completed tasks.

    An episode enters when it has ended, a task when ``episodes_per_task`` of its episodes have: scoring what happens
    to be finished at a rollout's end would favour short episodes. Whatever is unfinished waits for the next rollout.

    :param episodes_per_task: episodes J after which a task counts as known
    :param capacity: number of known tasks kept; the oldest are forgotten
    :param condense: of the rows of complete tasks, what is remembered for as long as the task is known
    """

    def __init__(self, episodes_per_task: int, capacity: int, condense: Callable[[RiskRows], RiskRows]) -> None:
        self._episodes_per_task = episodes_per_task
        self._capacity = capacity
        self._condense = condense
        #: shape (n_tasks,): known tasks, oldest first
        self.task_id: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        #: shape (n_tasks,): episodes behind each known task
        self.episodes: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        #: shape (n_tasks,): share of them that ended in failure, NaN where the environment does not say
        self.failure_rate: NDArray[np.float64] = np.empty(0)
        #: rows of the known tasks; an owner is an index into :attr:`task_id`
        self.rows: RiskRows | None = None
        #: all rows of the tasks that became known at the latest :meth:`ingest`, owned likewise
        self.fresh: RiskRows | None = None
        self._open: RiskRows | None = None  # rows of running episodes; an owner is an environment
        self._waiting: RiskRows | None = None  # rows of finished episodes of unfinished tasks; an owner is a task id
        # task id -> (episodes finished, failures among them) since it was last published
        self._finished: dict[int, tuple[int, float]] = {}
        self._n_episodes = 0

    @property
    def n_waiting(self) -> int:
        """Number of tasks of which some but not all episodes have ended."""
        return len(self._finished)

    def forget_running_episodes(self) -> None:
        """The environments were reset: what they had begun will never end."""
        self._open = None

    def ingest(
        self,
        steps: dict[str, NDArray[Any]],
        kept: NDArray[np.bool_],
        done: NDArray[np.bool_],
        task_id: NDArray[np.int64],
        failure: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Take in one rollout.

        :param steps: columns of the rows, each of shape (n_steps, n_envs, ...): what belongs to the state before a step
        :param kept: shape (n_steps, n_envs), the steps that make a row
        :param done: shape (n_steps, n_envs), whether the step ended the episode
        :param task_id: shape (n_steps, n_envs), the task of the episode that ended there, read where ``done``
        :param failure: shape (n_steps, n_envs), 1 where that episode ended in failure and 0 where not, NaN where the
            environment does not say; read where ``done``
        :return: ids of the tasks that became known
        """
        step, env = np.nonzero(kept)
        # Episodes of an environment within this rollout are numbered 0, 1, ...; number 0 may have begun earlier.
        episode: NDArray[np.int64] = (np.cumsum(done, axis=0) - done)[step, env]
        columns = {name: column[step, env] for name, column in steps.items()} | {"weight": np.ones(len(step))}
        rows = RiskRows(env.astype(np.int64), columns)
        if self._open is not None:
            rows = self._open + rows
            episode = np.concatenate([np.zeros(len(self._open), dtype=episode.dtype), episode])
        ended = done.sum(axis=0)
        finished = episode < ended[rows.owner]
        self._open = rows[~finished]

        # Ended episodes, environment by environment in time order: episode j of environment e is entry first[e] + j.
        first = np.cumsum(ended) - ended
        ended_task, ended_failure = task_id.T[done.T], failure.T[done.T].astype(np.float64)
        closed = rows[finished]
        entry = first[closed.owner] + episode[finished]
        closed = closed.owned_by(ended_task[entry]).with_columns(
            episode=self._n_episodes + entry, failure=ended_failure[entry]
        )
        self._n_episodes += len(ended_task)
        self._waiting = closed if self._waiting is None else self._waiting + closed
        for task, failed in zip(ended_task.tolist(), ended_failure.tolist(), strict=True):
            count, failures = self._finished.get(task, (0, 0.0))
            self._finished[task] = (count + 1, failures + failed)
        complete = [task for task, (count, _) in self._finished.items() if count >= self._episodes_per_task]
        return self._publish(np.array(complete, dtype=np.int64))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that is known and all that waits, as flat arrays."""
        state: dict[str, NDArray[Any]] = {
            "task_id": self.task_id,
            "episodes": self.episodes,
            "failure_rate": self.failure_rate,
            "n_episodes": np.array(self._n_episodes),
            "finished_task": np.array(list(self._finished), dtype=np.int64),
            "finished_count": np.array([count for count, _ in self._finished.values()], dtype=np.int64),
            "finished_failures": np.array([failures for _, failures in self._finished.values()], dtype=np.float64),
        }
        for name in _ROWS:
            rows: RiskRows | None = getattr(self, name)
            if rows is not None:
                state[f"{name}.owner"] = rows.owner
                state |= {f"{name}.{column}": value for column, value in rows.columns.items()}
        return state

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.task_id, self.episodes, self.failure_rate = (
            state[name] for name in ("task_id", "episodes", "failure_rate")
        )
        self._n_episodes = int(state["n_episodes"])
        counts = zip(state["finished_count"].tolist(), state["finished_failures"].tolist(), strict=True)
        self._finished = dict(zip(state["finished_task"].tolist(), counts, strict=True))
        for name in _ROWS:
            columns = {
                key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")
            }
            setattr(self, name, RiskRows(columns.pop("owner"), columns) if columns else None)

    def _publish(self, task: NDArray[np.int64]) -> NDArray[np.int64]:
        """Move complete tasks from waiting to known; a task known from earlier is replaced."""
        assert self._waiting is not None
        order = np.argsort(task)
        place, is_complete = _find(task[order], self._waiting.owner)
        new = self._waiting[is_complete]
        self._waiting = self._waiting[~is_complete]
        counts = [self._finished.pop(t) for t in task.tolist()]
        episodes = np.array([count for count, _ in counts], dtype=np.int64)
        failures = np.array([failed for _, failed in counts], dtype=np.float64)
        owner = order[place[is_complete]]
        new = new.owned_by(owner).with_columns(weight=new.weight / episodes[owner])

        _, replaced = _find(task[order], self.task_id)
        known = np.concatenate([self.task_id[~replaced], task])
        forgotten = max(0, len(known) - self._capacity)
        self.task_id = known[forgotten:]
        self.episodes = np.concatenate([self.episodes[~replaced], episodes])[forgotten:]
        self.failure_rate = np.concatenate([self.failure_rate[~replaced], failures / episodes])[forgotten:]
        # Where each task, old or new, stands among the remembered ones; negative if forgotten or replaced.
        n_old = len(known) - len(task)
        old_place = np.where(replaced, -1, np.cumsum(~replaced) - 1 - forgotten)
        new_place = np.arange(n_old, len(known)) - forgotten
        parts = [self._condense(new).placed(new_place)]
        if self.rows is not None:
            parts.insert(0, self.rows.placed(old_place))
        self.rows = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        self.fresh = new.placed(new_place)
        return task


def _find(ordered: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Position of each value in an ordered array (0 where absent), and whether it is there."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=np.intp), np.zeros(len(values), dtype=np.bool_)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return place, ordered[place] == values
