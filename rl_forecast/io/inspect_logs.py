"""Inspect logs (``.eval`` and its ``.json`` form): epochs of a sample are repeated tries of one query.

Only headers and sample summaries are read, never whole transcripts. A sample that errored has no score and is counted
apart: it may be the very failure looked for.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from rl_forecast.errors import InputError, unknown_name
from rl_forecast.io.counting import OutcomeCounter
from rl_forecast.io.records import ReadOptions, ReadResult, parse_outcome, reading

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_inspect"]


def read_inspect(paths: Sequence[str], options: ReadOptions) -> ReadResult:
    """Failure counts of all queries in some logs.

    Samples with the same id in logs of the same task are the same query, so reruns add to its tries.

    :param paths: log files
    :param options: ``scorer`` (may be left out where there is one), ``fails``
    :raises InputError: inspect-ai missing, an unreadable log, an unknown scorer, logs of several models
    """
    outcome = parse_outcome(options.fails) if options.fails is not None else None
    logs = [(path, *_read_log(path)) for path in paths]
    models = sorted({model for _, _, model, _ in logs})
    if len(models) > 1:
        raise InputError(
            f"the logs are of {len(models)} models ({', '.join(models)}), whose failures differ: add --group-by file"
        )
    scorer, key = _choose_scorer([s for _, _, _, samples in logs for s in samples], options.scorer, paths[0])
    counter = OutcomeCounter(f"scorer {scorer!r}" + (f" key {key!r}" if key else ""), outcome)
    for path, task, _, samples in logs:
        for sample in samples:
            query = (task, sample.id)
            if sample.error is not None:
                counter.errored(query)
            elif not sample.scores or scorer not in sample.scores:
                counter.unscored(query)
            else:
                counter.scored(query, _plain_value(sample.scores[scorer].value, scorer, key, path))
    summary, notes = counter.summary(options.capacity)
    return ReadResult(summary, notes)


def _read_log(path: str) -> tuple[str, str, list[Any]]:
    """Task, model and sample summaries of a log."""
    try:
        from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
    except ImportError as error:
        raise InputError(
            f"{path}: Inspect logs are read with inspect-ai: pip install 'rl-forecast[eval-logs]'"
        ) from error
    with reading(path), warnings.catch_warnings():
        # warnings of the reader about an older log format are no concern of the forecast's reader
        warnings.simplefilter("ignore")
        with open(path, "rb"):
            pass
        header = read_eval_log(path, header_only=True)
        samples = read_eval_log_sample_summaries(path)
    if not samples:
        raise InputError(f"{path}: the log holds no sample (its status is {header.status!r})")
    return header.eval.task, header.eval.model, list(samples)


def _choose_scorer(samples: list[Any], wanted: str | None, path: str) -> tuple[str, str | None]:
    """Scorer and, for values that are dicts or lists, the key within them."""
    names = sorted({name for s in samples for name in (s.scores or {})})
    if not names:
        errored = sum(s.error is not None for s in samples)
        raise InputError(f"{path}: no sample has a score ({errored} of {len(samples)} errored)")
    if wanted is None:
        if len(names) > 1:
            raise InputError(f"{path}: several scorers: choose one with --scorer: {', '.join(names)}")
        return names[0], None
    if wanted in names:
        return wanted, None
    scorer, _, key = wanted.rpartition("/")
    if scorer in names:
        return scorer, key
    raise InputError(f"{path}: {unknown_name('scorer', wanted, names)}")


def _plain_value(value: Any, scorer: str, key: str | None, path: str) -> object:
    """A single value out of whatever a scorer returned."""
    if isinstance(value, dict):
        if key is None:
            keys = ", ".join(f"{scorer}/{k}" for k in value)
            raise InputError(f"{path}: scorer {scorer!r} returns several values: choose one with --scorer: {keys}")
        if key not in value:
            raise InputError(f"{path}: {unknown_name('key', key, [str(k) for k in value])}")
        return value[key]
    if isinstance(value, list):
        if key is None or not key.isdigit() or int(key) >= len(value):
            raise InputError(
                f"{path}: scorer {scorer!r} returns a list of {len(value)}: choose one with --scorer {scorer}/0"
            )
        return value[int(key)]
    if key is not None:
        raise InputError(f"{path}: scorer {scorer!r} returns single values, it has no key {key!r}")
    return value
