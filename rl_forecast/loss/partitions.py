"""Random evaluation / deployment partitions of a task set, drawn as ranks.

A forecast loss needs to know only where the evaluation part's largest scores and the deployment part's largest score
stand in the order of all scores. Labels do not depend on the scores, so these *ranks* are drawn without any, and one
sorted list of scores serves every partition (our reading of the partition-invariant cache of arXiv 2605.15134, whose
text was not available).

Walking down the order, let ``g_r`` be the number of non-evaluation tasks between the r-th and the next evaluation
task, and ``G`` the number of unused tasks among the non-evaluation tasks before the first deployment task. Then

    eval_rank[r] = g_0 + ... + g_r + r
    deploy_rank  = G + number of evaluation tasks above the (G+1)-th non-evaluation task

so a partition costs ``tail_k + 2`` random numbers whatever ``n_tasks`` is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Where the law of independent labels is close enough to sampling without replacement, see draw_partitions.
_SOBOL_MIN_TASKS = 1000
_SOBOL_MIN_PART = 5


@dataclass(frozen=True, eq=False)
class Partitions:
    """R partitions as ranks; rank 0 is the largest score of all tasks.

    :param n_eval: tasks in the evaluation part, m
    :param n_deploy: tasks in the deployment part, n; ``n_tasks - m - n`` tasks are in neither
    :param eval_rank: shape (R, k), ranks of the evaluation part's k largest scores, ascending
    :param deploy_rank: shape (R,), rank of the deployment part's largest score
    :param ok: shape (R,), whether every rank of the row is below ``n_tasks``; other rows hold placeholders within the
        window and must not be used
    :param window: number K' of largest scores that the ``ok`` rows look at
    """

    n_tasks: int
    n_eval: int
    n_deploy: int
    eval_rank: NDArray[np.int64]
    deploy_rank: NDArray[np.int64]
    ok: NDArray[np.bool_]
    window: int

    @property
    def tail_k(self) -> int:
        """Number k of evaluation scores per partition: the requested one, or ``n_eval`` where that is smaller."""
        return int(self.eval_rank.shape[1])


def draw_partitions(
    n_tasks: int,
    n_eval: int,
    n_deploy: int,
    generator: np.random.Generator,
    *,
    tail_k: int = 10,
    n_partitions: int = 64,
) -> Partitions:
    """Draw R random partitions as ranks.

    From 1000 tasks on, if both parts have at least ``5 tail_k``, every rank is labelled independently (the limit of
    many tasks) and the R rows are spread evenly by a scrambled Sobol sequence; a power of two spreads best, other
    numbers take the beginning of the next longer sequence. At R = 256 that cuts the variance of the loss by a factor of
    35 to 220 and that of its gradient by 2 to 11. Its price is a bias of the mean squared error, below .7 % in 14 such
    settings. Smaller sets, where it would be larger (2.4 % at N = 100), are drawn exactly: simple random sampling
    without replacement, row by row.

    :param n_tasks: number of tasks N
    :param n_eval: tasks in the evaluation part, m, at least 1
    :param n_deploy: tasks in the deployment part, n, at least 1; ``m + n <= N``
    :param generator: source of randomness, advanced by the call
    :param tail_k: number k of largest evaluation scores, capped at ``n_eval``
    :param n_partitions: number R of partitions
    :return: the partitions
    :raises ValueError: sizes that do not fit, or are below 1

    >>> parts = draw_partitions(10, 4, 6, np.random.default_rng(0), tail_k=2, n_partitions=3)
    >>> parts.eval_rank.shape, parts.deploy_rank.shape
    ((3, 2), (3,))
    >>> bool(((parts.eval_rank[:, 0] == 0) != (parts.deploy_rank == 0)).all())  # the largest of all is in one part
    True
    """
    if min(n_eval, n_deploy, tail_k, n_partitions) < 1:
        raise ValueError(
            f"n_eval, n_deploy, tail_k and n_partitions must be at least 1, they are {n_eval}, {n_deploy}, {tail_k} "
            f"and {n_partitions}"
        )
    if n_eval + n_deploy > n_tasks:
        raise ValueError(f"n_eval + n_deploy = {n_eval} + {n_deploy} tasks do not fit into n_tasks = {n_tasks}")
    k = min(tail_k, n_eval)
    small = n_tasks < _SOBOL_MIN_TASKS or min(n_eval, n_deploy) < _SOBOL_MIN_PART * k
    sample = _exact_gaps if small else _sobol_gaps
    before, first, extra = sample(n_tasks, n_eval, n_deploy, k, n_partitions, generator)
    eval_rank = before + np.arange(k)
    above = (before <= first[:, None]).sum(axis=1)
    deploy_rank = first + above + extra
    ok = np.maximum(eval_rank[:, -1], deploy_rank) < n_tasks
    if not ok.all():
        eval_rank[~ok], deploy_rank[~ok] = np.arange(k), 0
    window = int(max(eval_rank[:, -1].max(), deploy_rank.max())) + 1
    return Partitions(n_tasks, n_eval, n_deploy, eval_rank, deploy_rank, ok, window)


def _exact_gaps(
    n_tasks: int, n_eval: int, n_deploy: int, k: int, n_partitions: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Gaps of simple random sampling, without a pass over ranks.

    Give every task an independent uniform position in the order. The k smallest of the m evaluation positions follow
    from k uniforms (``1 - U_(r+1) = (1 - U_(r)) V^(1/(m-r))``), and given them the ``N - m`` other tasks fall into
    the cells between by a multinomial law: exactly the gaps of a hypergeometric draw, at k random numbers a row.

    :return: tasks outside the evaluation part above each evaluation task, shape (R, k), cumulative; unused tasks
        above the first deployment task, shape (R,); evaluation tasks beyond the k-th above the deployment task, (R,)
    """
    n_other = n_tasks - n_eval
    log_step = np.log1p(-generator.random((n_partitions, k))) / (n_eval - np.arange(k))
    log_rest = np.cumsum(log_step, axis=1)
    cell = -np.expm1(log_step)
    cell[:, 1:] *= np.exp(log_rest[:, :-1])
    gaps = generator.multinomial(n_other, np.column_stack([cell, np.exp(log_rest[:, -1])]))[:, :k]
    before = np.cumsum(gaps, axis=1)
    first = np.zeros(n_partitions, dtype=np.int64)
    n_unused = n_other - n_deploy
    if n_unused:
        nearest = -np.expm1(np.log1p(-generator.random(n_partitions)) / n_deploy)
        first = generator.binomial(n_unused, nearest)
    extra = np.zeros(n_partitions, dtype=np.int64)
    beyond = first >= before[:, -1]
    if beyond.any() and n_eval > k:
        # position of the (i+1)-th of the other tasks left below the k-th evaluation task: Beta(i+1, left-i)
        i, left = (first - before[:, -1])[beyond], (n_other - before[:, -1])[beyond]
        extra[beyond] = generator.binomial(n_eval - k, generator.beta(i + 1, left - i))
    return before, first, extra


def _sobol_gaps(
    n_tasks: int, n_eval: int, n_deploy: int, k: int, n_partitions: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Gaps of independent labels: geometric, by inversion of a scrambled Sobol sequence of dimension k + 2.

    :return: as :func:`_exact_gaps`
    """
    engine = stats.qmc.Sobol(k + 2, scramble=True, seed=generator)
    # half a cell of the 30-bit grid keeps the logarithm away from zero
    u = engine.random_base2((n_partitions - 1).bit_length())[:n_partitions] + 2.0**-31
    log_u = np.log(u)
    q = n_eval / n_tasks
    before = np.cumsum(np.floor(log_u[:, :k] / np.log1p(-q)).astype(np.int64), axis=1)
    first = np.zeros(n_partitions, dtype=np.int64)
    share = n_deploy / (n_tasks - n_eval)
    if share < 1.0:
        first = np.floor(log_u[:, k] / np.log1p(-share)).astype(np.int64)
    extra = np.zeros(n_partitions, dtype=np.int64)
    beyond = first >= before[:, -1]
    if beyond.any():
        i = (first - before[:, -1])[beyond]
        extra[beyond] = stats.nbinom.ppf(u[beyond, k + 1], i + 1, 1.0 - q).astype(np.int64)
    return before, first, extra
