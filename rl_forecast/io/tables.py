"""Tables of any format, read by polars in batches: bounded memory, whatever the number of rows."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rl_forecast.errors import InputError, choose_name, reading
from rl_forecast.scores import psi_from_counts, psi_from_log_p, psi_from_p
from rl_forecast.summary import TailSummary

Kind = Literal["p", "log_p", "psi"]

_KIND_OF_COLUMN: dict[str, Kind] = dict.fromkeys(("p", "prob", "probability"), "p")
_KIND_OF_COLUMN |= dict.fromkeys(("log_p", "logp", "log_prob", "logprob"), "log_p")
_KIND_OF_COLUMN |= dict.fromkeys(("psi", "score"), "psi")

BATCH_ROWS = 100_000  # a batch's arrays stay in a processor's cache: twice as fast as two million

_CSV, _PARQUET, _JSON, _NUMPY = (".csv", ".tsv", ".txt"), (".parquet", ".pq"), (".jsonl", ".ndjson"), (".npz", ".npy")


@dataclass(frozen=True)
class ReadOptions:
    """How to read scores: the options that ``rl-forecast forecast --help`` explains.

    :param column: name of the score column; None: the one whose name says what it holds
    :param kind: what the column holds; None: what its name says
    :param failures: column with the number of failures of each query, beside ``samples``
    :param scorer: Inspect scorer, or ``scorer/key`` where its value is a dict or list
    :param response_log_prob: lm-eval: take exp of the log-likelihood of this response (from 0) as p
    :param fails: the value that means failure, or a comparison such as ``<0.5``
    :param group_by: ``file``, or the name of a column (of logs: ``task``, ``model`` or a field of the sample)
    :param capacity: number of largest scores kept
    """

    column: str | None = None
    kind: Kind | None = None
    failures: str | None = None
    samples: str | None = None
    scorer: str | None = None
    metric: str | None = None
    filter: str | None = None
    response_log_prob: int | None = None
    fails: str | None = None
    group_by: str | None = None
    capacity: int = TailSummary.DEFAULT_CAPACITY

    @property
    def user_columns(self) -> dict[str, str]:
        """Columns of a record that the user's columns fill: the record's name to the user's."""
        return {} if self.group_by in (None, "file") else {"group": str(self.group_by)}


def read_table(path: str, options: ReadOptions) -> Iterator[pl.DataFrame]:
    """Records of one table (``-`` is standard input), batch by batch: see :mod:`rl_forecast.io.read`."""
    source: str | bytes = path
    if path == "-":
        source, path = sys.stdin.buffer.read(), "standard input"
    with reading(path):
        suffix, first = _begin(source, path)
        table = _open(source, suffix, first, options.column)
        schema = table.collect_schema()
    used, kind = _choose_columns(list(schema), path, options)
    where = f"{path}: column {' and '.join(repr(name) for name in used.values())}"
    others = {role: choose_name("column", name, schema, path) for role, name in options.user_columns.items()}
    is_csv = suffix in _CSV
    # types are guessed from the first rows: later, whole numbers may have fractions, and other columns hold anything
    types: dict[str, Any] = dict.fromkeys(schema, pl.String) if is_csv else {}
    for name in used.values():
        types[name] = pl.Float64 if schema[name].is_integer() or schema[name] == pl.Null else schema[name]
    with reading(path):
        table = _open(source, suffix, first, options.column, types)
    text = {f"{role} text": name for role, name in used.items() if schema[name] == pl.String}
    cells = [_number(schema[name], name, path).alias(role) for role, name in used.items()]
    cells += [pl.col(name).alias(role) for role, name in [*others.items(), *text.items()]]
    # polars leaves columns that nobody asked for unread, and with them rows of a csv that are too long
    flags = pl.QueryOptFlags(projection_pushdown=not is_csv)
    done = scored = 0
    with reading(path):
        for batch in table.select(cells).collect_batches(chunk_size=BATCH_ROWS, optimizations=flags):
            for name in text:
                bad = batch.filter(pl.col(name.removesuffix(" text")).is_null() & pl.col(name).is_not_null())[name]
                if len(bad):
                    raise InputError(f"{where} holds text, not numbers: found {bad[0]!r}")
            psi = _psi(batch["psi"], kind, where) if "psi" in used else psi_of_counts(batch, where)
            done += batch.height
            scored += batch.height - psi.null_count()
            yield pl.DataFrame([psi, *(batch[name] for name in batch.columns if name not in (*text, "psi"))])
    if not scored:
        raise InputError(f"{where} holds no score ({done} rows)")


def _psi(values: pl.Series, kind: Kind, where: str) -> pl.Series:
    """Scores as psi; queries without a score stay null."""
    x = (values.drop_nulls() if values.null_count() else values).to_numpy()
    n_nan = int(np.isnan(x).sum())
    if n_nan:
        raise InputError(f"{where} holds {n_nan} NaN: leave the cell empty if the query has no score")
    try:
        psi = psi_from_p(x) if kind == "p" else psi_from_log_p(x) if kind == "log_p" else x
    except ValueError as error:
        raise InputError(f"{where}: {error}: say what it holds with --kind p, log_p or psi") from error
    return _psi_column(psi, values.is_not_null())


def _psi_column(psi: NDArray[np.float64], known: pl.Series) -> pl.Series:
    """The column ``psi`` from the scores of those queries that have one."""
    return pl.repeat(None, known.len(), dtype=pl.Float64, eager=True).scatter(known.arg_true(), psi).alias("psi")


def psi_of_counts(records: pl.DataFrame, where: str) -> pl.Series:
    """The column ``psi`` from the columns ``failures`` and ``samples``."""
    f, j = records["failures"], records["samples"]
    known = (f.is_not_null() & j.is_not_null() & (j != 0)).fill_null(False)
    try:
        return _psi_column(psi_from_counts(f.filter(known).to_numpy(), j.filter(known).to_numpy()), known)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _choose_columns(names: list[str], path: str, options: ReadOptions) -> tuple[dict[str, str], Kind]:
    """The user's columns for ``psi``, or for ``failures`` and ``samples``; and what the score column holds."""
    counts = {"failures": options.failures, "samples": options.samples}
    if any(counts.values()):
        if not all(counts.values()):
            raise InputError("--failures and --samples belong together: name both columns")
        return {role: choose_name("column", name, names, path) for role, name in counts.items()}, "p"
    name = options.column
    if name is None:
        if set(counts) <= set(names):
            return {role: role for role in counts}, "p"
        known = [c for c in names if c.casefold() in _KIND_OF_COLUMN] or (names if len(names) == 1 else [])
        if len(known) != 1:
            what = f"{' and '.join(known)} could be the scores" if known else "no column is named p, log_p or psi"
            raise InputError(f"{path}: {what}; name it with --column; columns: {', '.join(names[:12])}")
        name = known[0]
    kind = options.kind or _KIND_OF_COLUMN.get(choose_name("column", name, names, path).casefold())
    if kind is None:
        raise InputError(
            f"{path}: column {name!r} does not say what it holds: add --kind p, --kind log_p or --kind psi"
        )
    return {"psi": name}, kind


def _number(dtype: pl.DataType, name: str, path: str) -> pl.Expr:
    """A column as Float64; cells of text that are no number become null."""
    if dtype == pl.String:
        return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        raise InputError(f"{path}: column {name!r} holds {dtype}, not numbers")
    return pl.col(name).cast(pl.Float64)


def _begin(source: str | bytes, path: str) -> tuple[str, bytes]:
    """Suffix of a file, guessed for the bytes of standard input, and its first line."""
    if isinstance(source, bytes):
        first = source.split(b"\n", 1)[0]
        suffix = ".parquet" if source[:4] == b"PAR1" else ".jsonl" if source.lstrip()[:1] == b"{" else ".txt"
    else:
        suffix = Path(path).suffix.lower()
        with Path(path).open("rb") as file:
            first = file.readline(10_000)
    if not (first if isinstance(source, str) else source.strip()):
        raise InputError(f"{path}: is empty")
    if suffix not in (*_CSV, *_PARQUET, *_JSON, *_NUMPY):
        known = ", ".join((*_CSV, *_PARQUET, *_JSON, *_NUMPY))
        raise InputError(f"{path}: unknown format {suffix or 'without a suffix'}; known are {known}, .eval and .json")
    return suffix, first


def _open(
    source: str | bytes, suffix: str, first: bytes, column: str | None, types: dict[str, Any] | None = None
) -> pl.LazyFrame:
    """Lazy table of a file or of bytes; ``column`` is the vector of an npz file that the user asked for."""
    if suffix in _PARQUET:
        return pl.scan_parquet(source, glob=False)
    if suffix in _JSON:
        source = glob.escape(source) if isinstance(source, str) else source
        return pl.scan_ndjson(source, infer_schema_length=1_000, schema_overrides=types)
    if suffix in _NUMPY:
        return _open_numpy(str(source), column)
    options = _csv_options(first, suffix)
    return pl.scan_csv(source, infer_schema_length=10_000, glob=False, schema_overrides=types, **options)


def _csv_options(first: bytes, suffix: str) -> dict[str, Any]:
    """Separator, and whether the first line is a header: a line of nothing but numbers is data."""
    text = first.decode("utf-8", errors="replace").lstrip("\ufeff").strip()
    separator = "\t" if suffix == ".tsv" or ("\t" in text and "," not in text) else ","
    try:
        [float(cell) for cell in text.split(separator)]
    except ValueError:
        return {"separator": separator}
    return {"separator": separator, "has_header": False}


def _open_numpy(path: str, column: str | None) -> pl.LazyFrame:
    with Path(path).open("rb") as file:  # numpy leaves a damaged archive open
        loaded = np.load(file, allow_pickle=False)
        single = isinstance(loaded, np.ndarray)
        arrays = {"column_1": loaded} if single else {name: loaded[name] for name in loaded.files}
    vectors = {name: x for name, x in arrays.items() if x.ndim == 1 and x.dtype.kind in "fiub"}
    if not vectors:
        shapes = ", ".join(f"{name} {x.shape} {x.dtype}" for name, x in arrays.items()) or "no array"
        raise InputError(f"{path}: holds no vector of numbers ({shapes})")
    # arrays of another length are other things
    size = vectors[column].size if column in vectors else max(x.size for x in vectors.values())
    return pl.LazyFrame({name: x for name, x in vectors.items() if x.size == size})
