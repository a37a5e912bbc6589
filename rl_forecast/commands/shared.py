"""Options that several commands share, and a parser whose errors are one line.

Nothing heavy is imported here: ``--help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn

from rl_forecast.errors import InputError, closest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rl_forecast.io import ReadOptions, ReadResult

__all__ = [
    "METHODS",
    "Parser",
    "add_forecast_options",
    "add_reading_options",
    "count",
    "level",
    "number",
    "read",
    "read_options",
    "writing",
]

METHODS = ("shape_prior", "exponential_pivot", "gumbel_tail", "log_normal", "gpd", "binomial_tail")
_SHOW_PROGRESS_ROWS = 30_000_000


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`InputError` and guesses mistyped options."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"rl-forecast {prog}",
            usage=f"%(prog)s {usage}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """One line, with the nearest valid option where one was mistyped."""
        if message.startswith("unrecognized arguments: "):
            wrong = next((w for w in message.split(": ", 1)[1].split() if w.startswith("-")), "")
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            near = closest(wrong.split("=")[0], options) if wrong else ""
            message += f": did you mean {near}?" if near else " (see --help)"
        if message.startswith("argument -n"):
            message += "; files go before -n"
        raise InputError(message)


def count(text: str) -> int:
    """A whole number of at least 1, in any notation: ``1000``, ``1e6``, ``1_000_000``."""
    try:
        value = Decimal(text)
        whole = value.is_finite() and value == value.to_integral_value() and value >= 1 and value < Decimal("1e300")
    except InvalidOperation:
        whole = False
    if not whole:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, such as 1e6; it is {text!r}")
    return int(value)


def number(text: str) -> float:
    """A positive number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, it is {text!r}")
    return value


def level(text: str) -> float:
    """A probability strictly between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, it is {text!r}")
    return value


def add_reading_options(parser: argparse.ArgumentParser, files: str = "+") -> None:
    """Score files and how to read them."""
    parser.add_argument("files", nargs=files, metavar="FILE", help="score files, - for standard input")
    table = parser.add_argument_group("tables (csv, tsv, parquet, jsonl, npz)")
    table.add_argument("--column", help="score column; without it the one named p, log_p or psi")
    table.add_argument("--kind", choices=("p", "log_p", "psi"), help="what it holds, where its name does not say")
    table.add_argument("--failures", metavar="COLUMN", help="instead: column of failure counts of each query ...")
    table.add_argument("--samples", metavar="COLUMN", help="... and of its numbers of samples")
    logs = parser.add_argument_group("logs (Inspect .eval and .json, lm-eval samples_*.jsonl)")
    logs.add_argument("--scorer", help="Inspect scorer; scorer/key where it returns several values")
    logs.add_argument("--metric", help="lm-eval metric")
    logs.add_argument("--filter", help="lm-eval filter, where a file holds several")
    logs.add_argument("--fails", metavar="VALUE", help="the value that means failure: I, 0, or a comparison '<0.5'")
    logs.add_argument(
        "--response-log-prob",
        type=int,
        metavar="I",
        help="lm-eval: p = exp(log-likelihood of response I), counted from 0",
    )
    parser.add_argument("--capacity", type=count, default=1_000, help="largest scores kept exactly (default 1000)")


def add_forecast_options(parser: argparse.ArgumentParser) -> None:
    """Method, number of tail scores and level of the intervals."""
    parser.add_argument("--method", help=f"{', '.join(METHODS)} (default: shape_prior; coarse counts: binomial_tail)")
    parser.add_argument("--tail-k", type=count, metavar="K", help="largest scores that count as the tail")
    parser.add_argument("--level", type=level, default=0.90, help="coverage of the intervals (default 0.9)")


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Reading options out of parsed arguments."""
    from rl_forecast.io import ReadOptions

    if args.capacity < 2:
        raise InputError(f"--capacity must be at least 2, it is {args.capacity}")
    return ReadOptions(
        column=args.column,
        kind=args.kind,
        failures=args.failures,
        samples=args.samples,
        scorer=args.scorer,
        metric=args.metric,
        filter=args.filter,
        response_log_prob=args.response_log_prob,
        fails=args.fails,
        group_by=getattr(args, "group_by", None),
        capacity=args.capacity,
    )


def read(args: argparse.Namespace) -> dict[str, ReadResult]:
    """Groups of scores named on the command line, with a progress bar on a terminal where it takes long."""
    from rl_forecast.io import read_groups

    bar = _Progress()
    try:
        return read_groups(args.files, read_options(args), bar.advance)
    finally:
        bar.close()


class _Progress:
    """A rich progress bar that appears only for long files, and only on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._path = ""

    def advance(self, path: str, done: int, total: int) -> None:
        if total < _SHOW_PROGRESS_ROWS or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import Progress

        if self._bar is None:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if path != self._path:
            self._path, self._task = path, self._bar.add_task(path, total=total)
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def forecast_or_usage_error(make: Callable[[], Any]) -> Any:
    """Call the library; its complaints about arguments become usage errors."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error


class writing:
    """Turn a failure to write a file into one line that names it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Name the file that could not be written."""
        if isinstance(error, OSError):
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error


def unique_names(names: Sequence[str]) -> Iterator[str]:
    """Names without repeats: the second ``a`` becomes ``a (2)``."""
    used: dict[str, int] = {}
    for name in names:
        used[name] = used.get(name, 0) + 1
        yield name if used[name] == 1 else f"{name} ({used[name]})"
