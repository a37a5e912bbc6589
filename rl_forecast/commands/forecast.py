"""``rl-forecast forecast``: the worst of the next n queries, from any score file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_forecast.commands import shared
from rl_forecast.commands.shared import Parser, count, level
from rl_forecast.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rl_forecast.forecasting.forecast import Forecast

_EPILOG = """\
columns of the table:
  n              number of deployment queries
  worst query    failure probability of the worst of them: point forecast and prediction interval
  any failure    probability of at least one failure when each is asked once
  new worst      n / (n + m): P(the worst of n is worse than all m seen), whatever the shape of the tail

examples:
  rl-forecast forecast scores.parquet -n 1e4 1e6 --column log_p --plot tail.png --json out.json
  rl-forecast forecast logs/*.eval --scorer match --fails I -n 1e6
  rl-forecast forecast samples_task.jsonl --metric acc --fails 0 -n 1e6
  rl-forecast forecast a.csv b.csv --group-by file --fail-above 0.01 --at 1e6

exit codes: 0 done, 2 bad input or no tail to forecast from (status degenerate), 3 --fail-above did not hold
"""


def _parser() -> Parser:
    parser = Parser(
        "forecast",
        "FILE [FILE ...] -n N [N ...] [options]",
        "Forecast the worst of n deployment queries from the failure scores of an evaluation, with intervals and "
        "warnings.\nWhat no forecast can promise: failures of a kind that the evaluation never met.",
        _EPILOG,
    )
    parser.add_argument("-n", "--n-deploy", type=count, nargs="+", metavar="N", help="deployment sizes, such as 1e6")
    shared.add_reading_options(parser)
    shared.add_forecast_options(parser)
    parser.add_argument("--group-by", metavar="WHAT", help="a forecast for each 'file', or for each value of a column")
    gate = parser.add_argument_group("gate for CI pipelines")
    gate.add_argument("--fail-above", type=level, metavar="P", help="exit code 3 where the worst-query risk exceeds P")
    gate.add_argument("--at", type=count, metavar="N", help="deployment size of the gate (default: the largest -n)")
    compared = "compare the interval's upper end (default) or the point"
    gate.add_argument("--gate", choices=("upper", "point"), default="upper", help=compared)
    figures = parser.add_argument_group("figures")
    figures.add_argument("--plot", metavar="FILE", help="draw a figure (png, svg or pdf)")
    which = "which: the tail with its fit (default), risk against n, forecast against k, or all three"
    kinds = ("tail", "return-level", "stability", "all")
    figures.add_argument("--figure", choices=kinds, default="tail", help=which)
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    sizes = list(args.n_deploy or [])
    if args.at is not None and args.at not in sizes:
        sizes.append(args.at)
    if not sizes:
        raise InputError("how many deployment queries? Add -n, for example -n 1e4 1e6")
    if args.fail_above is None and args.at is not None:
        raise InputError("--at is the size for a gate: add --fail-above P")
    if args.plot is not None and Path(args.plot).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {args.plot}: the suffix must be .png, .svg or .pdf")
    results = shared.read(args)

    from rl_forecast.forecasting.forecast import forecast

    with shared.usage_errors():
        forecasts = {
            name: forecast(result.summary, n_deploy=sizes, method=args.method, tail_k=args.tail_k)
            for name, result in results.items()
        }
    if args.json != "-":
        for i, (name, fc) in enumerate(forecasts.items()):
            if i:
                print()
            _print(name, fc, args.level, results[name].notes)
    gates = {name: _gate(fc, args) for name, fc in forecasts.items() if args.fail_above is not None}
    if args.json:
        groups = [
            {"group": name, **fc.to_dict(args.level), "notes": list(results[name].notes), "gate": gates.get(name)}
            for name, fc in forecasts.items()
        ]
        shared.write_json({"schema": "rl-forecast/forecasts/1", "groups": groups}, args.json, args.files)
    if args.plot:
        _plot(forecasts, args)
    for name, gate in gates.items():
        print(f"gate{' ' + name if name else ''}: {gate['sentence']}", file=sys.stderr)
    if any(gate["status"] == "failed" for gate in gates.values()):
        return 3
    return 2 if any(fc.status == "degenerate" for fc in forecasts.values()) else 0


def _print(name: str, fc: Forecast, level: float, notes: Sequence[str]) -> None:
    """A line on the scores, the table, the notes and warnings."""
    import numpy as np

    from rl_forecast.scores import format_count, format_probability, psi_from_p

    largest = format_probability(float(fc.summary.top[0]))
    tail = f", k = {fc.tail_k}" if fc.tail_k is not None and fc.status == "ok" else ""
    heading = f"{name}: " if name else ""
    status = "" if fc.status == "ok" else "status degenerate, "
    worst = "worst estimate" if fc.summary.count_table else "worst seen"
    print(f"{heading}{status}{fc.summary.count} scores, {worst} p = {largest}; {fc.method}{tail}\n")
    percent = f"{100 * level:g} %"
    any_failure = fc.aggregate_risk(level)
    any_psi = np.reshape([psi_from_p(x) for x in (any_failure.estimate, any_failure.low, any_failure.high)], (3, -1))
    worst_psi = fc.prediction_interval(level, "psi")
    rows = [
        [
            format_count(n),
            format_probability(float(fc.worst_query_psi[i])),
            shared.interval_words(worst_psi[i]),
            format_probability(float(any_psi[0, i])),
            shared.interval_words(any_psi[1:, i]),
            f"{fc.new_record_probability[i]:.3g}",
        ]
        for i, n in enumerate(fc.n_deploy)
    ]
    shared.table(["n", "worst query", percent, "any failure", percent, "new worst"], rows, left=0)
    print()
    shared.print_lines([*notes, *(w.sentence for w in fc.warnings)])


def _gate(fc: Forecast, args: argparse.Namespace) -> dict[str, Any]:
    """Whether the worst-query risk stays below the limit at the gate's size."""
    from rl_forecast.scores import format_count, format_probability, psi_from_p

    n = args.at if args.at is not None else max(fc.n_deploy)
    i = fc.n_deploy.index(n)
    upper = args.gate == "upper"
    psi = float(fc.prediction_interval(args.level, "psi")[i, 1] if upper else fc.worst_query_psi[i])
    limit = float(psi_from_p(args.fail_above))
    status = "unknown" if psi != psi else "failed" if psi > limit else "passed"
    what = f"upper end of the {100 * args.level:g} % interval" if upper else "point forecast"
    relation = {"unknown": "is unknown, limit", "failed": "exceeds", "passed": "does not exceed"}[status]
    value = "" if status == "unknown" else f"{format_probability(psi)} "
    sentence = f"{status}: at n = {format_count(n)} the {what} {value}{relation} {args.fail_above:g}"
    return {"status": status, "n_deploy": n, "compared": args.gate, "fail_above": args.fail_above, "sentence": sentence}


def _plot(forecasts: dict[str, Forecast], args: argparse.Namespace) -> None:
    from rl_forecast.forecasting.plots import save_figure

    for name, fc in forecasts.items():
        path = Path(args.plot)
        if name and len(forecasts) > 1:
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
            path = path.with_name(f"{path.stem}-{safe}{path.suffix}")
        if fc.status == "degenerate":
            print(f"no figure for {name or 'these scores'}: there is no tail to draw", file=sys.stderr)
            continue
        with shared.writing(path, args.files):
            save_figure(fc, path, args.figure, args.level, title=name)
        print(f"figure: {path}", file=sys.stderr)
