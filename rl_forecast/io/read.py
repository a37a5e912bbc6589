"""Any number of score files of any known format, as summaries of groups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.errors import InputError
from rl_forecast.io.records import ReadOptions, ReadResult, reading
from rl_forecast.io.summaries import load_summary, looks_like_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["file_format", "read_groups", "read_psi"]


def file_format(path: str) -> str:
    """Format of a file: ``table``, ``summary``, ``inspect`` or ``lm_eval``.

    :raises InputError: it does not exist or cannot be opened
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".eval":
        return "inspect"
    if suffix == ".json":
        return "summary" if looks_like_summary(path) else "inspect"
    if suffix in (".jsonl", ".ndjson"):
        from rl_forecast.io.lm_eval import looks_like_samples

        with reading(path):
            return "lm_eval" if looks_like_samples(path) else "table"
    return "table"


def read_groups(
    paths: Sequence[str],
    options: ReadOptions,
    advance: Callable[[str, int, int], None] | None = None,
) -> dict[str, ReadResult]:
    """Summaries of all groups of scores in some files.

    Without ``group_by`` all files together are one group, named ``""``. Grouped by ``file`` each file is one, by a
    column each of its values. Logs of repeated runs of one evaluation (same task and model) combine sample by sample.

    :param paths: files; ``-`` is standard input
    :param options: what to read
    :param advance: called with path, rows done and rows in all while a long file is read
    :raises InputError: bad input

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "scores.csv"
    ...     _ = path.write_text(os.linesep.join(["p", "0.1", "0.02", "0.003"]), encoding="utf-8")
    ...     summary = read_groups([str(path)], ReadOptions())[""].summary
    >>> summary.count, summary.top.round(2)
    (3, array([-0.83, -1.36, -1.76]))
    """
    if not paths:
        raise InputError("no file given: name one or more score files, or - for standard input")
    if options.group_by == "file":
        from dataclasses import replace

        plain = replace(options, group_by=None)
        return {name: read_groups([path], plain, advance)[""] for name, path in _short_names(paths).items()}
    by_format: dict[str, list[str]] = {}
    for path in paths:
        by_format.setdefault(file_format(path), []).append(path)
    if options.group_by and set(by_format) != {"table"}:
        raise InputError(
            f"--group-by {options.group_by!r} names a column, but not every file is a table: use --group-by file"
        )
    found: dict[str, list[ReadResult]] = {}
    for fmt, members in by_format.items():
        for result in _read(fmt, members, options, advance):
            for name, group in result.items():
                found.setdefault(name, []).append(group)
    return {name: _merge(groups) for name, groups in found.items()}


def _read(
    fmt: str, paths: list[str], options: ReadOptions, advance: Callable[[str, int, int], None] | None
) -> list[dict[str, ReadResult]]:
    if fmt == "inspect":
        from rl_forecast.io.inspect_logs import read_inspect

        return [{"": read_inspect(paths, options)}]
    if fmt == "lm_eval":
        from rl_forecast.io.lm_eval import read_lm_eval

        return [{"": read_lm_eval(paths, options)}]
    if fmt == "summary":
        return [{"": ReadResult(load_summary(path))} for path in paths]
    from rl_forecast.io.tables import read_table

    def report(path: str) -> Callable[[int, int], None] | None:
        return None if advance is None else lambda done, total: advance(path, done, total)

    return [read_table(path, options, report(path)) for path in paths]


def _merge(groups: list[ReadResult]) -> ReadResult:
    summary = groups[0].summary
    for group in groups[1:]:
        try:
            summary = summary.merge(group.summary)
        except ValueError as error:
            raise InputError(str(error)) from error
    return ReadResult(summary, tuple(note for group in groups for note in group.notes))


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """File names without folders where that keeps them apart."""
    names = [Path(path).name for path in paths]
    return dict(zip(names if len(set(names)) == len(names) else paths, paths, strict=True))


def read_psi(paths: Sequence[str], options: ReadOptions) -> NDArray[np.float64]:
    """All psi scores of some tables, for what needs more than a summary.

    :raises InputError: bad input, or a file that is not a table
    """
    from rl_forecast.io.tables import read_table_psi

    if not paths:
        raise InputError("no file given: name one or more score files, or - for standard input")
    for path in paths:
        if file_format(path) != "table":
            raise InputError(f"{path}: every single score is needed here: give a csv, parquet, jsonl or npz table")
    return np.concatenate([read_table_psi(path, options) for path in paths])
