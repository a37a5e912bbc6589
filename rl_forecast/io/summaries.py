"""Tail summaries on disk: small JSON files that merge, one per shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rl_forecast.errors import InputError
from rl_forecast.io.records import reading
from rl_forecast.summary import SCHEMA, TailSummary

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["load_summary", "looks_like_summary", "save_summary"]


def save_summary(summary: TailSummary, path: str | PathLike[str]) -> None:
    """Write a summary as JSON.

    :param summary: the summary
    :param path: file to write, overwritten if it exists
    """
    Path(path).write_text(json.dumps(summary.to_dict(), allow_nan=False) + "\n", encoding="utf-8")


def load_summary(path: str | PathLike[str]) -> TailSummary:
    """Read a summary written by :func:`save_summary`.

    :raises InputError: not a summary, or a damaged one
    """
    with reading(str(path)):
        text = Path(path).read_text(encoding="utf-8")
        try:
            state = json.loads(text)
            if not isinstance(state, dict):
                raise ValueError("not a tail summary: a JSON object is expected")
            return TailSummary.from_dict(state)
        except (ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}: {error}") from error


def looks_like_summary(path: str) -> bool:
    """Whether a JSON file begins like a summary."""
    with reading(path), Path(path).open("rb") as file:
        return SCHEMA.encode() in file.read(200)
