"""What every reader yields, whatever the format: polars frames with the same column names, one frame per batch.

A row is a query with its score, a query with its counts, or one try of a query with its verdict:

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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rl_forecast.errors import InputError
from rl_forecast.scores import psi_from_counts
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = ["KIND_OF_COLUMN", "Kind", "ReadOptions", "ReadResult", "psi_column", "psi_of_counts"]

Kind = Literal["p", "log_p", "psi"]

KIND_OF_COLUMN: dict[str, Kind] = {
    "p": "p",
    "prob": "p",
    "probability": "p",
    "log_p": "log_p",
    "logp": "log_p",
    "log_prob": "log_p",
    "logprob": "log_p",
    "psi": "psi",
    "score": "psi",
}
"""Column names that say what they hold."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read scores.

    :param column: name of the score column; None: the one whose name says what it holds
    :param kind: what the column holds, ``p``, ``log_p`` or ``psi``; None: what its name says
    :param failures: column with the number of failures of each query
    :param samples: column with its number of samples
    :param scorer: Inspect scorer, or ``scorer/key`` where its value is a dict or list
    :param metric: lm-eval metric
    :param filter: lm-eval filter, where a file holds several
    :param response_log_prob: lm-eval: take exp of the log-likelihood of this response (from 0) as p
    :param fails: the value that means failure, or a comparison such as ``<0.5``
    :param group_by: ``file``, the name of a column (of logs: ``task``, ``model`` or a field of the sample), or None
        for one group
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


@dataclass(frozen=True)
class ReadResult:
    """Summary of one group of scores.

    :param summary: the scores
    :param notes: remarks for the reader, for example how many samples errored
    """

    summary: TailSummary
    notes: tuple[str, ...] = ()


def psi_column(psi: NDArray[np.float64], known: pl.Series) -> pl.Series:
    """The column ``psi`` from the scores of those queries that have one."""
    import polars as pl

    if psi.size < known.len():
        scattered = np.full(known.len(), np.nan)
        scattered[known.to_numpy()] = psi
        psi = scattered
    return pl.Series("psi", psi, nan_to_null=True)


def psi_of_counts(records: pl.DataFrame, where: str) -> pl.Series:
    """The column ``psi`` from counts.

    :raises InputError: negative or fractional counts, or more failures than samples
    """
    f, j = records["failures"], records["samples"]
    known = (f.is_not_null() & j.is_not_null() & (j != 0)).fill_null(False)
    try:
        return psi_column(psi_from_counts(f.filter(known).to_numpy(), j.filter(known).to_numpy()), known)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
