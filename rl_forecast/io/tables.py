"""Summaries of tables, streamed with polars: one pass, bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.errors import InputError
from rl_forecast.io.batches import check_range, summarise_batches, to_psi
from rl_forecast.io.columns import Columns, refuse_text
from rl_forecast.io.formats import open_table
from rl_forecast.io.records import Kind, ReadOptions, ReadResult, reading
from rl_forecast.scores import psi_from_counts
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from numpy.typing import NDArray

__all__ = ["read_table", "read_table_psi"]


def _psi(kind: Kind, x: pl.Expr) -> pl.Expr:
    if kind == "psi":
        return x
    return -(-(x if kind == "log_p" else x.log())).log()


def _log_survival(kind: Kind, x: pl.Expr) -> pl.Expr:
    """``log(1 - p)``, with the series of ``log(-expm1(log p))`` where p is close to 1."""
    import polars as pl

    if kind == "p":
        return (-x).log1p()
    log_p = x if kind == "log_p" else -((-x).exp())
    log_q = -x if kind == "psi" else (-log_p).log()  # psi where log p has underflowed to 0
    return pl.when(log_p > -1e-5).then(log_q + 0.5 * log_p).otherwise((-(log_p.exp())).log1p())


def _statistics(kind: Kind, x: pl.Expr) -> list[pl.Expr]:
    """Everything a summary holds but the largest scores, as aggregations over one column."""
    import polars as pl

    psi = _psi(kind, x)
    finite = psi.filter(psi.is_finite())
    log_survival = _log_survival(kind, x.filter(psi < math.inf))
    return [
        pl.len().alias("rows"),
        x.null_count().alias("missing"),
        x.is_nan().sum().alias("nan"),
        x.min().alias("lowest"),
        x.max().alias("highest"),
        (psi == -math.inf).sum().alias("n_neg_inf"),
        (psi == math.inf).sum().alias("n_pos_inf"),
        finite.mean().alias("mean"),
        finite.var(ddof=0).alias("variance"),
        log_survival.sum().alias("sum_log_survival"),
        (log_survival * log_survival).sum().alias("sum_log_survival_squared"),
    ]


def _summary(row: dict[str, Any], top: NDArray[np.float64], capacity: int) -> TailSummary:
    count = row["rows"] - row["missing"]
    n_finite = count - row["n_neg_inf"] - row["n_pos_inf"]
    return TailSummary(
        count=count,
        top=top,
        n_neg_inf=row["n_neg_inf"],
        n_pos_inf=row["n_pos_inf"],
        mean_psi=row["mean"] or 0.0,
        sum_squared_deviations=(row["variance"] or 0.0) * n_finite,
        sum_log_survival=row["sum_log_survival"] or 0.0,
        sum_log_survival_squared=row["sum_log_survival_squared"] or 0.0,
        capacity=capacity,
        n_unscored=row["missing"],
    )


def _summarise_scores(table: pl.LazyFrame, columns: Columns, capacity: int, where: str) -> TailSummary:
    """One pass over a table without groups."""
    import polars as pl

    frame = table.select(columns.number(columns.score).alias("x"))
    x = pl.col("x")
    with reading(columns.path):
        parts = [frame.select(_statistics(columns.kind, x)), frame.filter(x.is_not_nan()).top_k(capacity, by="x")]
        statistics, top = pl.collect_all(parts, engine="streaming")
    row = statistics.row(0, named=True)
    check_range(row["lowest"], row["highest"], row["nan"], columns.kind, where)
    if row["rows"] == row["missing"]:
        raise InputError(f"{where} holds no score ({row['rows']} rows)")
    largest = np.sort(top["x"].drop_nulls().to_numpy())[::-1]
    return _summary(row, to_psi(largest, columns.kind), capacity)


def _summarise_counts(table: pl.LazyFrame, columns: Columns, capacity: int, where: str) -> TailSummary:
    """Counts fit a small table of (samples, failures): group in polars, weigh in numpy."""
    import polars as pl

    assert columns.counts is not None
    failures, samples = (columns.number(c) for c in columns.counts)
    pairs = table.select(failures.alias("f"), samples.alias("j")).group_by("f", "j").agg(pl.len().alias("repeats"))
    with reading(columns.path):
        grouped = pairs.collect(engine="streaming")
    scored = grouped.filter(pl.col("f").is_not_null() & pl.col("j").is_not_null() & (pl.col("j") != 0))
    missing = int(grouped["repeats"].sum()) - int(scored["repeats"].sum())
    if not scored.height:
        raise InputError(f"{where} holds no query with samples")
    try:
        return TailSummary.from_count_table(
            scored["f"].to_numpy(), scored["j"].to_numpy(), scored["repeats"].to_numpy(), capacity, missing
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def read_table(
    path: str, options: ReadOptions, advance: Callable[[int, int], None] | None = None
) -> dict[str, ReadResult]:
    """Summaries of the groups of one table; one group named ``""`` unless grouped by a column.

    :param path: file, or ``-`` for standard input
    :param options: which columns
    :param advance: called with rows done and rows in all while a long parquet file is read
    :raises InputError: bad input
    """
    import polars as pl

    table = open_table(path)
    shown = "standard input" if path == "-" else path
    columns = Columns(table, shown, options)
    used = columns.counts or (columns.score,)
    for name in used:
        refuse_text(table, columns, name)
    where = f"{shown}: column {' and '.join(repr(c) for c in used)}"
    summarise = _summarise_counts if columns.counts else _summarise_scores
    if columns.group is not None:
        with reading(shown):
            names = table.select(pl.col(columns.group).unique()).collect(engine="streaming").to_series().to_list()
        if len(names) > 1_000:
            raise InputError(
                f"{shown}: column {columns.group!r} holds {len(names)} groups; at most 1000 are forecast at once"
            )
        parts = {str(name): table.filter(pl.col(columns.group).eq_missing(pl.lit(name))) for name in names}
        return {
            name: ReadResult(summarise(part, columns, options.capacity, f"{where} of group {name}"))
            for name, part in sorted(parts.items())
        }
    if not shown.lower().endswith((".parquet", ".pq")) or columns.counts:
        return {"": ReadResult(summarise(table, columns, options.capacity, where))}
    column = columns.number(columns.score)
    return {"": ReadResult(summarise_batches(table, column, columns.kind, options.capacity, shown, where, advance))}


def read_table_psi(path: str, options: ReadOptions) -> NDArray[np.float64]:
    """All psi scores of one table, in file order; queries without a score are left out.

    :raises InputError: bad input
    """
    import polars as pl

    table = open_table(path)
    shown = "standard input" if path == "-" else path
    columns = Columns(table, shown, options)
    used = columns.counts or (columns.score,)
    for name in used:
        refuse_text(table, columns, name)
    with reading(shown):
        frame = table.select(columns.number(c).alias(c) for c in used).drop_nulls().collect(engine="streaming")
    where = f"{shown}: column {' and '.join(repr(c) for c in used)}"
    if columns.counts:
        try:
            return psi_from_counts(*(frame[c].to_numpy() for c in columns.counts))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
    row = frame.select(_statistics(columns.kind, pl.col(columns.score))).row(0, named=True)
    check_range(row["lowest"], row["highest"], row["nan"], columns.kind, where)
    return to_psi(frame[columns.score].to_numpy(), columns.kind)
