"""``rl-forecast backtest``: how good the forecast would have been on your own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.commands import shared
from rl_forecast.commands.shared import Parser, count

if TYPE_CHECKING:
    from rl_forecast.forecasting.backtest import Backtest

_EPILOG = """\
columns of the table (error = forecast - realised maximum; positive is over-prediction):
  |error|     mean absolute error, psi
  orders      the same in orders of magnitude of the probability
  bias        mean error, psi
  under       share of splits with a forecast below the realised maximum
  coverage    share of splits whose interval holds the realised maximum (nominal: --level)
  above       share of splits whose realised maximum lies above the interval
  score       interval score, psi: width plus a penalty for misses; lower is better

example:
  rl-forecast backtest scores.parquet -m 500 -n 20000 --splits 500
"""


def main(argv: list[str]) -> int:
    parser = Parser(
        "backtest",
        "FILE [FILE ...] -m M -n N [options]",
        "Split the scores at random into m for evaluation and n for deployment, many times, and hold the forecast\n"
        "from the first against the worst of the second.",
        _EPILOG,
    )
    parser.add_argument("-m", "--n-eval", type=count, required=True, metavar="M", help="evaluation scores of a split")
    parser.add_argument("-n", "--n-deploy", type=count, required=True, metavar="N", help="deployment scores of a split")
    shared.add_reading_options(parser)
    parser.add_argument("--splits", type=count, default=500, help="number of splits (default 500)")
    methods = list(shared.METHODS[:4])
    parser.add_argument("--methods", nargs="+", default=methods, metavar="METHOD", help=f"default: {' '.join(methods)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits (default 0)")
    shared.add_forecast_options(parser, one_method=False)
    args = parser.parse_args(argv)

    from rl_forecast.forecasting.backtest import backtest
    from rl_forecast.io import read_psi

    psi = read_psi(args.files, shared.read_options(args))
    with shared.status("split") as advance, shared.usage_errors():
        result = backtest(
            psi, args.n_eval, args.n_deploy, args.methods, args.splits, args.tail_k, args.level, args.seed, advance
        )
    if args.json != "-":
        _print(result)
    if args.json:
        shared.write_json(result.to_dict(), args.json, args.files)
    return 2 if all(row.n_failed == result.n_splits for row in result.metrics) else 0


def _print(r: Backtest) -> None:
    print(f"{r.n_scores} scores, {r.n_splits} random splits into m = {r.n_eval} and n = {r.n_deploy}\n")
    rows = [
        [
            row.method,
            f"{row.mean_absolute_error:.2f}",
            f"{row.mean_absolute_orders:.2f}",
            f"{row.bias:+.2f}",
            f"{100 * row.under_prediction_rate:.0f} %",
            f"{100 * row.coverage:.0f} %",
            f"{100 * row.above_interval:.0f} %",
            f"{row.interval_score:.2f}",
        ]
        for row in r.metrics
    ]
    shared.table(["method", "|error|", "orders", "bias", "under", "coverage", "above", "score"], rows)
    print()
    lines = [
        f"The splits overlap: the file holds {r.n_blocks} disjoint block{'' if r.n_blocks == 1 else 's'} of m + n, "
        f"and the {r.n_splits} splits only {r.n_distinct_maxima} different realised maxima. More splits steady the "
        "numbers; they add no information."
    ]
    failed = [row for row in r.metrics if row.n_failed]
    lines += [
        f"{row.method} found no tail in {row.n_failed} of {r.n_splits} splits; they are left out." for row in failed
    ]
    shared.print_lines(lines)
