"""Any number of score files of any format: records in batches, and their summaries by group.

Every reader yields records: polars frames with the same column names, one frame per batch. A row is a
query with its score, a query with its counts, or one try of a query with its verdict:

``psi``
    score of the query, Float64, null where it has none; of counts, that of Jeffreys' estimate
``failures``, ``samples``
    how often the query failed, and how often it was asked, Float64
``query``, ``try``
    who is asked, and which time: tries of one query add up, the same try read twice counts once
``verdict``, ``error``
    outcome of the try as text, null where it has none, and the error that ended the try
``scorer``, ``model``, ``source``
    what gave the verdict, the model asked, and the file
``group``
    the user's column that :attr:`ReadOptions.user_columns` names; cells as the file has them
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rl_forecast.errors import InputError, reading
from rl_forecast.io.counting import count_verdicts
from rl_forecast.io.inspect_logs import read_inspect
from rl_forecast.io.lm_eval import is_sample, read_lm_eval
from rl_forecast.io.tables import ReadOptions, read_table
from rl_forecast.summary import SCHEMA, TailSummary

_MOST_GROUPS = 1_000


@dataclass(frozen=True)
class ReadResult:
    """Summary of one group of scores, and notes for the reader, for example how many samples errored."""

    summary: TailSummary
    notes: tuple[str, ...] = ()


def _formats(paths: Sequence[str]) -> dict[str, str]:
    """Format of each file: ``table``, ``summary``, ``inspect`` or ``lm_eval``.

    Two names of the same scores are refused: they would look like more queries and narrow every interval. (Logs of two
    runs may hold the same bytes: their tries tell.)
    """
    if not paths:
        raise InputError("no file given: name one or more score files, or - for standard input")
    formats: dict[str, str] = {}
    seen: dict[object, str] = {}
    for path in paths:
        same: object = path
        formats.setdefault(path, "table")
        if path != "-":
            with reading(path), Path(path).open("rb") as file:
                formats[path] = _format(Path(path).suffix.lower(), file)
                if len(paths) > 1:
                    is_log = formats[path] in ("inspect", "lm_eval")
                    file.seek(0)
                    same = os.fstat(file.fileno()).st_ino if is_log else hashlib.file_digest(file, "blake2b").digest()
        if same in seen:
            raise InputError(
                f"{seen[same]} and {path} hold the same scores, which would count twice: name one of them; two "
                "evaluations with the same outcome go into one table"
            )
        seen[same] = path
    return formats


def _format(suffix: str, file: IO[bytes]) -> str:
    if suffix == ".json":
        return "summary" if SCHEMA.encode() in file.read(200) else "inspect"
    if suffix in (".jsonl", ".ndjson"):
        return "lm_eval" if is_sample(file.readline(50_000_000)) else "table"
    return "inspect" if suffix == ".eval" else "table"


def _records(path: str, fmt: str, options: ReadOptions) -> Iterator[pl.DataFrame | TailSummary]:
    """Records of one file, batch by batch, or its summary."""
    if fmt == "summary":
        if options.user_columns:
            raise InputError(f"{path} is a summary, it has no column {options.group_by!r}: use --group-by file")
        yield load_summary(path)
    elif fmt == "table":
        yield from read_table(path, options)
    else:
        yield (read_inspect if fmt == "inspect" else read_lm_eval)(path, options)


def _grouped(
    paths: Sequence[str], options: ReadOptions
) -> Iterator[tuple[str, str, pl.DataFrame | TailSummary, tuple[str, ...]]]:
    """Group, file, records with scores (or a summary), and notes; verdicts of all files are counted last."""
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = list(paths)
    verdicts: dict[str, list[pl.DataFrame]] = {}
    for (path, fmt), name in zip(_formats(paths).items(), names, strict=True):
        for records in _records(path, fmt, options):
            parts = {name if options.group_by == "file" else "": records}
            if options.user_columns and not isinstance(records, TailSummary):
                parts = {str(group): part for (group,), part in records.partition_by("group", as_dict=True).items()}
            for group, part in parts.items():
                if isinstance(part, TailSummary) or "verdict" not in part.columns:
                    yield group, path, part, ()
                else:
                    verdicts.setdefault(group, []).append(part)
    for group, tries in verdicts.items():
        yield group, tries[0]["source"][0], *count_verdicts(pl.concat(tries, how="diagonal"), options.fails)


def _summarise(records: pl.DataFrame, capacity: int) -> TailSummary | None:
    """Summary of the scores of a batch, None where no query has one."""
    scored = records.drop_nulls("psi") if records["psi"].null_count() else records
    if not scored.height:
        return None
    n_unscored = records.height - scored.height
    if "failures" not in scored.columns:
        return TailSummary.from_scores(scored["psi"].to_numpy(), capacity, n_unscored)
    f, j, repeats = scored.group_by("failures", "samples").len().to_numpy().T
    return TailSummary.from_count_table(f, j, repeats, capacity, n_unscored)


def read_groups(paths: Sequence[str], options: ReadOptions) -> dict[str, ReadResult]:
    """Summaries of all groups of scores in some files.

    Without ``group_by`` all files together are one group, named ``""``. Grouped by ``file`` each file is one, by a
    column each of its values. Logs of repeated runs of one evaluation (same task and model) combine sample by sample.

    :param paths: files; ``-`` is standard input
    :raises InputError: bad input

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "scores.csv"
    ...     _ = path.write_text(os.linesep.join(["p", "0.1", "0.02", "0.003"]), encoding="utf-8")
    ...     summary = read_groups([str(path)], ReadOptions())[""].summary
    >>> summary.count, summary.top.round(2)
    (3, array([-0.83, -1.36, -1.76]))
    """
    summaries: dict[str, TailSummary] = {}
    unscored: Counter[str] = Counter()
    notes: dict[str, tuple[str, ...]] = {}
    for group, path, records, said in _grouped(paths, options):
        notes[group] = notes.get(group, ()) + said
        part: TailSummary | None
        if isinstance(records, TailSummary):
            part = records
        elif (part := _summarise(records, options.capacity)) is None:
            unscored[group] += records.height
            continue
        try:
            summaries[group] = summaries[group].merge(part) if group in summaries else part
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        if len(notes) > _MOST_GROUPS:
            raise InputError(f"{path}: column {options.group_by!r} holds more than {_MOST_GROUPS} groups: too many")
    empty = [group for group in notes if group not in summaries]
    if empty:
        raise InputError(f"{paths[0]}: group {empty[0]!r} holds no score")
    return {
        group: ReadResult(replace(summaries[group], n_unscored=summaries[group].n_unscored + unscored[group]), said)
        for group, said in (sorted(notes.items()) if options.user_columns else notes.items())
    }


def read_psi(paths: Sequence[str], options: ReadOptions) -> NDArray[np.float64]:
    """All psi scores of some files, for what needs more than a summary; counts become Jeffreys' estimates.

    :return: shape (m,), in the order of the files; queries without a score are left out
    :raises InputError: bad input, or a summary
    """
    parts: list[NDArray[np.float64]] = []
    most = 0.0
    for _, path, records, _ in _grouped(paths, replace(options, group_by=None)):
        if isinstance(records, TailSummary):
            raise InputError(f"{path}: every single score is needed here: give the table or log that it was made from")
        parts.append(records["psi"].drop_nulls().to_numpy())
        most = max(most, cast("float", records["samples"].max()) if "samples" in records.columns else np.inf)
    if most <= 1:
        raise InputError(f"{paths[0]}: one try a query tells no query from another: give repeated tries, or scores")
    return np.concatenate(parts)


def save_summary(summary: TailSummary, path: str | Path) -> None:
    """Write a summary as JSON."""
    Path(path).write_text(json.dumps(summary.to_dict(), allow_nan=False) + "\n", encoding="utf-8")


def load_summary(path: str | Path) -> TailSummary:
    """Read a summary written by :func:`save_summary`.

    :raises InputError: not a summary, or a damaged one
    """
    with reading(str(path)):
        return TailSummary.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
