"""Public names that are imported on first use (PEP 562), so that ``import`` and ``--help`` answer at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, home: Mapping[str, str], present: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``.

    Type checkers need the same names once more, imported under ``TYPE_CHECKING``.

    :param package: name of the package
    :param home: public name to the module that defines it
    :param present: public names that the package defines itself
    """

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[name]), name)

    def __dir__() -> list[str]:
        return sorted([*home, *present])

    return __getattr__, __dir__
