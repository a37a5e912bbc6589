"""RiskWrapper: the risk contract of :mod:`rl_forecast.tasks` around any Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs.risk import rules
from envs.risk.rules import FailureRule
from rl_forecast.errors import unknown_name
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, SPLITS, TASK_ID

FatalRule = Callable[[gymnasium.Env[Any, Any]], Any]


def disjoint_splits(**ranges: range) -> dict[str, range]:
    """Your own splits, checked not to share a task.

    :param ranges: name of a split to its task ids, consecutive and not negative
    :return: the same ranges by name, for :class:`RiskWrapper`'s ``split``
    :raises ValueError: a range is empty, negative or has gaps, or two of them overlap

    >>> disjoint_splits(train=range(1_000), held_out=range(900, 3_000))
    Traceback (most recent call last):
    ValueError: splits 'train' and 'held_out' overlap: both hold task 900; what is trained on must not be evaluated on
    """
    for name, ids in ranges.items():
        _check_range(name, ids)
    ordered = sorted(ranges.items(), key=lambda item: item[1].start)
    for (name, ids), (next_name, next_ids) in pairwise(ordered):
        if next_ids.start < ids.stop:
            raise ValueError(
                f"splits {name!r} and {next_name!r} overlap: both hold task {next_ids.start}; "
                "what is trained on must not be evaluated on"
            )
    return dict(ranges)


def _check_range(name: str, ids: range) -> None:
    if not isinstance(ids, range) or ids.step != 1 or len(ids) == 0 or ids.start < 0 or ids.stop > 2**32:
        raise ValueError(f"split {name!r} must be a range of consecutive ids in [0, 2**32), it is {ids!r}")


class RiskWrapper(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Reports which task an episode played, whether it failed, and how likely that was.

    The task is the seed of the wrapped environment's reset: whatever is drawn *in* ``reset(seed=task_id)``, such as a
    layout, belongs to the task. Noise drawn afterwards does not: the generator is replaced after every reset, so a
    task played again meets new noise. ``reset(seed=...)`` of the wrapper seeds the drawing of tasks and that noise.

    An episode that continues after a failure counts as failed once; no later action can fail again.

    Where fatal actions are known there is a method ``fatal_probability()``, and ``info`` has the same at every step and
    reset. The last step's ``info`` has ``task_id``, ``failure``, ``is_success``, ``risk``.

    :param env: any Gymnasium environment
    :param failure: rule of :data:`envs.risk.rules.FailureRule`; ``"lava"`` for MiniGrid's lava; ``"cost"`` for
        accumulated ``info["cost"]`` above ``cost_limit`` (Safety-Gymnasium's convention); ``None`` recognises MiniGrid
        environments with lava and refuses all others
    :param fatal: ``fatal(env)`` gives P(failure at the next step | state, action), shape (n_actions,); ``"table"``
        reads it from toy-text's transition table, ``"lookahead"`` tries every action on a copy; ``None`` takes the
        environment's own method ``fatal_probability()`` where it has one, and knows it for MiniGrid's lava
    :param success: rule of the same form as ``failure``, asked at the last step. ``None`` takes the environment's own
        ``info["is_success"]``, for MiniGrid's lava reaching the goal, else counts what ended without failure
    :param split: name in :data:`rl_forecast.tasks.SPLITS`, or your own range of ids (:func:`disjoint_splits`)
    :param n_tasks: size of the pool of the split from which tasks are drawn; ``None`` for the whole split
    :param episodes_per_task: how often a drawn task is played in a row
    :param pool_seed: another pool of the same split
    :param cost_limit: accumulated cost above which ``failure="cost"`` counts as failure
    :raises ValueError: no rule is known or given, or one does not fit the environment

    >>> import minigrid
    >>> gymnasium.register_envs(minigrid)
    >>> env = RiskWrapper(gymnasium.make("MiniGrid-LavaGapS5-v0"))  # lava is recognised
    >>> observation, info = env.reset(options={"task_id": 17})
    >>> env.fatal_probability()  # action 2, forward, leads into the lava
    array([0., 0., 1., 0., 0., 0., 0.], dtype=float32)
    >>> info = env.step(2)[-1]
    >>> info["task_id"], info["failure"], info["is_success"], info["risk"]
    (17, True, False, 1.0)
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        failure: FailureRule | Literal["lava", "cost"] | None = None,
        fatal: FatalRule | Literal["table", "lookahead"] | None = None,
        success: FailureRule | None = None,
        split: str | range = "train",
        n_tasks: int | None = None,
        episodes_per_task: int = 1,
        pool_seed: int = 0,
        cost_limit: float | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            failure=failure,
            fatal=fatal,
            success=success,
            split=split,
            n_tasks=n_tasks,
            episodes_per_task=episodes_per_task,
            pool_seed=pool_seed,
            cost_limit=cost_limit,
        )
        super().__init__(env)
        self._ids, self._pool = _task_pool(split, n_tasks, pool_seed)
        if episodes_per_task < 1:
            raise ValueError(f"episodes_per_task must be at least 1, it is {episodes_per_task}")
        if failure is None and env.has_wrapper_attr(FATAL_PROBABILITY):
            raise ValueError(f"{env.unwrapped} follows the risk contract already: use it without RiskWrapper")
        if (failure == "cost") != (cost_limit is not None):
            raise ValueError(
                f"failure='cost' and cost_limit go together, they are {failure!r} and {cost_limit!r}: "
                "for example failure='cost', cost_limit=25.0"
            )
        self._split, self._episodes_per_task, self._cost_limit = split, episodes_per_task, cost_limit
        self._fails, self._success_rule = self._failure_rule(failure), success
        self._fatal_rule = self._fatal_source(fatal)
        self._rng = np.random.default_rng()
        self._task, self._played = -1, 0
        self._failed, self._risk, self._cost = False, 0.0, 0.0
        self._fatal: NDArray[np.float32] | None = None

    def _failure_rule(self, failure: Any) -> FailureRule:
        if callable(failure):
            return failure  # type: ignore[no-any-return]
        if failure == "cost":
            return self._exceeds_cost_limit
        if failure not in (None, "lava"):
            raise ValueError(unknown_name("failure", str(failure), ["lava", "cost"]) + ", or a function")
        self.env.reset(seed=self._ids.start)
        if failure is None and not rules.has_lava(self.env):
            raise ValueError(
                f"what counts as a failure in {self.env.unwrapped} is not known: give failure=f with "
                "f(env, observation, reward, terminated, truncated, info) -> bool, or failure='cost'"
            )
        if not hasattr(self.env.unwrapped, "grid"):
            raise ValueError(f"failure='lava' is for MiniGrid environments, {self.env.unwrapped} has no grid")
        return rules.minigrid_lava_failure

    def _fatal_source(self, fatal: Any) -> FatalRule | None:
        if fatal is None and self.env.has_wrapper_attr(FATAL_PROBABILITY):
            fatal = rules.own_fatal
        elif fatal is None and self._fails is rules.minigrid_lava_failure:
            fatal = rules.minigrid_fatal
        elif fatal is None:
            return None
        if not callable(fatal) and fatal not in ("table", "lookahead"):
            raise ValueError(unknown_name("fatal", str(fatal), ["table", "lookahead"]) + ", or a function")
        if fatal == "table" and not hasattr(self.env.unwrapped, "P"):
            raise ValueError(f"fatal='table' needs a transition table P, {self.env.unwrapped} has none")
        if fatal == "table" and self._cost_limit is not None:
            raise ValueError("fatal='table' cannot know costs: give failure a function, or use fatal='lookahead'")
        if not isinstance(self.action_space, gymnasium.spaces.Discrete):
            raise ValueError(f"fatal actions need a Discrete action space, it is {self.action_space}: use fatal=None")
        if callable(fatal):
            return fatal  # type: ignore[no-any-return]
        return partial(rules.table_fatal if fatal == "table" else rules.lookahead_fatal, failure=self._fails)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode of the next task.

        :param seed: seeds the drawing of tasks, and the noise
        :param options: ``{"task_id": i}`` plays task i; other options go to the wrapped environment
        :raises ValueError: the task id is not an integer of the split
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            self._played = 0
        options = dict(options or {})
        if TASK_ID in options:
            self._task = self._checked(options.pop(TASK_ID))
            self._played = 0  # a chosen task is played once
        else:
            if self._played % self._episodes_per_task == 0:
                self._task = int(self._pool[int(self._rng.integers(len(self._pool)))])
            self._played += 1
        # Seeds are plain ints for every environment; options are passed on only where there are any left.
        observation, info = self.env.reset(seed=self._task, **({"options": options} if options else {}))
        self.env.unwrapped.np_random = np.random.default_rng(self._rng.integers(2**63))
        self._failed, self._risk, self._cost, self._fatal = False, 0.0, 0.0, None
        return observation, {**info, **self._look_ahead(ended=False)}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The wrapped environment's step, with the risk contract's keys in ``info``."""
        if self._fatal is not None:
            assert isinstance(self.action_space, gymnasium.spaces.Discrete)
            self._risk += float(self._fatal[int(action) - int(self.action_space.start)])
        result = observation, reward, terminated, truncated, info = self.env.step(action)
        self._failed = self._failed or bool(self._fails(self.env, *result))
        if self._cost_limit is not None:
            self._cost += float(info["cost"])
        ended = bool(terminated or truncated)
        info = {**info, **self._look_ahead(ended)}
        if ended:
            info |= {TASK_ID: self._task, FAILURE: self._failed, "is_success": self._succeeded(*result)}
            if self._fatal_rule is not None:
                info[RISK] = self._risk
        return observation, reward, terminated, truncated, info

    @property
    def fatal_probability(self) -> Callable[[], NDArray[np.float32]]:
        """Method that gives P(failure at the next step | this state, action), shape (n_actions,); missing where fatal
        actions are not known.
        """
        if self._fatal_rule is None:
            raise AttributeError(f"fatal actions of {self.env.unwrapped} are not known: give RiskWrapper fatal=...")
        return self._current_fatal

    def _current_fatal(self) -> NDArray[np.float32]:
        assert self._fatal is not None, "reset() comes first"
        return self._fatal

    def _checked(self, task_id: Any) -> int:
        if isinstance(task_id, bool) or not isinstance(task_id, int | np.integer) or task_id < 0:
            raise ValueError(f"task_id must be a non-negative integer, it is {task_id!r}")
        if int(task_id) not in self._ids:
            raise ValueError(
                f"task {task_id} is not in split {self._split!r}: its ids are {self._ids.start} to "
                f"{self._ids.stop - 1}; make another RiskWrapper for another split"
            )
        return int(task_id)

    def _exceeds_cost_limit(self, env: Any, *step: Any) -> bool:
        info: dict[str, Any] = step[-1]
        if "cost" not in info:
            raise ValueError(f"failure='cost' needs info['cost'] at every step, this info has {sorted(info)}")
        assert self._cost_limit is not None
        return self._cost + float(info["cost"]) > self._cost_limit

    def _succeeded(self, *step: Any) -> bool:
        _, _, terminated, _, info = step
        if self._success_rule is not None:
            return bool(self._success_rule(self.env, *step))
        if "is_success" in info:
            return bool(info["is_success"])
        # In MiniGrid only lava and the goal terminate; a shaped reward does not tell them apart.
        return not self._failed and (terminated or self._fails is not rules.minigrid_lava_failure)

    def _look_ahead(self, ended: bool) -> dict[str, NDArray[np.float32]]:
        """The current state's fatal actions as an entry of ``info``; none are left after a failure or the end."""
        if self._fatal_rule is None:
            return {}
        assert isinstance(self.action_space, gymnasium.spaces.Discrete)
        n_actions = int(self.action_space.n)
        if ended or self._failed:
            self._fatal = np.zeros(n_actions, dtype=np.float32)
        else:
            self._fatal = np.asarray(self._fatal_rule(self.env), dtype=np.float32)
        # Written so that NaN is refused too.
        if self._fatal.shape != (n_actions,) or not ((self._fatal >= 0) & (self._fatal <= 1)).all():
            raise ValueError(f"fatal(env) must give {n_actions} probabilities, one per action, it gave {self._fatal!r}")
        return {FATAL_PROBABILITY: self._fatal}


def _task_pool(split: str | range, n_tasks: int | None, seed: int) -> tuple[range, range | NDArray[np.int64]]:
    """Task ids of the split, and those to draw from."""
    if isinstance(split, range):
        _check_range("split", split)
        ids = split
    elif split in SPLITS:
        ids = range(SPLITS[split].start, SPLITS[split].stop)
    else:
        raise ValueError(unknown_name("split", str(split), SPLITS))
    if n_tasks is None:
        return ids, ids
    if not 1 <= n_tasks <= len(ids):
        raise ValueError(f"n_tasks must be in [1, {len(ids)}], the size of the split, it is {n_tasks}")
    if isinstance(split, str):
        return ids, SPLITS[split].task_ids(n_tasks, seed)
    return ids, np.random.default_rng(seed).choice(len(ids), size=n_tasks, replace=False).astype(np.int64) + ids.start
