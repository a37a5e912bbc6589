"""Errors of use: one clear line that names the value and the fix, and exit code 2."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

__all__ = ["UsageError", "closest", "run_command"]


class UsageError(Exception):
    """Bad input of a person. Its message is one line, printed without a traceback; the exit code is 2."""


def closest(name: str, options: Iterable[str]) -> str:
    """Hint at the valid name nearest to a misspelt one.

    :param name: what was given
    :param options: valid names
    :return: ``"did you mean 'x'?"``, or a list of all names if none is near
    """
    options = list(options)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose one of {', '.join(options)}"


def run_command(command: Callable[[], int]) -> int:
    """Run a command and turn its ends into exit codes.

    :param command: does the work and returns an exit code
    :return: the command's code; 2 after a :class:`UsageError`; 130 after Ctrl-C
    """
    try:
        return command()
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
