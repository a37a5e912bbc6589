"""Tasks: deterministic integer ids, disjoint splits, and what an agent may ask of an environment.

``agents`` never imports ``envs`` and vice versa: they meet here, in the keys of ``info`` and the protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

#: ``info`` key of every step and reset: float, shape (n_actions,), P(failure at the next step | current state, action),
#: the environment's own noise integrated out.
FATAL_PROBABILITY = "fatal_probability"
#: ``info`` key of an episode's last step: int, the task that was played.
TASK_ID = "task_id"
#: ``info`` key of an episode's last step: bool, whether it ended in failure.
FAILURE = "failure"
#: ``info`` key of an episode's last step: float, sum over its steps of P(failure at this step | state, executed
#: action), an unbiased estimate of the task's failure probability (it may exceed 1).
RISK = "risk"


@dataclass(frozen=True)
class Split:
    """A range of task ids ``[start, stop)`` whose size is a power of two."""

    name: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        size = self.stop - self.start
        if size < 1 or size & (size - 1):
            raise ValueError(f"the size of a split must be a power of two, {self.name!r} has {size}")

    def __contains__(self, task_id: int) -> bool:
        return self.start <= task_id < self.stop

    def task_ids(self, count: int, seed: int, first: int = 0) -> NDArray[np.int64]:
        """Distinct ids of this split, scattered by an odd-multiplier congruence.

        ``task_ids(2 n, seed)`` begins with ``task_ids(n, seed)``, so an evaluation can be enlarged without touching the
        tasks it has scored. Two seeds overlap no more than two independent draws would.

        :param count: number of ids
        :param seed: non-negative; another seed gives another sequence
        :param first: position in the sequence at which to begin
        :return: shape (count,), task ids
        :raises ValueError: more ids than the split holds

        >>> SPLITS["held_out"].task_ids(3, seed=0)
        array([3889832433, 2892324976, 4042301167])
        """
        size = self.stop - self.start
        if not 0 <= first <= first + count <= size:
            raise ValueError(f"split {self.name!r} holds {size} tasks, {first} + {count} were asked for")
        multiplier, offset = np.random.default_rng([seed, self.start]).integers(0, size, size=2, dtype=np.uint64)
        position = np.arange(first, first + count, dtype=np.uint64)
        # Unsigned overflow wraps modulo 2^64, of which the size is a divisor: the map is a bijection of the split.
        scattered = (position * (multiplier | np.uint64(1)) + offset) & np.uint64(size - 1)
        ids: NDArray[np.int64] = scattered.astype(np.int64) + self.start
        return ids


#: The splits every world shares. Disjoint by construction.
SPLITS: dict[str, Split] = {
    "train": Split("train", 0, 2**30),
    "validation": Split("validation", 2**30, 2**31),
    "held_out": Split("held_out", 2**31, 2**32),
}


@runtime_checkable
class BatchedRiskEnv(Protocol):
    """A vectorised environment that gives ``fatal_probability`` as one array instead of one ``info`` a step."""

    def fatal_probability(self) -> NDArray[np.float32]:
        """P(failure at the next step | state, action) in the current states, shape (n_envs, n_actions)."""


@runtime_checkable
class ExactRiskEnv(Protocol):
    """A vectorised environment that can compute the failure probability of its tasks under any policy."""

    def log_failure_probability(
        self, task_ids: NDArray[np.int64], log_policy: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Exact log failure probability of each task, shape (n_tasks,), differentiable in the policy.

        :param task_ids: shape (n_tasks,)
        :param log_policy: observations, shape (b, *observation_shape), to log action probabilities, (b, n_actions)
        """


@runtime_checkable
class ResumableEnv(Protocol):
    """A vectorised environment whose episodes can be resumed in another process.

    A state is a flat dictionary whose values are numpy arrays or what JSON can hold, so that no file needs a pickle.
    """

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the episodes depends on, generators included."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where :meth:`state_dict` was taken, instead of a reset."""
