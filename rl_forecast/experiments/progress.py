"""Progress of long work: one bar a phase on a terminal, one line a phase elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Phase:
    """A phase under way."""

    report: Callable[[float], None]

    def advance(self, amount: float = 1) -> None:
        """Report work done."""
        self.report(amount)


class PhaseProgress:
    """Progress bars and timings of the phases of a run.

    :param console: where to print
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(
            *columns, TimeRemainingColumn(compact=True), console=console, disable=not console.is_terminal
        )
        #: Seconds of each finished phase.
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> PhaseProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: float) -> Iterator[Phase]:
        """Time a phase and show its bar."""
        started = time.perf_counter()
        bar = self._progress.add_task(name, total=total)
        yield Phase(lambda amount: self._progress.advance(bar, amount))
        # The last rollout may overshoot the steps asked for.
        self._progress.update(bar, total=total, completed=total)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        if not self._console.is_terminal:
            self._console.print(f"{name}: {self.seconds[name]:.1f} s", highlight=False)
