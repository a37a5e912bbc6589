"""Interquartile means, stratified bootstrap intervals and exact permutation tests over seeds.

Seeds are the independent units: tasks of one seed share an agent, evaluation sets of one seed share a policy. The
interquartile mean and the bootstrap that resamples the seeds of every world separately are those of Agarwal et al.
2021 (arXiv 2108.13264); their library draws from the global generator, so the few lines are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Estimate", "estimate", "interquartile_mean", "sign_flip_p", "stratified_bootstrap"]

# All sign patterns are tried up to so many pairs (2^20 sums are a few milliseconds); beyond, so many random ones.
_EXACT_PAIRS, _RANDOM_PATTERNS = 20, 100_000


class Estimate(NamedTuple):
    """A summary over seeds.

    :param value: interquartile mean
    :param low: lower end of its bootstrap interval; NaN with fewer than two seeds in every world
    :param high: upper end
    :param n: number of values
    """

    value: float
    low: float
    high: float
    n: int


def interquartile_mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of the middle half: a quarter of the values, rounded down, is cut off at each end.

    :param values: any shape
    :param axis: axis over which the mean is taken, ``None`` for all values
    """
    result: NDArray[np.float64] = stats.trim_mean(values, 0.25, axis=axis)
    return result


def stratified_bootstrap(
    strata: Sequence[NDArray[np.float64]], level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the interquartile mean when the seeds of every stratum are drawn again with replacement.

    :param strata: one array of shape (n_seeds,) for each world
    :param level: coverage, probability
    :param n_resamples: number of resamples
    :param seed: seed of the resamples
    :return: lower and upper end; NaN if every stratum has one seed, for then nothing is known about their spread
    """
    if all(len(values) < 2 for values in strata):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=(n_resamples, len(values)))] for values in strata]
    means = interquartile_mean(np.concatenate(drawn, axis=1), axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(strata: Sequence[NDArray[np.float64]]) -> Estimate:
    """Interquartile mean over all seeds of all strata with its 95 % interval.

    :param strata: one array of shape (n_seeds,) for each world
    """
    low, high = stratified_bootstrap(strata)
    pooled = np.concatenate(list(strata))
    return Estimate(float(interquartile_mean(pooled)), low, high, len(pooled))


def sign_flip_p(difference: NDArray[np.float64]) -> float:
    """Exact two-sided paired permutation test that a mean difference is zero.

    :param difference: shape (n_seeds,), one difference a seed
    :return: share of the 2^n sign patterns whose mean is at least as far from zero; at least 2^(1 - n). Beyond 20
        seeds the share among the observed pattern and 100 000 random ones.
    """
    difference = np.asarray(difference, dtype=np.float64)
    observed = abs(difference.sum()) * (1 - 1e-12)
    if len(difference) > _EXACT_PAIRS:
        rng = np.random.default_rng(0)
        extreme = 0
        for _ in range(100):
            signs = rng.integers(2, size=(_RANDOM_PATTERNS // 100, len(difference))) * 2 - 1
            extreme += int((np.abs(signs @ difference) >= observed).sum())
        return (extreme + 1) / (_RANDOM_PATTERNS + 1)
    # The first sign may stay: a pattern and its mirror image are equally far from zero.
    sums = difference[:1]
    for value in difference[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= observed).mean())
