"""Random numbers that are a function of a task id: the same on every machine, for one id or a million at once.

A generator object per task would cost more than the task. These are counter-based: the SplitMix64 finaliser (Steele,
Lea and Flood, OOPSLA 2014) of the id and a counter, in wrapping 64-bit integers only, so no float can differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_draws(task_id: NDArray[np.int64], stream: int, count: int) -> NDArray[np.uint64]:
    """Uniform 64-bit integers of each task, shape (n, count), from task ids, shape (n,).

    :param stream: non-negative; streams of a task are independent of each other
    """
    ids = task_id.astype(np.uint64)
    # The stream goes through the mixer before it meets the counter, so (stream, draw) pairs never collide.
    key = _mix(_mix(ids * _GOLDEN + _GOLDEN) ^ _mix(np.full(1, stream, dtype=np.uint64) + _GOLDEN))
    counter = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
    return _mix(key[:, None] + counter[None, :])


def below_probability(draw: NDArray[np.uint64], probability: float) -> NDArray[np.bool_]:
    """Whether uniform 64-bit integers, of any shape, fall below a probability."""
    if probability >= 1.0:
        return np.ones(draw.shape, dtype=np.bool_)
    return draw < np.uint64(int(probability * 2**64))


def uniform(draw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits from uniform 64-bit integers of any shape."""
    return np.asarray((draw >> np.uint64(11)).astype(np.float64) * 2.0**-53)
