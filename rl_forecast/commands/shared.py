"""What the commands share: a parser whose errors are one line, options, and output.

Nothing heavy is imported before it is needed: ``--help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rl_forecast.errors import InputError, closest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rl_forecast.io import ReadOptions, ReadResult

METHODS = ("shape_prior", "exponential_pivot", "gumbel_tail", "log_normal", "gpd", "binomial_tail")


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


def number(text: str, high: float = float("inf"), wanted: str = "be a positive number") -> float:
    """A number strictly between 0 and ``high``."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < high:
        raise argparse.ArgumentTypeError(f"must {wanted}, it is {text!r}")
    return value


def level(text: str) -> float:
    """A probability strictly between 0 and 1."""
    return number(text, 1.0, "lie between 0 and 1")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Score files and how to read them: the fields of :class:`rl_forecast.io.ReadOptions`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="score files, - for standard input")
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
    log_prob = "lm-eval: p = exp(log-likelihood of response I), counted from 0"
    logs.add_argument("--response-log-prob", type=int, metavar="I", help=log_prob)
    parser.add_argument("--capacity", type=count, default=1_000, help="largest scores kept exactly (default 1000)")


def add_forecast_options(parser: argparse.ArgumentParser, one_method: bool = True) -> None:
    """How to forecast, and where to write the result for programs."""
    if one_method:
        text = f"{', '.join(METHODS)} (default: shape_prior; coarse counts: binomial_tail)"
        parser.add_argument("--method", help=text)
    parser.add_argument("--tail-k", type=count, metavar="K", help="largest scores that count as the tail")
    parser.add_argument("--level", type=level, default=0.90, help="coverage of the intervals (default 0.9)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON, - for standard output")


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Reading options out of parsed arguments."""
    from dataclasses import fields

    from rl_forecast.io import ReadOptions

    given: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in fields(ReadOptions)}
    return ReadOptions(**given)


def read(args: argparse.Namespace) -> dict[str, ReadResult]:
    """Groups of scores named on the command line."""
    from rl_forecast.io import read_groups

    with status("reading"), usage_errors():
        return read_groups(args.files, read_options(args))


@contextmanager
def status(text: str) -> Iterator[Callable[[int], None]]:
    """Say on a terminal what takes so long; call with how much of it is done."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as shown:
        yield lambda done: shown.update(f"{text} {done}")


@contextmanager
def usage_errors() -> Iterator[None]:
    """The library's complaints about arguments become usage errors."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


@contextmanager
def writing(path: str | Path, inputs: Sequence[str] = ()) -> Iterator[None]:
    """One line that names the file, where it cannot be written or is one of the inputs, which must stay."""
    for name in inputs:
        if Path(path).exists() and Path(name).exists() and Path(path).samefile(name):
            raise InputError(f"cannot write {path}: it is a file that was read; choose another name")
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(state: dict[str, Any], path: str, inputs: Sequence[str]) -> None:
    """Write a result as JSON to a file, or to standard output for ``-``."""
    text = json.dumps(state, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    with writing(path, inputs):
        Path(path).write_text(text, encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table, the first ``left`` columns as text and the others as numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        grid.add_column(name, justify="left" if i < left else "right", no_wrap=i >= left)
    for row in rows:
        grid.add_row(*row)
    # a cell cut to fit a narrow terminal would be a wrong number: let the terminal wrap the line instead
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 160)
    console.print(grid)


def print_lines(lines: Sequence[str]) -> None:
    """Print sentences, wrapped under a bullet."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for line in lines:
        print(textwrap.fill(line, width, initial_indent="- ", subsequent_indent="  "))


def interval_words(psi: Any) -> str:
    """An interval of scores as probabilities."""
    from rl_forecast.scores import format_probability

    return f"[{format_probability(float(psi[0]))}, {format_probability(float(psi[1]))}]"
