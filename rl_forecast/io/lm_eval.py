"""Sample files of the LM Evaluation Harness: ``samples_<task>_<date>.jsonl``.

A metric of 0 or 1 per document gives failure counts (several runs of one task add up); log-likelihoods give
``p = exp(log-likelihood)`` directly, which is far more informative.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from rl_forecast.errors import InputError, choose_name, reading
from rl_forecast.io.counting import log_records
from rl_forecast.io.tables import ReadOptions
from rl_forecast.scores import psi_from_log_p

_NOT_METRICS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}


def is_sample(line: bytes) -> bool:
    """Whether a line of a jsonl file is a sample of the harness."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "doc_id" in row and ("resps" in row or "filtered_resps" in row)


def read_lm_eval(path: str, options: ReadOptions) -> pl.DataFrame:
    """Records of all documents in a sample file: verdicts of a metric, or scores from log-likelihoods.

    Several files of the same task are repeated runs.
    """
    return log_records(_tries(path, options), options, path)


def _tries(path: str, options: ReadOptions) -> Iterator[dict[str, Any]]:
    # the date behind the task tells runs apart, not tasks
    task = re.sub(r"^samples_(.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?$", r"\1", Path(path).stem)
    metric = ""
    for number, row in _rows(path, options.filter):
        where = f"{path}: line {number}"
        doc = row.get("doc")
        record = {
            # where a document changed under the same number it is another query
            "query": f"{task} {row['doc_id']} {row.get('doc_hash', '')}",
            "fields": {"task": task, **(doc if isinstance(doc, dict) else {}), **row},
        }
        if options.response_log_prob is not None:
            yield record | {"psi": float(psi_from_log_p(_log_likelihood(row, options.response_log_prob, where)))}
            continue
        metric = metric or choose_name("metric", options.metric, _metrics(row), path)
        if isinstance(row.get(metric), list | dict):
            raise InputError(f"{where}: metric {metric!r} is not a single value: {str(row[metric])[:60]}")
        scorer = f"metric {metric!r}"
        yield record | {"try": path, "verdict": row.get(metric), "error": None, "scorer": scorer, "model": None}


def _log_likelihood(row: dict[str, Any], index: int, where: str) -> float:
    responses = row.get("filtered_resps") or row.get("resps")
    responses = responses if isinstance(responses, list) else []
    if not 0 <= index < len(responses):
        raise InputError(f"{where}: no response {index}: the row has {len(responses)}, counted from 0")
    value = responses[index]
    # [logprob, is_greedy], as numbers or as text, with one list around it for each repeat
    while isinstance(value, list) and value:
        value = value[0]
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: response {index} holds no log-likelihood: {str(value)[:60]!r}") from None
    if not found <= 0:
        raise InputError(f"{where}: log-likelihood {found!r} is not at most 0")
    return found


def _rows(path: str, wanted: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of one filter; a file with several repeats every document once for each."""
    with reading(path), Path(path).open(encoding="utf-8") as file:
        filters: set[str] = set()
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)  # not polars: rows differ in type, and Python writes NaN
            except (ValueError, RecursionError):
                raise InputError(f"{path}: line {number} is not JSON: {line.strip()[:60]!r}") from None
            if not isinstance(row, dict) or "doc_id" not in row:
                raise InputError(f"{path}: line {number} has no doc_id: not a sample of lm-eval")
            name = str(row.get("filter", "none"))
            filters.add(name)
            if wanted is None:
                choose_name("filter", None, sorted(filters), path)
            if wanted in (None, name):
                yield number, row
        choose_name("filter", wanted, sorted(filters), path)


def _metrics(row: dict[str, Any]) -> list[str]:
    single = [
        name
        for name, value in row.items()
        if name not in _NOT_METRICS and not name.endswith("_hash") and isinstance(value, int | float)
    ]
    return single or [str(name) for name in row.get("metrics", [])]
