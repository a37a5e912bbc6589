"""Sample files of the LM Evaluation Harness: ``samples_<task>_<date>.jsonl``.

A metric of 0 or 1 per document gives failure counts (several runs of one task add up); log-likelihoods give
``p = exp(log-likelihood)`` directly, which is far more informative.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_forecast.errors import InputError, unknown_name
from rl_forecast.io.counting import OutcomeCounter
from rl_forecast.io.records import ReadOptions, ReadResult, parse_outcome, reading
from rl_forecast.scores import psi_from_log_p
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["looks_like_samples", "read_lm_eval"]

_NOT_METRICS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}


def looks_like_samples(path: str) -> bool:
    """Whether a jsonl file is a sample file of the harness, by its first row."""
    with Path(path).open("rb") as file:
        try:
            row = json.loads(file.readline(50_000_000))
        except (ValueError, RecursionError):
            return False
    return isinstance(row, dict) and "doc_id" in row and ("resps" in row or "filtered_resps" in row)


def read_lm_eval(paths: Sequence[str], options: ReadOptions) -> ReadResult:
    """Scores of all documents in some sample files.

    :param paths: sample files; several of the same task are repeated runs
    :param options: ``metric`` and ``fails``, or ``response_log_prob``; ``filter`` where a file holds several
    :raises InputError: a damaged line, an unknown metric or filter, a log-likelihood above 0
    """
    if options.response_log_prob is not None:
        return _read_log_likelihoods(paths, options, options.response_log_prob)
    outcome = parse_outcome(options.fails) if options.fails is not None else None
    counter: OutcomeCounter | None = None
    for path in paths:
        for number, row in _rows(path, options.filter):
            if counter is None:
                counter = OutcomeCounter(f"metric {_choose_metric(row, options.metric, path)!r}", outcome)
                metric = counter.what.split("'")[1]
            value = row.get(metric)
            if isinstance(value, list | dict):
                raise InputError(f"{path}: line {number}: metric {metric!r} is not a single value: {str(value)[:60]}")
            counter.scored((_task(path), str(row["doc_id"])), value)
    if counter is None:
        raise InputError(f"{paths[0]}: holds no row")
    summary, notes = counter.summary(options.capacity)
    return ReadResult(summary, notes)


def _read_log_likelihoods(paths: Sequence[str], options: ReadOptions, index: int) -> ReadResult:
    log_p = []
    for path in paths:
        for number, row in _rows(path, options.filter):
            log_p.append(_log_likelihood(row, index, f"{path}: line {number}"))
    if not log_p:
        raise InputError(f"{paths[0]}: holds no row")
    return ReadResult(TailSummary.from_scores(psi_from_log_p(log_p), options.capacity))


def _log_likelihood(row: dict[str, Any], index: int, where: str) -> float:
    responses = row.get("filtered_resps") or row.get("resps")
    if not isinstance(responses, list) or not 0 <= index < len(responses):
        count = len(responses) if isinstance(responses, list) else 0
        raise InputError(f"{where}: no response {index}: the row has {count}, counted from 0")
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
        found = 0
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{path}: line {number} is not JSON: {line.strip()[:60]!r}") from None
            if not isinstance(row, dict) or "doc_id" not in row:
                raise InputError(f"{path}: line {number} has no doc_id: not a sample of lm-eval")
            name = str(row.get("filter", "none"))
            filters.add(name)
            if wanted is None and len(filters) > 1:
                raise InputError(f"{path}: several filters: choose one with --filter: {', '.join(sorted(filters))}")
            if wanted is None or name == wanted:
                found += 1
                yield number, row
        if not found and filters:
            raise InputError(f"{path}: {unknown_name('filter', str(wanted), sorted(filters))}")


def _choose_metric(row: dict[str, Any], wanted: str | None, path: str) -> str:
    single = [
        name
        for name, value in row.items()
        if name not in _NOT_METRICS and not name.endswith("_hash") and isinstance(value, int | float)
    ]
    names = single or [str(name) for name in row.get("metrics", [])]
    if wanted is None:
        if len(names) == 1:
            return names[0]
        raise InputError(f"{path}: choose a metric with --metric: {', '.join(names) or 'none found'}")
    if wanted not in row:
        raise InputError(f"{path}: {unknown_name('metric', wanted, names)}")
    return wanted


def _task(path: str) -> str:
    """Task in the name of a sample file; the date behind it tells runs apart, not tasks."""
    stem = Path(path).stem
    match = re.fullmatch(r"samples_(.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?", stem)
    return match.group(1) if match else stem
