"""Inspect logs (``.eval`` and its ``.json`` form): epochs of a sample are repeated tries of one query.

Only headers and sample summaries are read, never whole transcripts. A sample that errored has no score and is counted
apart: it may be the very failure looked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl

from rl_forecast.errors import InputError, choose_name, reading
from rl_forecast.io.counting import log_records
from rl_forecast.io.tables import ReadOptions


def read_inspect(path: str, options: ReadOptions) -> pl.DataFrame:
    """Records of all samples in a log, one for each epoch.

    Samples with the same id in logs of the same task are the same query, so reruns add to its tries.
    """
    return log_records(_tries(path, options.scorer), options, path)


def _tries(path: str, wanted: str | None) -> Iterator[dict[str, Any]]:
    try:
        from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
    except ImportError as error:
        fix = "pip install 'rl-forecast[eval-logs]'"
        raise InputError(f"{path}: Inspect logs are read with inspect-ai: {fix}") from error
    with reading(path), warnings.catch_warnings():
        # warnings of the reader about an older log format are no concern of the forecast's reader
        warnings.simplefilter("ignore")
        log = read_eval_log(path, header_only=True)
        samples = read_eval_log_sample_summaries(path)
    if not samples:
        raise InputError(f"{path}: the log holds no sample (its status is {log.status!r})")
    scorer, key = _choose_scorer(samples, wanted, path)
    for sample in samples:
        score = (sample.scores or {}).get(scorer) if sample.error is None else None
        yield {
            "query": f"{log.eval.task} {sample.id!r}",
            "try": sample.uuid or f"{log.eval.eval_id} {sample.epoch}",
            "verdict": None if score is None else _single(score.value, scorer, key, path),
            "error": None if sample.error is None else sample.error.partition("\n")[0][:120],
            "scorer": f"scorer {scorer!r}" + (f" key {key!r}" if key else "") if scorer else None,
            "model": log.eval.model,
            "fields": {"task": log.eval.task, "model": log.eval.model, **(sample.metadata or {})},
        }


def _choose_scorer(samples: list[Any], wanted: str | None, path: str) -> tuple[str, str | None]:
    """Scorer (``""`` where no sample has a score) and, for values that are dicts or lists, the key within them."""
    names = sorted({name for sample in samples for name in (sample.scores or {})})
    if not names:
        return "", None
    begins = [name for name in names if wanted and wanted.startswith(f"{name}/")]
    if wanted is None or wanted in names or not begins:
        return choose_name("scorer", wanted, names, path), None
    scorer = max(begins, key=len)
    key = wanted[len(scorer) + 1 :]
    keys = {k for s in samples if scorer in (s.scores or {}) for k in _by_key(s.scores[scorer].value)}
    return scorer, choose_name("key", key, sorted(keys), path) if keys else key


def _by_key(value: Any) -> dict[str, Any]:
    """A scorer's several values by name, or by place; nothing for a single value."""
    if isinstance(value, list):
        return {str(i): v for i, v in enumerate(value)}
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def _single(value: Any, scorer: str, key: str | None, path: str) -> object:
    """A single value out of whatever a scorer returned; None where it has nothing under the key."""
    several = _by_key(value)
    if several and key is None:
        keys = ", ".join(f"{scorer}/{k}" for k in several)
        raise InputError(f"{path}: scorer {scorer!r} returns several values: choose one with --scorer: {keys}")
    if key is not None and not isinstance(value, dict | list):
        raise InputError(f"{path}: scorer {scorer!r} returns single values, it has no key {key!r}")
    return value if key is None else several.get(key)
