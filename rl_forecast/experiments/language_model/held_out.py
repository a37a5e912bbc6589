"""Held-out scores of a language model as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rl_forecast.scores import psi_from_log_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["score_table"]

# log p is float32 near 0: a probability is at most 1 - 1e-6, as for psi.
_HIGHEST_LOG_P = -1e-6


def score_table(
    agent: str,
    part: str,
    task_id: list[int] | list[str],
    log_p: NDArray[np.float64],
    log_odds: NDArray[np.float64] | None = None,
    rare: NDArray[np.bool_] | None = None,
) -> pl.DataFrame:
    """Scores of one part as rows of ``scores.parquet``.

    :param agent: name of the agent
    :param part: name of the part
    :param task_id: ids of the prompts
    :param log_p: shape (n,), log failure probability
    :param log_odds: shape (n,), exact log-odds where they are known
    :param rare: shape (n,), membership of the rare family where it is known
    :return: columns ``agent``, ``part``, ``task_id``, ``log_p``, ``psi``, ``log_odds``, ``rare``
    """
    log_p = np.minimum(np.asarray(log_p, dtype=np.float64), _HIGHEST_LOG_P)
    n = len(log_p)
    return pl.DataFrame(
        {
            "agent": pl.Series([agent] * n, dtype=pl.String),
            "part": pl.Series([part] * n, dtype=pl.String),
            "task_id": pl.Series([str(i) for i in task_id], dtype=pl.String),
            "log_p": log_p,
            "psi": psi_from_log_p(log_p),
            "log_odds": pl.Series([None] * n if log_odds is None else log_odds, dtype=pl.Float64),
            "rare": pl.Series([None] * n if rare is None else rare, dtype=pl.Boolean),
        }
    )
