"""``rl-forecast compare``: which of several sources finds the worst failure for the money."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_forecast.commands.shared import (
    Parser,
    add_forecast_options,
    add_reading_options,
    forecast_or_usage_error,
    number,
    read,
    writing,
)
from rl_forecast.errors import InputError

if TYPE_CHECKING:
    from rl_forecast.forecasting.compare import Comparison

__all__ = ["main"]

_EPILOG = """\
Each file is one source of queries: a red-teamer, a prompt set, a model. The budget buys budget / cost queries of each.

columns of the table:
  queries          what the budget buys
  worst query      failure probability of the worst of them, point forecast and prediction interval
  finds the worst  probability that this source finds the worst query of all

example (Jones et al. 2025, section 6):
  rl-forecast compare careful.parquet cheap.parquet --cost 1 0.1 --budget 1e6
"""


def main(argv: list[str]) -> int:
    """Run the command.

    :param argv: its arguments
    :return: exit code
    :raises InputError: bad usage or input
    """
    parser = Parser(
        "compare",
        "FILE FILE [FILE ...] --budget B [--cost C C ...] [options]",
        "Compare sources of queries by the worst failure each would find for a budget.",
        _EPILOG,
    )
    parser.add_argument("--budget", type=number, required=True, metavar="B", help="what may be spent on each source")
    parser.add_argument(
        "--cost", type=number, nargs="+", metavar="C", help="cost of a query, one for each file in order (default: 1)"
    )
    add_reading_options(parser)
    add_forecast_options(parser)
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON, - for standard output")
    args = parser.parse_args(argv)
    if len(args.files) < 2:
        raise InputError(f"there is nothing to compare with {args.files[0]}: name at least two files")
    args.group_by = "file"
    results = read(args)

    from rl_forecast.forecasting.compare import compare

    found: Comparison = forecast_or_usage_error(
        lambda: compare(
            {name: result.summary for name, result in results.items()}, args.budget, args.cost, args.method, args.tail_k
        )
    )
    if args.json != "-":
        _print(found, args.level, {name: result.notes for name, result in results.items()})
    if args.json:
        text = json.dumps(_to_dict(found, args.level), indent=2, allow_nan=False) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
        else:
            with writing(args.json):
                Path(args.json).write_text(text, encoding="utf-8")
    return 0


def _print(found: Comparison, level: float, notes: dict[str, Any]) -> None:
    from rl_forecast.commands.printing import interval_words, print_lines, table
    from rl_forecast.formatting import format_count, format_probability

    rows = [
        [
            name,
            f"{cost:g}",
            format_count(fc.n_deploy[0]),
            format_probability(float(fc.worst_query_psi[0])),
            interval_words(fc.prediction_interval(level, "psi")[0]),
            f"{win:.2f}",
        ]
        for name, cost, fc, win in zip(found.names, found.costs, found.forecasts, found.probability_worst, strict=True)
    ]
    print(f"budget {found.budget:g} for each source\n")
    table(["source", "cost", "queries", "worst query", f"{100 * level:g} %", "finds the worst"], rows)
    best = max(range(len(found.names)), key=lambda i: found.probability_worst[i])
    chance = found.probability_worst[best]
    sure = "too close to call" if chance < 0.75 else "likely" if chance < 0.95 else "clear"
    print(f"\n{found.names[best]} finds the worst failure with probability {chance:.2f} ({sure}).\n")
    seen: dict[str, list[str]] = {}
    for name, fc in zip(found.names, found.forecasts, strict=True):
        for sentence in [*notes[name], *(w.sentence for w in fc.warnings)]:
            seen.setdefault(sentence, []).append(name)
    print_lines([f"{', '.join(names)}: {sentence}" for sentence, names in seen.items()])


def _to_dict(found: Comparison, level: float) -> dict[str, Any]:
    sources = [
        {"name": name, "cost": cost, "finds_the_worst": win, **fc.to_dict(level)}
        for name, cost, fc, win in zip(found.names, found.costs, found.forecasts, found.probability_worst, strict=True)
    ]
    return {"schema": "rl-forecast/comparison/1", "budget": found.budget, "sources": sources}
