"""Judges of sampled outputs: a user's function, or a regular expression."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from agents.language_model.prompts import Prompt, PromptTask

__all__ = ["REGEX", "Judge", "load_judge"]

#: Begins the name of a judge that is a regular expression.
REGEX = "regex:"


@dataclass(frozen=True)
class Judge:
    """Says whether an output is a failure.

    :param name: what the user called it
    :param function: ``function(prompt, output) -> bool``
    :param fingerprint: changes with its code
    """

    name: str
    function: Callable[[Prompt, str], Any]
    fingerprint: str

    def __call__(self, task: PromptTask, output: str) -> bool:
        """Verdict on one output.

        :raises ValueError: the function fails, or says neither yes nor no: an output without verdict may be the
            failure that is looked for, so none is dropped
        """
        where = f"on prompt {task.task_id!r}"
        try:
            verdict = self.function(task.prompt, output)
        except Exception as error:
            raise ValueError(f"judge {self.name} failed {where}: {type(error).__name__}: {error}") from error
        if isinstance(verdict, bool | np.bool_) or (isinstance(verdict, int) and verdict in (0, 1)):
            return bool(verdict)
        raise ValueError(f"judge {self.name} must return True or False, {where} it gave {verdict!r}")


def load_judge(name: str | None) -> Judge:
    """A judge by name.

    :param name: ``module:function`` (modules of the working directory included) or ``regex:PATTERN``, searched for in
        each output
    :raises ValueError: no such function, or no regular expression
    """
    if not name:
        raise ValueError("which output is a failure? Add --judge module:function or --judge-regex PATTERN")
    if name.startswith(REGEX):
        pattern = name.removeprefix(REGEX)
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"--judge-regex {pattern!r} is not a regular expression: {error}") from error
        return Judge(name, lambda _, output: compiled.search(output) is not None, pattern)
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"--judge must be written module:function, it is {name!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except Exception as error:
        raise ValueError(f"--judge {name}: cannot import {module_name}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"--judge {name}: {module_name} has no function {function_name!r}")
    source = inspect.getsourcefile(module)
    return Judge(name, function, hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else "")
