"""How many partitions a forecastability loss needs: as many as the noise of the tasks leaves worth having.

The loss averages over R random partitions of one draw of tasks. Its gradient scatters for two reasons: the partitions,
which more of them quieten, and the draw of tasks, which they do not. Once the first is a tenth of the second, more
partitions buy nothing: the total noise exceeds its floor by half a percent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["automatic_n_partitions", "choose_n_partitions", "gradient_noise"]

# Replicates behind a measured noise: it is then known to about an eighth, while the rule works in factors of two.
_REPLICATES = 32
# Partitions that are as good as all of them, to measure the noise of the tasks alone.
_MANY = 1024


def gradient_noise(gradients: ArrayLike) -> float:
    """Root-mean-square deviation of replicated gradients from their mean.

    :param gradients: shape (S, P), S replicates (other partitions, or other tasks) of a gradient of P parameters
    :return: ``sqrt(sum_p var_p)``, unit of the gradient; unbiased variance
    :raises ValueError: fewer than two replicates
    """
    g = np.asarray(gradients, dtype=np.float64)
    if g.ndim != 2 or g.shape[0] < 2:
        raise ValueError(f"gradients must have shape (replicates >= 2, parameters), it is {g.shape}")
    return float(np.sqrt(g.var(axis=0, ddof=1).sum()))


def choose_n_partitions(
    partition_noise: Callable[[int], float], sampling_noise: float, fraction: float = 0.1, largest: int = 4_096
) -> int:
    """Smallest power of two whose partition noise is below a fraction of the task-sampling noise.

    Powers of two, because scrambled Sobol points are balanced there. The noise at each R is measured and not
    extrapolated from one partition: with Sobol gaps it falls faster than ``1 / sqrt(R)``.

    :param partition_noise: noise of the gradient over the choice of R partitions, tasks fixed; called with R = 1, 2, 4
        and so on until it is low enough
    :param sampling_noise: noise of the gradient over the draw of tasks, same unit; positive
    :param fraction: how far below, default a tenth
    :param largest: largest R; returned where no R is quiet enough
    :return: R
    :raises ValueError: a sampling noise that is not positive, or ``largest`` below 1
    """
    if not sampling_noise > 0 or largest < 1:
        raise ValueError(f"sampling_noise must be positive and largest at least 1: {sampling_noise}, {largest}")
    r = 1
    while 2 * r <= largest and not partition_noise(r) < fraction * sampling_noise:
        r *= 2
    return r


def automatic_n_partitions(
    gradient: Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.float64]], n_tasks: int
) -> int:
    """:func:`choose_n_partitions` for a loss over ``n_tasks`` tasks, measured on a log-linear tail.

    The noise is that of the gradient by rank, on standard exponential scores. A psi-space loss is equivariant under
    scale and shift, so for it the choice depends on the sizes alone. Scores of a policy bend and have modes; both make
    the draw of tasks noisier, so fewer partitions would do there.

    :param gradient: the loss's gradient by scores in descending order, shape (n_tasks,), with R fresh partitions drawn
        from a generator
    :param n_tasks: number N of tasks
    :return: number R of partitions, a power of two, at most 1024
    """
    rng = np.random.default_rng(0)
    tasks = [np.sort(rng.exponential(size=n_tasks))[::-1].copy() for _ in range(_REPLICATES)]
    sampling = gradient_noise([gradient(psi, _MANY, rng) for psi in tasks])

    def noise(r: int) -> float:
        # Over several task sets: how noisy partitions are depends on the few scores at the top.
        per_set = [gradient_noise([gradient(psi, r, rng) for _ in range(8)]) for psi in tasks[:4]]
        return float(np.sqrt(np.mean(np.square(per_set))))

    return choose_n_partitions(noise, sampling, largest=_MANY)
