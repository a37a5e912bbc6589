"""Scores from files: csv, parquet, jsonl, npz, summaries, Inspect logs and lm-eval samples.

Everything becomes a :class:`~rl_forecast.summary.TailSummary`, so that a billion scores need no more memory than a
thousand. Errors are :class:`~rl_forecast.errors.InputError`: one line that names the file, the value and the fix.
"""

from __future__ import annotations

from rl_forecast.io.read import ReadResult, load_summary, read_groups, read_psi, save_summary
from rl_forecast.io.tables import ReadOptions

__all__ = ["ReadOptions", "ReadResult", "load_summary", "read_groups", "read_psi", "save_summary"]
