"""Which visited states made which task risky: what is recorded of a rollout, and remembered from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, TASK_ID, BatchedRiskEnv


def flat_observation(observation: NDArray[np.float32] | dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Observations of a rollout as one array, shape (n_steps, n_envs, ...): those of a ``Dict`` space flat, its keys
    one after the other, so that a remembered state is one array whatever the space.
    """
    if not isinstance(observation, dict):
        return observation
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in observation.values()], axis=2)


def wrapped_env(env: VecEnv, kind: Any) -> Any:
    """The first environment of a class or protocol, from the outermost wrapper inwards; the innermost of all if there
    is none.
    """
    while not isinstance(env, kind) and isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def fatal_source(env: VecEnv) -> Callable[[NDArray[np.bool_] | None, list[dict[str, Any]] | None], Any] | None:
    """How to ask an environment for the fatal probabilities of its current states.

    A batched one has the method ``fatal_probability()``; else the infos carry it; else each environment has the method.

    :param env: a vectorised environment that has been reset
    :return: a function of the latest step's dones and infos (``None``: no step since the reset) that gives shape
        (n_envs, n_actions); ``None`` if the environment does not report any
    """
    batched = wrapped_env(env, BatchedRiskEnv)
    if isinstance(batched, BatchedRiskEnv):
        return lambda dones, infos: batched.fatal_probability()
    # A wrapper has reset_infos of its own, which stay empty; some environments have none.
    resets = getattr(batched, "reset_infos", [])
    if resets and all(FATAL_PROBABILITY in info for info in resets):

        def read(dones: NDArray[np.bool_] | None, infos: list[dict[str, Any]] | None) -> NDArray[np.float32]:
            current = batched.reset_infos
            if dones is not None and infos is not None:
                # After an automatic reset the state is the new episode's first, described by the reset's info.
                current = [reset if done else info for done, info, reset in zip(dones, infos, current, strict=True)]
            return _stacked([info.get(FATAL_PROBABILITY) for info in current])

        return read
    if env.has_attr(FATAL_PROBABILITY):
        return lambda dones, infos: _stacked(env.env_method(FATAL_PROBABILITY))
    return None


def _stacked(rows: list[Any]) -> NDArray[np.float32]:
    arrays = [np.asarray(row if row is not None else np.nan, dtype=np.float32) for row in rows]
    if any(array.shape != arrays[0].shape or array.ndim != 1 for array in arrays):
        raise ValueError(
            "fatal_probability must have shape (n_actions,) in the info of every step and reset, it has "
            f"{sorted({array.shape for array in arrays})}; shape () means that an info lacks it"
        )
    return np.stack(arrays)


class RolloutRecord:
    """What the environment says of risk during one rollout, aligned with the rollout buffer.

    The fatal probability belongs to the observation *before* a step, the end of an episode and its task to the step
    itself.

    :param with_fatal: whether to record fatal probabilities; without, the environment needs to report none
    :param with_failure: whether every episode must say if it failed

    Attributes at the end of a rollout: ``fatal``, shape (n_steps, n_envs, n_actions), probability, ``None`` without;
    ``done``, shape (n_steps, n_envs); ``task_id`` and ``failure``, same shape, read where ``done`` (failure is 1, 0, or
    NaN where the environment does not say); ``success``, one bool per ended episode that carries ``is_success``.
    """

    def __init__(self, with_fatal: bool, with_failure: bool) -> None:
        self._with_fatal, self._asked = with_fatal, (TASK_ID, FAILURE) if with_failure else (TASK_ID,)
        self.fatal: NDArray[np.float32] | None = None
        self.success: list[bool] = []
        #: fatal probabilities of the states that the next step is taken in
        self.current: NDArray[np.float32] | None = None

    def begin(self, env: VecEnv, continues: bool) -> None:
        """Prepare for an environment that has been reset, or continues where the latest rollout ended.

        :raises ValueError: fatal probabilities of another shape than the actions
        """
        self._read = fatal_source(env) if self._with_fatal else None
        if self._read is not None and not (continues and self.current is not None):
            self.current = self._read(None, None)
            expected = (env.num_envs, int(env.action_space.n))  # type: ignore[attr-defined]
            if self.current.shape != expected:
                raise ValueError(f"fatal_probability must have shape {expected}, it has {self.current.shape}")
        self._n_envs = env.num_envs

    def clear(self, n_steps: int) -> None:
        shape = (n_steps, self._n_envs)
        self.fatal = None if self.current is None else np.zeros((*shape, self.current.shape[1]), dtype=np.float32)
        self.done = np.zeros(shape, dtype=np.bool_)
        self.task_id = np.full(shape, -1, dtype=np.int64)
        self.failure = np.full(shape, np.nan)
        self.success = []
        self._position = 0

    def step(self, dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> None:
        """Record one step of all environments.

        :raises ValueError: an info lacks what the contract asks for, or a task id is no integer from 0 on
        """
        t = self._position
        if self.fatal is not None and self._read is not None:
            self.fatal[t] = self.current
            self.current = self._read(dones, infos)
        self.done[t] = dones
        for i in np.flatnonzero(dones).tolist():
            info = infos[i]
            for key in self._asked:
                if key not in info:
                    raise ValueError(f"the last info of an episode must carry {key!r}, it has {sorted(info)}")
            task = info[TASK_ID]
            if isinstance(task, bool | np.bool_) or not isinstance(task, int | np.integer) or not 0 <= task < 2**63:
                raise ValueError(f"task_id must be an integer from 0 to 2**63 - 1, it is {task!r}")
            self.task_id[t, i] = task
            self.failure[t, i] = float(info.get(FAILURE, np.nan))
            if "is_success" in info:
                self.success.append(bool(info["is_success"]))
        self._position += 1

    def state_dict(self) -> dict[str, Any]:
        return {} if self.current is None else {"current": self.current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.current = state.get("current")

    def columns(self, buffer: Any, with_actions: bool) -> dict[str, NDArray[Any]]:
        """Columns of :class:`VisitedStates`, each of shape (n_steps, n_envs, ...). To be called before the update,
        whose minibatches reshape the buffer in place.

        :raises ValueError: a fatal probability outside [0, 1]
        """
        columns: dict[str, Any] = {"observation": flat_observation(buffer.observations)}
        if self.fatal is not None:
            if not (self.fatal.min() >= 0 and self.fatal.max() <= 1):
                wrong = self.fatal[~((self.fatal >= 0) & (self.fatal <= 1))][0]
                raise ValueError(f"fatal_probability must lie in [0, 1], the environment reports {wrong}")
            columns["fatal"] = self.fatal
        if with_actions:
            columns |= {"action": buffer.actions, "log_prob": buffer.log_probs}
        if hasattr(buffer, "action_masks"):
            columns["action_masks"] = buffer.action_masks
        if hasattr(buffer, "hidden_states_pi"):
            columns |= {"hidden": buffer.hidden_states_pi.swapaxes(1, 2), "cell": buffer.cell_states_pi.swapaxes(1, 2)}
            columns["episode_starts"] = buffer.episode_starts
        return columns


class VisitedStates:
    """Visited states as a table: columns of one length, by name.

    ``task`` is the position of the row's task among the scored tasks, ``weight`` the row's share in the task's mean
    over episodes, ``observation`` the state; ``fatal`` the probability, for each action, that it causes a failure;
    ``action`` and ``log_prob`` what was done and how probable it was; ``episode`` a number for each episode and
    ``failure`` whether it failed. ``action_masks``, ``hidden``, ``cell`` and ``episode_starts`` belong to policies of
    sb3-contrib.

    :param columns: name to shape (r, ...)
    """

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> VisitedStates:
        return VisitedStates({name: column[rows] for name, column in self.columns.items()})

    def adding(self, **columns: NDArray[Any]) -> VisitedStates:
        return VisitedStates(self.columns | columns)

    def at(self, position: NDArray[np.int64]) -> VisitedStates:
        """The rows with new positions of their tasks, shape (n_tasks,); a negative one drops its rows."""
        moved = self.adding(task=position[self["task"]])
        return moved if (moved["task"] >= 0).all() else moved.where(moved["task"] >= 0)

    def __add__(self, other: VisitedStates) -> VisitedStates:
        return VisitedStates({name: np.concatenate([part, other[name]]) for name, part in self.columns.items()})

    def merged(self, names: Sequence[str]) -> VisitedStates:
        """One row for each distinct task and value of the named columns, as far as there are any, the weights of equal
        rows added. Other columns are dropped.
        """
        names = ["task", *(name for name in names if name in self.columns)]
        rows = VisitedStates({name: self[name] for name in [*names, "weight"]})
        n = len(self)
        if n == 0:
            return rows
        key = np.hstack([np.ascontiguousarray(self[name]).reshape(n, -1).view(np.uint8) for name in names])
        _, first, inverse = np.unique(
            key.view(np.dtype((np.void, key.shape[1]))).ravel(), return_index=True, return_inverse=True
        )
        weight = np.bincount(inverse, weights=self["weight"], minlength=len(first))
        return rows.where(first).adding(weight=weight)


class TaskMemory:
    """Visited states of the most recently completed tasks.

    An episode counts when it has ended, a task when ``episodes_per_task`` of its episodes have: scoring what happens to
    be finished at a rollout's end would favour short episodes. Whatever is unfinished waits for the next rollout.

    :param episodes_per_task: episodes J after which a task is scored
    :param capacity: number of scored tasks kept; the oldest are forgotten
    :param compress: of the rows of completed tasks, what is remembered

    Attributes: ``task_id``, ``episodes`` and ``failure_rate``, shape (n_tasks,), of the scored tasks, oldest first (the
    rate is NaN where the environment does not report failures); ``scored``, their rows; ``new``, all rows of the tasks
    that the latest rollout completed.
    """

    def __init__(
        self, episodes_per_task: int, capacity: int, compress: Callable[[VisitedStates], VisitedStates]
    ) -> None:
        self.episodes_per_task = episodes_per_task
        self.capacity = capacity
        self._compress = compress
        self.task_id: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.episodes: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.failure_rate: NDArray[np.float64] = np.empty(0)
        self.scored: VisitedStates | None = None
        self.new: VisitedStates | None = None
        self._pending: VisitedStates | None = None
        # Number of the episode under way in each environment; -1 where its beginning was not seen.
        self._running: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._n_episodes = 0
        # Task to number and failure of each of its ended episodes, while they are fewer than episodes_per_task.
        self._ended: dict[int, list[tuple[int, float]]] = {}

    @property
    def n_pending(self) -> int:
        """Number of tasks that were played, but not often enough."""
        return len(self._ended)

    def resume_episodes(self, starts: NDArray[np.bool_], continues: bool) -> None:
        """Say what the environments are about to play.

        :param starts: shape (n_envs,), which of them begin an episode
        :param continues: whether the others continue the episode of the latest rollout; if not, they are ignored up to
            their next end, so that no task is scored from half an episode
        """
        running = self._running if continues and len(self._running) == len(starts) else np.full(len(starts), -1)
        lost = np.setdiff1d(self._running, running[~starts])
        if self._pending is not None and len(lost):
            self._pending = self._pending.where(~np.isin(self._pending["episode"], lost))
        fresh = starts & (running < 0)
        running = np.where(fresh, self._n_episodes + np.cumsum(fresh) - 1, running)
        self._n_episodes += int(fresh.sum())
        self._running = running.astype(np.int64)

    def ingest(self, steps: dict[str, NDArray[Any]], selected: NDArray[np.bool_], record: RolloutRecord) -> int:
        """Take in one rollout.

        :param steps: columns of the rows, each of shape (n_steps, n_envs, ...): what belongs to the state before a step
        :param selected: shape (n_steps, n_envs), the steps that become a row
        :param record: the ends of the rollout's episodes
        :return: number of tasks that were completed
        """
        done = record.done
        ended = done.sum(axis=0)
        first = self._n_episodes + np.cumsum(ended) - ended
        # Which episode of its environment, within this rollout, a step belongs to: 0 is the one already under way.
        place: NDArray[np.int64] = np.cumsum(done, axis=0) - done
        number = np.where(place == 0, self._running, first + place - 1)
        self._running = np.where(ended > 0, first + ended - 1, self._running)
        self._n_episodes += int(ended.sum())

        if "hidden" in steps:
            # A remembered state of a recurrent network belongs to the weights that made it: older tasks are dropped.
            self._forget_scored()
        selected = selected & (number >= 0)
        columns = {name: column[selected] for name, column in steps.items()}
        rows = VisitedStates(columns | {"episode": number[selected]})
        self._pending = rows if self._pending is None else self._pending + rows
        seen = (done & (number >= 0)).T  # environment by environment, in time order
        tasks, numbers, failures = (values.T[seen].tolist() for values in (record.task_id, number, record.failure))
        for task, episode, failed in zip(tasks, numbers, failures, strict=True):
            self._ended.setdefault(task, []).append((episode, failed))
        complete = [task for task, episodes in self._ended.items() if len(episodes) >= self.episodes_per_task]
        self._publish(np.array(complete, dtype=np.int64), [self._ended.pop(task) for task in complete])
        return len(complete)

    def _forget_scored(self) -> None:
        self.task_id, self.episodes, self.failure_rate = self.task_id[:0], self.episodes[:0], self.failure_rate[:0]
        self.scored = None

    def _publish(self, task: NDArray[np.int64], ended: list[list[tuple[int, float]]]) -> None:
        """Move completed tasks from pending to scored; a task scored earlier is replaced."""
        assert self._pending is not None
        counts = np.array([len(episodes) for episodes in ended], dtype=np.int64)
        flat = np.array([pair for episodes in ended for pair in episodes], dtype=np.float64).reshape(-1, 2)
        owner = np.repeat(np.arange(len(task)), counts)
        order = np.argsort(flat[:, 0])
        at, found = _find(flat[order, 0], self._pending["episode"])
        new = self._pending.where(found)
        self._pending = self._pending.where(~found)
        entry = order[at[found]]
        new = new.adding(task=owner[entry], failure=flat[entry, 1], weight=1.0 / counts[owner[entry]])
        failure_rate = np.bincount(owner, weights=flat[:, 1], minlength=len(task)) / counts

        _, replaced = _find(np.sort(task), self.task_id)
        known = np.concatenate([self.task_id[~replaced], task])
        forgotten = max(0, len(known) - self.capacity)
        self.task_id = known[forgotten:]
        self.episodes = np.concatenate([self.episodes[~replaced], counts])[forgotten:]
        self.failure_rate = np.concatenate([self.failure_rate[~replaced], failure_rate])[forgotten:]
        # Where each task, old or new, stands among the remembered ones; negative if forgotten or replaced.
        n_old = len(known) - len(task)
        old_position = np.where(replaced, -1, np.cumsum(~replaced) - 1 - forgotten)
        new_position = np.arange(n_old, len(known)) - forgotten
        rows = self._compress(new).at(new_position)
        self.scored = rows if self.scored is None else self.scored.at(old_position) + rows
        self.new = new.at(new_position)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        pairs = [(task, *pair) for task, pairs in self._ended.items() for pair in pairs]
        state: dict[str, NDArray[Any]] = {
            "task_id": self.task_id,
            "episodes": self.episodes,
            "failure_rate": self.failure_rate,
            "running": self._running,
            "n_episodes": np.array(self._n_episodes),
            "ended": np.array([pair[:2] for pair in pairs], dtype=np.int64).reshape(-1, 2),
            "ended_failure": np.array([pair[2] for pair in pairs], dtype=np.float64),
        }
        for part, rows in (("scored", self.scored), ("pending", self._pending)):
            if rows is not None:
                state |= {f"{part}.{name}": column for name, column in rows.columns.items()}
        return state

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        self.task_id, self.episodes, self.failure_rate = (state[k] for k in ("task_id", "episodes", "failure_rate"))
        self._running, self._n_episodes = state["running"], int(state["n_episodes"])
        self._ended = {}
        for (task, episode), failed in zip(state["ended"].tolist(), state["ended_failure"].tolist(), strict=True):
            self._ended.setdefault(task, []).append((episode, failed))
        self.scored, self._pending = (
            VisitedStates(columns) if columns else None
            for columns in (part_of(state, part) for part in ("scored", "pending"))
        )


def part_of(state: dict[str, Any], part: str, separator: str = ".") -> dict[str, Any]:
    """What a flat state holds below the name of a part."""
    start = part + separator
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def _find(ordered: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Position of each value in an ordered array (0 where absent), and whether it is there."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=np.intp), np.zeros(len(values), dtype=np.bool_)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return place, ordered[place] == values
