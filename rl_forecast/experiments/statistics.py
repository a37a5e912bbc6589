"""Interquartile means, bootstrap intervals and paired permutation tests over seeds.

Seeds are the independent units: tasks of one seed share an agent. The interquartile mean and the bootstrap that
resamples the seeds of every world separately are those of Agarwal et al. 2021 (arXiv 2108.13264).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Up to 14 pairs all sign patterns are tried; beyond, so many random ones. More would take seconds a cell.
_PATTERNS = 20_000


class Estimate(NamedTuple):
    """Interquartile mean of ``n`` seeds and its 95 % bootstrap interval, NaN where every world has one seed."""

    value: float
    low: float
    high: float
    n: int


def interquartile_mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of the middle half: a quarter of the values, rounded down, is cut off at each end."""
    result: NDArray[np.float64] = stats.trim_mean(values, 0.25, axis=axis)
    return result


def bootstrap_interval(
    strata: Sequence[NDArray[np.float64]], level: float = 0.95, n_resamples: int = 2000
) -> tuple[float, float]:
    """Percentile interval of the interquartile mean when the seeds of every stratum are drawn again with replacement.

    :param strata: one array of shape (n_seeds,) for each world
    :return: lower and upper end; NaN if every stratum has one seed, for then nothing is known about their spread
    """
    spread = [values for values in strata if len(values) > 1]
    single = [values for values in strata if len(values) == 1]
    if not spread:
        return float("nan"), float("nan")

    def pooled(*drawn: NDArray[np.float64], axis: int = -1) -> Any:
        # scipy resamples only what has a spread; a single seed stands in every resample as it is.
        fixed = [np.broadcast_to(values, (*drawn[0].shape[:-1], 1)) for values in single]
        return interquartile_mean(np.concatenate([*drawn, *fixed], axis=-1), axis=-1)

    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"confidence_level": level, "method": "percentile", "vectorized": True}
    interval = stats.bootstrap(spread, pooled, n_resamples=n_resamples, random_state=rng, **options).confidence_interval
    return float(interval.low), float(interval.high)


def estimate(strata: Sequence[NDArray[np.float64]]) -> Estimate:
    """Interquartile mean over all seeds of all strata, which are as for :func:`bootstrap_interval`."""
    pooled = np.concatenate(list(strata))
    return Estimate(float(interquartile_mean(pooled)), *bootstrap_interval(strata), len(pooled))


def sign_flip_p(difference: NDArray[np.float64]) -> float:
    """Two-sided paired permutation test that a mean difference is zero, exact up to 14 seeds.

    :param difference: shape (n_seeds,), one difference a seed
    :return: share of the 2^n sign patterns whose mean is at least as far from zero; at least 2^(1 - n). With more
        than 14 seeds an estimate from 20 000 random patterns

    >>> sign_flip_p(np.array([1.0, 2.0, 0.5, 1.0, 3.0]))
    0.0625
    """
    if len(difference) < 2 or not difference.any():
        return 1.0  # scipy refuses a single pair, whose two patterns are equally far from zero
    options: dict[str, Any] = {"permutation_type": "samples", "vectorized": True, "batch": 4096}
    rng = np.random.default_rng(0)
    return float(
        stats.permutation_test((difference,), np.mean, n_resamples=_PATTERNS, random_state=rng, **options).pvalue
    )
