"""Which columns of a table hold the scores, and what kind of score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.errors import InputError, unknown_name
from rl_forecast.io.records import KIND_OF_COLUMN, Kind, ReadOptions, reading

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Columns", "refuse_text"]

_COUNT_COLUMNS = ("failures", "samples")


class Columns:
    """Which columns of a table hold the scores, checked against the schema.

    :param table: the table
    :param path: its name in error lines
    :param options: what the user said about its columns
    :raises InputError: a column that does not exist, or one that does not say what it holds
    """

    def __init__(self, table: pl.LazyFrame, path: str, options: ReadOptions) -> None:
        with reading(path):
            self.schema = table.collect_schema()
        self.names = list(self.schema)
        self.path = path
        self.counts = self._counts(options)
        self.score: str = ""
        self.kind: Kind = "p"
        if self.counts is None:
            self.score, self.kind = self._score(options)
        self.group = None if options.group_by in (None, "file") else self._named(str(options.group_by))

    def _named(self, name: str) -> str:
        if name not in self.names:
            raise InputError(f"{self.path}: {unknown_name('column', name, self.names)}")
        return name

    def _counts(self, options: ReadOptions) -> tuple[str, str] | None:
        if options.failures or options.samples:
            if not (options.failures and options.samples):
                raise InputError("--failures and --samples belong together: name both columns")
            return self._named(options.failures), self._named(options.samples)
        if options.column is None and set(_COUNT_COLUMNS) <= set(self.names):
            return _COUNT_COLUMNS
        return None

    def _score(self, options: ReadOptions) -> tuple[str, Kind]:
        name = options.column
        if name is None:
            known = [c for c in self.names if c.casefold() in KIND_OF_COLUMN]
            if len(known) == 1:
                name = known[0]
            elif not known and len(self.names) == 1:
                name = self.names[0]
            else:
                what = f"{' and '.join(known)} could be the scores" if known else "no column is named p, log_p or psi"
                raise InputError(f"{self.path}: {what}; name it with --column; columns: {', '.join(self.names[:12])}")
        name = self._named(name)
        kind = options.kind or KIND_OF_COLUMN.get(name.casefold())
        if kind is None:
            raise InputError(
                f"{self.path}: column {name!r} does not say what it holds: add --kind p, --kind log_p or --kind psi"
            )
        return name, kind

    def number(self, name: str) -> pl.Expr:
        """The column as float64."""
        import polars as pl

        dtype = self.schema[name]
        if dtype == pl.String:
            return pl.col(name).str.strip_chars().cast(pl.Float64)
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            raise InputError(f"{self.path}: column {name!r} holds {dtype}, not numbers")
        return pl.col(name).cast(pl.Float64)


def refuse_text(table: pl.LazyFrame, columns: Columns, name: str) -> None:
    """Name the first value that is not a number in a column of text; numbers written as text are taken.

    :raises InputError: such a value, or nothing but empty cells
    """
    import polars as pl

    if columns.schema[name] != pl.String:
        return
    value = pl.col(name).str.strip_chars()
    with reading(columns.path):
        bad = table.filter(value.cast(pl.Float64, strict=False).is_null() & value.is_not_null()).select(name).head(1)
        found = bad.collect()
        filled = found.height or table.filter(value.is_not_null()).select(name).head(1).collect().height
    if not filled:  # a header without rows, or empty cells only: polars calls that text
        raise InputError(f"{columns.path}: column {name!r} holds no score")
    if found.height:
        raise InputError(f"{columns.path}: column {name!r} holds text, not numbers: found {found.item()!r}")
