"""Tables from files of any format and from standard input, as lazy polars frames."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.errors import InputError
from rl_forecast.io.records import reading

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TABLE_SUFFIXES", "open_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".npz", ".npy")


def open_table(path: str) -> pl.LazyFrame:
    """Lazy table from a file or, for ``-``, from standard input.

    :raises InputError: no such file, another format, empty, or damaged
    """
    import polars as pl

    with reading("standard input" if path == "-" else path):
        if path == "-":
            return _from_bytes(sys.stdin.buffer.read())
        suffix = Path(path).suffix.lower()
        if not Path(path).exists():
            raise FileNotFoundError(path)
        if Path(path).is_dir():
            raise IsADirectoryError(path)
        if Path(path).stat().st_size == 0:
            raise InputError(f"{path}: is empty")
        if suffix in (".parquet", ".pq"):
            return pl.scan_parquet(path, glob=False)
        if suffix in (".jsonl", ".ndjson"):
            return pl.scan_ndjson(path, infer_schema_length=1_000)
        if suffix in (".npz", ".npy"):
            return _from_numpy(path)
        if suffix in (".csv", ".tsv", ".txt"):
            with Path(path).open("rb") as file:
                options = _csv_options(file.readline(10_000), suffix)
            return pl.scan_csv(path, infer_schema_length=10_000, glob=False, **options)
    known = ", ".join(TABLE_SUFFIXES)
    raise InputError(f"{path}: unknown format {suffix or 'without a suffix'}; known are {known}, .eval and .json")


def _csv_options(first: bytes, suffix: str) -> dict[str, Any]:
    """Separator, and whether the first line is a header: a line of nothing but numbers is data."""
    text = first.decode("utf-8", errors="replace").lstrip("\ufeff").strip()
    separator = "\t" if suffix == ".tsv" or ("\t" in text and "," not in text) else ","
    try:
        [float(cell) for cell in text.split(separator)]
    except ValueError:
        return {"separator": separator}
    return {"separator": separator, "has_header": False}


def _from_bytes(data: bytes) -> pl.LazyFrame:
    """Table from the bytes of standard input: parquet, jsonl, csv, or one number a line."""
    import polars as pl

    if not data.strip():
        raise InputError("standard input: is empty")
    if data[:4] == b"PAR1":
        return pl.read_parquet(io.BytesIO(data)).lazy()
    if data.lstrip()[:1] == b"{":
        return pl.read_ndjson(io.BytesIO(data)).lazy()
    options = _csv_options(data.split(b"\n", 1)[0], "")
    return pl.read_csv(io.BytesIO(data), infer_schema_length=10_000, **options).lazy()


def _from_numpy(path: str) -> pl.LazyFrame:
    import polars as pl

    with Path(path).open("rb") as file:  # numpy leaves a damaged archive open
        loaded = np.load(file, allow_pickle=False)
        single = isinstance(loaded, np.ndarray)
        arrays = {"column_1": loaded} if single else {name: loaded[name] for name in loaded.files}
    vectors = {name: x for name, x in arrays.items() if x.ndim == 1 and x.dtype.kind in "fiub"}
    if not vectors:
        shapes = ", ".join(f"{name} {x.shape} {x.dtype}" for name, x in arrays.items()) or "no array"
        raise InputError(f"{path}: holds no vector of numbers ({shapes})")
    # arrays of another length are other things; the columns asked for are checked to be of one length when chosen
    longest = max(x.size for x in vectors.values())
    return pl.LazyFrame({name: x for name, x in vectors.items() if x.size == longest})
