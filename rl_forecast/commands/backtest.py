"""``rl-forecast backtest``: how good the forecast would have been on your own data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_forecast.commands.shared import (
    METHODS,
    Parser,
    add_reading_options,
    count,
    forecast_or_usage_error,
    level,
    read_options,
    writing,
)

if TYPE_CHECKING:
    from rl_forecast.forecasting.backtest import Backtest

__all__ = ["main"]

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
    """Run the command.

    :param argv: its arguments
    :return: exit code
    :raises InputError: bad usage or input
    """
    parser = Parser(
        "backtest",
        "FILE [FILE ...] -m M -n N [options]",
        "Split the scores at random into m for evaluation and n for deployment, many times, and hold the forecast\n"
        "from the first against the worst of the second.",
        _EPILOG,
    )
    parser.add_argument("-m", "--n-eval", type=count, required=True, metavar="M", help="evaluation scores of a split")
    parser.add_argument("-n", "--n-deploy", type=count, required=True, metavar="N", help="deployment scores of a split")
    add_reading_options(parser)
    parser.add_argument("--splits", type=count, default=500, help="number of splits (default 500)")
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS[:4]), metavar="METHOD", help=f"default: {' '.join(METHODS[:4])}"
    )
    parser.add_argument("--tail-k", type=count, metavar="K", help="largest scores that count as the tail")
    parser.add_argument("--level", type=level, default=0.90, help="coverage of the intervals (default 0.9)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits (default 0)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON, - for standard output")
    args = parser.parse_args(argv)

    from rl_forecast.forecasting.backtest import backtest
    from rl_forecast.io import read_psi

    psi = read_psi(args.files, read_options(args))
    with _bar(args.splits) as advance:
        result: Backtest = forecast_or_usage_error(
            lambda: backtest(
                psi, args.n_eval, args.n_deploy, args.methods, args.splits, args.tail_k, args.level, args.seed, advance
            )
        )
    if args.json != "-":
        _print(result)
    if args.json:
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
        else:
            with writing(args.json):
                Path(args.json).write_text(text, encoding="utf-8")
    return 2 if all(row.n_failed == result.n_splits for row in result.metrics) else 0


def _print(result: Backtest) -> None:
    from rl_forecast.commands.printing import print_lines, table

    r = result
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
    table(["method", "|error|", "orders", "bias", "under", "coverage", "above", "score"], rows)
    print()
    lines = [
        f"The splits overlap: the file holds {r.n_blocks} disjoint block{'' if r.n_blocks == 1 else 's'} of m + n, and "
        f"the {r.n_splits} splits only {r.n_distinct_maxima} different realised maxima. More splits steady the "
        "numbers; they add no information.",
    ]
    failed = {row.method: row.n_failed for row in r.metrics if row.n_failed}
    lines += [
        f"{name} found no tail in {times} of {r.n_splits} splits; they are left out." for name, times in failed.items()
    ]
    print_lines(lines)


class _bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.progress: Any = None

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import Progress

        self.progress = Progress(console=Console(stderr=True), transient=True)
        self.progress.start()
        task = self.progress.add_task("splits", total=self.total)
        return lambda done: self.progress.update(task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()
