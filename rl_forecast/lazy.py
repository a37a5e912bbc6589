"""Public names that are imported on first use (PEP 562), so that ``import`` and ``--help`` answer at once."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(
    package: str, file: str, present: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's ``__getattr__``, ``__dir__`` and ``__all__``, from what type checkers read anyway.

    The exports are the lines ``from module import name as name`` under the package's ``if TYPE_CHECKING``.

    :param package: name of the package
    :param file: its ``__init__.py``
    :param present: public names that the package defines itself
    """
    blocks = [node for node in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    lines = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    home = {alias.asname: line.module or "" for line in lines for alias in line.names if alias.asname}
    names = sorted([*home, *present])

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[name]), name)

    return __getattr__, lambda: names, names
