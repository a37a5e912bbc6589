"""Bad input, answered like a well-kept command line: one clear line that names the value and the fix."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["UsageError", "closest", "one_line", "run_command", "unknown_name"]


class UsageError(Exception):
    """Bad input or bad usage. Command lines print its message and exit with code 2, never with a traceback."""


def one_line(text: str, limit: int = 600) -> str:
    """Text fit for one line of a terminal, whatever bytes a file put into it.

    :param text: a message, perhaps with names out of a damaged file
    :param limit: longest line
    :return: the text with unprintable characters as ``?``, shortened
    """
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def closest(name: str, options: Iterable[str]) -> str:
    """Valid name nearest to a mistyped one.

    :param name: what the user wrote
    :param options: the valid names
    :return: the nearest valid name by spelling (case ignored), or ``""`` where none is near
    """
    by_folded = {option.casefold(): option for option in options}
    match = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return by_folded[match[0]] if match else ""


def unknown_name(kind: str, name: str, options: Iterable[str]) -> str:
    """Error line for a name that does not exist.

    :param kind: what was to be named, for example ``"method"``
    :param name: what the user wrote
    :param options: the valid names
    :return: one line: the value, the closest valid name if there is one, and all valid names (at most 12)
    """
    options = list(options)
    near = closest(name, options)
    shown = ", ".join(options[:12]) + (f" and {len(options) - 12} more" if len(options) > 12 else "")
    guess = f": did you mean {near!r}?" if near else ";"
    return f"unknown {kind} {name!r}{guess} choose from: {shown}"


def run_command(command: Callable[[], int]) -> int:
    """Run a command and turn its ends into exit codes.

    :param command: does the work and returns an exit code
    :return: the command's code; 2 after a :class:`UsageError`; 130 after Ctrl-C
    """
    try:
        return command()
    except UsageError as error:
        print(f"error: {one_line(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
