"""What the readers of score files share: options, results, and errors as one line."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rl_forecast.errors import InputError
from rl_forecast.io.native import native_stderr
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KIND_OF_COLUMN", "Kind", "Outcome", "ReadOptions", "ReadResult", "first_line", "parse_outcome", "reading"]

Kind = Literal["p", "log_p", "psi"]

KIND_OF_COLUMN: dict[str, Kind] = {
    "p": "p",
    "prob": "p",
    "probability": "p",
    "log_p": "log_p",
    "logp": "log_p",
    "log_prob": "log_p",
    "logprob": "log_p",
    "psi": "psi",
    "score": "psi",
}
"""Column names that say what they hold, the most precise form of a score last to be overruled."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read scores.

    :param column: name of the score column; None: the one whose name says what it holds
    :param kind: what the column holds, ``p``, ``log_p`` or ``psi``; None: what its name says
    :param failures: column with the number of failures of each query
    :param samples: column with its number of samples
    :param scorer: Inspect scorer, or ``scorer/key`` where its value is a dict or list
    :param metric: lm-eval metric
    :param filter: lm-eval filter, where a file holds several
    :param response_log_prob: lm-eval: take exp of the log-likelihood of this response (from 0) as p
    :param fails: the value that means failure, or a comparison such as ``<0.5``
    :param group_by: ``file``, the name of a column, or None for one group
    :param capacity: number of largest scores kept
    """

    column: str | None = None
    kind: Kind | None = None
    failures: str | None = None
    samples: str | None = None
    scorer: str | None = None
    metric: str | None = None
    filter: str | None = None
    response_log_prob: int | None = None
    fails: str | None = None
    group_by: str | None = None
    capacity: int = TailSummary.DEFAULT_CAPACITY


@dataclass(frozen=True)
class ReadResult:
    """Summary of one group of scores.

    :param summary: the scores
    :param notes: remarks for the reader, for example how many samples errored
    """

    summary: TailSummary
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Outcome:
    """A rule that says which values mean failure.

    :param text: as the user wrote it
    :param operator: ``=``, ``<``, ``<=``, ``>`` or ``>=``
    :param operand: what to compare with
    """

    text: str
    operator: str
    operand: str | float

    def is_failure(self, value: object) -> bool:
        """Whether a value means failure.

        :raises InputError: a comparison with something that is not a number
        """
        if self.operator == "=":
            number = _number(value)
            if number is not None and isinstance(self.operand, float):
                return number == self.operand
            return str(value).casefold() == self.text.casefold()
        number = _number(value)
        assert isinstance(self.operand, float)
        if number is None:
            raise InputError(
                f"--fails {self.text!r} compares numbers, but a value is {value!r}: name the value instead"
            )
        return {
            "<": number < self.operand,
            "<=": number <= self.operand,
            ">": number > self.operand,
            ">=": number >= self.operand,
        }[self.operator]


def parse_outcome(text: str) -> Outcome:
    """Rule from the text of ``--fails``.

    :raises InputError: a comparison without a number
    """
    for operator in ("<=", ">=", "<", ">"):
        if text.startswith(operator):
            number = _number(text[len(operator) :].strip())
            if number is None:
                raise InputError(f"--fails {text!r}: {operator} needs a number after it, such as '{operator}0.5'")
            return Outcome(text, operator, number)
    number = _number(text)
    return Outcome(text, "=", text if number is None else number)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.casefold() in ("true", "false"):
        return float(value.casefold() == "true")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's message, shortened."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever a damaged file provokes in a reader into one line that names the file."""
    panicked = False
    native_stderr.hold()
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder: name the files in it") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8 (byte {error.start})") from error
    except MemoryError:
        raise
    except Exception as error:  # a reader of foreign bytes can raise anything
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"  # polars' panics are no Exception
        if panicked:
            raise InputError(f"{path}: cannot be read, it is damaged: {first_line(error)}") from error
        raise
    finally:
        native_stderr.release(panicked)
