"""Verdicts of repeated tries, counted query by query: for Inspect and lm-eval logs alike."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from rl_forecast.errors import InputError, choose_name
from rl_forecast.io.tables import ReadOptions, psi_of_counts

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "": operator.eq,
}


def _failure_rule(fails: str) -> Callable[[str], bool]:
    """Which verdicts mean failure, as ``--fails`` says it: a value such as ``I`` or ``0``, or a comparison ``<0.5``."""
    sign = next(sign for sign in _COMPARISONS if fails.startswith(sign))
    limit = _number(fails[len(sign) :])
    if sign and limit is None:
        raise InputError(f"--fails {fails!r}: {sign} needs a number after it, such as '{sign}0.5'")

    def is_failure(verdict: str) -> bool:
        number = _number(verdict)
        if sign and number is None:
            raise InputError(f"--fails {fails!r} compares numbers, but a value is {verdict!r}: name the value instead")
        if number is None or limit is None:
            return verdict.casefold() == fails.casefold()
        return _COMPARISONS[sign](number, limit)

    return is_failure


def _number(text: str) -> float | None:
    if text.casefold() in ("true", "false"):
        return float(text.casefold() == "true")
    try:
        return float(text)
    except ValueError:
        return None


def log_records(tries: Iterable[dict[str, Any]], options: ReadOptions, path: str) -> pl.DataFrame:
    """Records of one log (columns: :mod:`rl_forecast.io.read`).

    :param tries: a record of each try as a dict, all with the same keys; ``verdict`` may be of any type, None and NaN
        (as evaluations write that there is none) become null; ``fields`` is what the user may name as a column
    """
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    for record in tries:
        fields = record.pop("fields")
        for role, name in options.user_columns.items():
            names.update(fields)
            record[role] = None if fields.get(name) is None else str(fields[name])
        verdict = record.get("verdict")
        if verdict is not None:
            record["verdict"] = None if isinstance(verdict, float) and math.isnan(verdict) else str(verdict)
        rows.append(record | {"source": path})
    if not rows:
        raise InputError(f"{path}: holds no sample")
    for name in options.user_columns.values():
        choose_name("column", name, sorted(names), path)
    return pl.DataFrame(rows, schema={name: pl.Float64 if name == "psi" else pl.String for name in rows[0]})


def count_verdicts(tries: pl.DataFrame, fails: str | None) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Failures and samples of each query, in the order of their first try, and notes on what is not among them."""
    is_failure = None if fails is None else _failure_rule(fails)
    models = sorted(tries["model"].drop_nulls().unique())
    if len(models) > 1:
        raise InputError(
            f"the logs are of {len(models)} models ({', '.join(models)}), whose failures differ: add --group-by file"
        )
    scorers = tries["scorer"].drop_nulls().unique(maintain_order=True).to_list()
    options = sorted({f"--{name.split()[0]}" for name in scorers})
    if len(scorers) > len(options):
        raise InputError(f"the logs hold {', '.join(scorers)}: choose one with {' or '.join(options)}")
    what = " or ".join(scorers)
    once = _without_repeats(tries)
    seen = Counter(once["verdict"].drop_nulls().to_list())
    errors = Counter(once["error"].drop_nulls().to_list())
    n_unscored = once["verdict"].null_count() - errors.total()
    if not seen:
        why = f", most often with {errors.most_common(1)[0][0]}" if errors else ""
        lost = f"{errors.total()} of {once.height} errored{why}"
        raise InputError(f"{tries['source'][0]}: no sample has a score ({lost})")
    shown = ", ".join(f"{value} ({times})" for value, times in seen.most_common(8))
    if is_failure is None:
        raise InputError(f"which value of {what} means failure? Add --fails VALUE; values seen: {shown}")
    failing = [value for value in seen if is_failure(value)]
    notes = {
        f"{tries.height - once.height} samples are in the logs more than once and are counted once.": (
            once.height < tries.height
        ),
        f"{errors.total()} samples errored and have no score; any of them may be the failure looked for.": bool(errors),
        f"{n_unscored} samples have no score from {what} (missing or NaN).": n_unscored > 0,
        f"no sample has the value {fails!r} that means failure; values seen: {shown}.": not failing,
    }
    counts = once.group_by("query", maintain_order=True).agg(
        pl.col("verdict").is_in(failing).sum().cast(pl.Float64).alias("failures"),
        pl.col("verdict").count().cast(pl.Float64).alias("samples"),
    )
    counts = counts.with_columns(psi_of_counts(counts, what))
    return counts, tuple(note for note, holds in notes.items() if holds)


def _without_repeats(tries: pl.DataFrame) -> pl.DataFrame:
    """Every try once: a log that was retried, copied or converted holds the same tries again."""
    once = tries.unique(["query", "try"], keep="first", maintain_order=True)
    if once.height < tries.height:
        several = tries.group_by("query", "try", maintain_order=True).agg(pl.col("verdict", "source").unique())
        wrong = several.filter(pl.col("verdict").list.len() > 1)
        if wrong.height:
            query, _, verdicts, sources = wrong.row(0)
            raise InputError(
                f"{' and '.join(sources)}: sample {query} is there twice with different verdicts "
                f"({' and '.join(map(str, verdicts))}): keep one filter, one scoring"
            )
    return once
