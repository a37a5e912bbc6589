"""``rl-forecast compare``: which of several sources finds the worst failure for the money."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.commands import shared
from rl_forecast.commands.shared import Parser, number
from rl_forecast.errors import InputError

if TYPE_CHECKING:
    from rl_forecast.forecasting.forecast import Forecast
    from rl_forecast.io import ReadResult

    # name, cost, forecast, and probability to find the worst, of each source
    Sources = list[tuple[str, float, Forecast, float]]

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
    parser = Parser(
        "compare",
        "FILE FILE [FILE ...] --budget B [--cost C C ...] [options]",
        "Compare sources of queries by the worst failure each would find for a budget.",
        _EPILOG,
    )
    parser.add_argument("--budget", type=number, required=True, metavar="B", help="what may be spent on each source")
    cost = "cost of a query, one for each file in order (default: 1)"
    parser.add_argument("--cost", type=number, nargs="+", metavar="C", help=cost)
    shared.add_reading_options(parser)
    shared.add_forecast_options(parser)
    parser.set_defaults(group_by="file")
    args = parser.parse_args(argv)
    if len(args.files) < 2:
        raise InputError(f"there is nothing to compare with {args.files[0]}: name at least two files")
    results = shared.read(args)

    from rl_forecast.forecasting.compare import compare

    summaries = {name: result.summary for name, result in results.items()}
    with shared.usage_errors():
        found = compare(summaries, args.budget, args.cost, args.method, args.tail_k)
    sources = list(zip(found.names, found.costs, found.forecasts, found.probability_worst, strict=True))
    if args.json != "-":
        _print(sources, found.budget, args.level, results)
    if args.json:
        shown = [
            {"name": name, "cost": cost, "finds_the_worst": win, **fc.to_dict(args.level)}
            for name, cost, fc, win in sources
        ]
        state = {"schema": "rl-forecast/comparison/1", "budget": found.budget, "sources": shown}
        shared.write_json(state, args.json, args.files)
    return 0


def _print(sources: Sources, budget: float, level: float, results: dict[str, ReadResult]) -> None:
    from rl_forecast.scores import format_count, format_probability

    rows = [
        [
            name,
            f"{cost:g}",
            format_count(fc.n_deploy[0]),
            format_probability(float(fc.worst_query_psi[0])),
            shared.interval_words(fc.prediction_interval(level, "psi")[0]),
            f"{win:.2f}",
        ]
        for name, cost, fc, win in sources
    ]
    print(f"budget {budget:g} for each source\n")
    shared.table(["source", "cost", "queries", "worst query", f"{100 * level:g} %", "finds the worst"], rows)
    best, _, _, chance = max(sources, key=lambda source: source[3])
    sure = "too close to call" if chance < 0.75 else "likely" if chance < 0.95 else "clear"
    print(f"\n{best} finds the worst failure with probability {chance:.2f} ({sure}).\n")
    seen: dict[str, list[str]] = {}
    for name, _, fc, _ in sources:
        for sentence in [*results[name].notes, *(w.sentence for w in fc.warnings)]:
            seen.setdefault(sentence, []).append(name)
    shared.print_lines([f"{', '.join(names)}: {sentence}" for sentence, names in seen.items()])
