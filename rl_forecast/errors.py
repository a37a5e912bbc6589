"""Bad input, answered like a well-kept command line: one clear line that names the value and the fix."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn


class InputError(Exception):
    """Bad input or bad usage. Command lines print its message and exit with code 2, never with a traceback."""


def one_line(text: str, limit: int = 600) -> str:
    """Text fit for one line of a terminal: unprintable characters as ``?``, shortened to ``limit``."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def closest(name: str, options: Iterable[str]) -> str:
    """The valid name nearest to a mistyped one by spelling (case ignored), or ``""`` where none is near."""
    by_folded = {option.casefold(): option for option in options}
    match = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return by_folded[match[0]] if match else ""


def unknown_name(kind: str, name: str, options: Iterable[str]) -> str:
    """Error line for a name that does not exist: the value, the closest valid name, and at most 12 valid names."""
    options = list(options)
    near = closest(name, options)
    shown = ", ".join(options[:12]) + (f" and {len(options) - 12} more" if len(options) > 12 else "")
    guess = f": did you mean {near!r}?" if near else ";"
    return f"unknown {kind} {name!r}{guess} choose from: {shown}"


def choose_name(kind: str, wanted: str | None, names: Iterable[str], path: str) -> str:
    """The name that the user asked for with the option ``--{kind}``, or else the only one that a file has.

    :raises InputError: it does not exist, or there are several to choose from
    """
    names = list(names)
    if wanted is None and len(names) != 1:
        several = f"several {kind}s: choose one with --{kind}: {', '.join(names)}" if names else f"holds no {kind}"
        raise InputError(f"{path}: {several}")
    if wanted is not None and wanted not in names:
        raise InputError(f"{path}: {unknown_name(kind, wanted, names)}")
    return wanted or names[0]


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever a damaged file provokes in a reader into one line that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except BaseException as error:  # a reader of foreign bytes can raise anything; polars' panics are no Exception
        panicked = type(error).__name__ == "PanicException"
        if not (panicked or isinstance(error, Exception)):
            raise
        known = {
            FileNotFoundError: "no such file",
            IsADirectoryError: "is a folder: name the files in it",
            PermissionError: "no permission to read it",
            UnicodeDecodeError: "is not text in UTF-8",
        }
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"cannot be read: {'it is damaged: ' if panicked else ''}{one_line(first, 160)}"
        raise InputError(f"{path}: {known.get(type(error), what)}") from error


def run_command(command: Callable[[], int], name: str = "") -> int:
    """Run a command and turn what ends it into an exit code and one line, closed by the exception's notes.

    :return: the command's code; 2 after an :class:`InputError`; 1 where the operating system refused something (a full
        disk, a folder that is gone); 130 after Ctrl-C; 143 after SIGTERM
    """
    begin = f"{name}: " if name else ""
    error_begin = begin or "error: "
    received: list[int] = []
    try:
        with _terminable(received):
            return command()
    except InputError as error:
        return _end(2, error_begin + _message(error), error)
    except KeyboardInterrupt as error:
        return _end(143 if received else 130, begin + ("terminated" if received else "interrupted"), error)
    except BrokenPipeError as error:
        stop_output()
        return _end(1, f"{error_begin}nobody reads the output any more", error)
    except OSError as error:
        named = error.strerror and error.filename
        what = f"{error.strerror}: {os.fsdecode(error.filename)}" if named else _message(error)
        return _end(1, error_begin + what, error)


def stop_output() -> None:
    """Send what is still printed nowhere: the reader of a pipe, such as ``head``, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _message(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _end(code: int, line: str, error: BaseException) -> int:
    print(one_line("; ".join([line, *getattr(error, "__notes__", [])])), file=sys.stderr)
    return code


@contextmanager
def _terminable(received: list[int]) -> Iterator[None]:
    """SIGTERM acts like Ctrl-C; ``received`` remembers it, because a library may turn Ctrl-C into something else."""

    def stop(number: int, _: object) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()  # which alone may handle signals
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
