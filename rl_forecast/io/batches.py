"""Summaries of long parquet files, batch by batch: bounded memory and every core, whatever the row groups.

numpy's vectorised logarithms are several times faster here than a query engine's, so the engine only reads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.errors import InputError
from rl_forecast.io.records import Kind, reading
from rl_forecast.scores import psi_from_log_p, psi_from_p
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from numpy.typing import NDArray

__all__ = ["BATCH_ROWS", "check_range", "summarise_batches", "to_psi"]

BATCH_ROWS = 2_000_000


def check_range(low: float | None, high: float | None, n_nan: int, kind: Kind, where: str) -> None:
    """Refuse NaN and values out of range.

    :param low: smallest value, None where there is none
    :param high: largest value
    :param n_nan: how many values are NaN
    :param kind: what the values are
    :param where: file and column, for the message
    :raises InputError: with the value and the fix
    """
    if n_nan:
        raise InputError(f"{where} holds {n_nan} NaN: leave the cell empty if the query has no score")
    if low is None or high is None:
        return
    if kind == "p" and not (low >= 0 and high <= 1):
        bad = low if low < 0 else high
        raise InputError(f"{where} holds {bad:g}, outside [0, 1]: use --kind log_p or psi if it is one")
    if kind == "log_p" and high > 0:
        raise InputError(f"{where} holds {high:g}; a log probability is at most 0: use --kind p or psi if it is one")


def to_psi(values: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """Scores of any kind as psi."""
    if kind == "psi":
        return values
    result: NDArray[np.float64] = psi_from_log_p(values) if kind == "log_p" else psi_from_p(values)
    return result


def _log_survival(x: NDArray[np.float64], kind: Kind, high: float) -> NDArray[np.float64]:
    """``log(1 - p)`` of scores below p = 1, fast where all are far from it."""
    with np.errstate(over="ignore"):
        log_p = np.log(x) if kind == "p" and high > 0.99 else x if kind == "log_p" else -np.exp(-x)
    if kind == "p" and high <= 0.99:
        return np.log1p(-x)
    with np.errstate(divide="ignore"):
        result: NDArray[np.float64] = np.log1p(-np.exp(log_p))
    near = log_p > -1e-5  # log(-expm1(l)) = log(-l) + l / 2 + O(l^2)
    if near.any():
        log_q = -x[near] if kind == "psi" else np.log(-log_p[near])  # psi where log p has underflowed to 0
        result[near] = log_q + 0.5 * log_p[near]
    return result


def _summarise_batch(
    x: NDArray[np.float64], kind: Kind, capacity: int, floor: float, n_missing: int, where: str
) -> TailSummary:
    """Summary of one batch; of its scores only those above ``floor`` can be among the largest of all."""
    low, high = float(x.min()), float(x.max())
    check_range(low, high, int(np.isnan(x).sum()) if np.isnan(high) else 0, kind, where)
    largest = x if np.isneginf(floor) else x[x > floor]
    if largest.size > capacity:
        largest = np.partition(largest, largest.size - capacity)[-capacity:]
    zero, one = {"p": (0.0, 1.0), "log_p": (-np.inf, 0.0), "psi": (-np.inf, np.inf)}[kind]
    n_neg_inf = int((x == zero).sum()) if low == zero else 0
    n_pos_inf = int((x == one).sum()) if high == one else 0
    count = x.size
    if n_neg_inf or n_pos_inf:  # zeros add nothing to the sums
        x = x[(x != zero) & (x != one)]
    mean = squares = survival = survival_squared = 0.0
    if x.size:
        psi = x if kind == "psi" else -np.log(-(np.log(x) if kind == "p" else x))
        mean = float(psi.mean())
        deviation = psi - mean
        squares = float(deviation @ deviation)
        log_survival = _log_survival(x, kind, high)
        survival, survival_squared = float(log_survival.sum()), float(log_survival @ log_survival)
    return TailSummary(
        count=count,
        top=to_psi(np.sort(largest)[::-1], kind),
        n_neg_inf=n_neg_inf,
        n_pos_inf=n_pos_inf,
        mean_psi=mean,
        sum_squared_deviations=squares,
        sum_log_survival=survival,
        sum_log_survival_squared=survival_squared,
        capacity=capacity,
        n_unscored=n_missing,
    )


def summarise_batches(
    table: pl.LazyFrame,
    column: pl.Expr,
    kind: Kind,
    capacity: int,
    path: str,
    where: str,
    advance: Callable[[int, int], None] | None,
) -> TailSummary:
    """Summary of one column of a parquet file.

    :param table: the file
    :param column: its scores, as float64
    :param kind: what they are
    :param capacity: number of largest scores kept
    :param path: the file's name in error lines
    :param where: file and column, for error lines
    :param advance: called with rows done and rows in all
    :raises InputError: unreadable, out of range, or no score at all
    """
    import polars as pl

    with reading(path):
        rows = int(table.select(pl.len()).collect().item())
    floor = -np.inf
    values = table.select(column.alias("x"))

    def one(start: int) -> TailSummary | int:
        with reading(path):
            series = values.slice(start, BATCH_ROWS).collect().get_column("x")
        missing = series.null_count()
        x = (series.drop_nulls() if missing else series).to_numpy()
        if not x.size:
            return missing
        # strictly above a floor that K scores reach already; the first batches see none
        return _summarise_batch(x, kind, capacity, floor, missing, where)

    summary: TailSummary | None = None
    unscored = 0
    workers = min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, rows, BATCH_ROWS)
        for first in range(0, len(starts), workers):  # a few batches at a time: that bounds the memory
            group = starts[first : first + workers]
            for start, part in zip(group, pool.map(one, group), strict=True):
                if isinstance(part, int):
                    unscored += part
                else:
                    summary = part if summary is None else summary.merge(part)
                if advance is not None:
                    advance(min(start + BATCH_ROWS, rows), rows)
            if summary is not None and summary.top.size == capacity:
                floor = _value_of(float(summary.top[-1]), kind)
    if summary is None:
        raise InputError(f"{where} holds no score ({rows} rows)")
    return replace(summary, n_unscored=summary.n_unscored + unscored)


def _value_of(psi: float, kind: Kind) -> float:
    """A value of the column a little below a psi score: a safe floor after rounding."""
    if kind == "psi":
        return psi
    log_p = -float(np.exp(-psi)) * (1.0 + 1e-12)
    if not np.isfinite(log_p) or log_p == 0.0:
        return -np.inf
    return log_p if kind == "log_p" else float(np.exp(log_p)) * (1.0 - 1e-12)
