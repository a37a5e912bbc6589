"""Outcomes of repeated samples, counted per query: shared by the Inspect and lm-eval readers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rl_forecast.errors import InputError
from rl_forecast.summary import TailSummary

if TYPE_CHECKING:
    from collections.abc import Hashable

    from rl_forecast.io.records import Outcome

__all__ = ["OutcomeCounter"]


@dataclass
class OutcomeCounter:
    """Failures and samples of each query, and what had no outcome.

    :param what: what holds the outcome, for messages, for example ``scorer 'match'``
    :param outcome: which value means failure; None collects the values seen and then asks for it
    """

    what: str
    outcome: Outcome | None
    failures: Counter[Hashable] = field(default_factory=Counter)
    samples: Counter[Hashable] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    n_errored: int = 0
    n_unscored: int = 0

    def errored(self, query: Hashable) -> None:
        """A sample that stopped with an error."""
        self.n_errored += 1
        self.samples[query] += 0

    def unscored(self, query: Hashable) -> None:
        """A sample that ran but has no score."""
        self.n_unscored += 1
        self.samples[query] += 0

    def scored(self, query: Hashable, value: object) -> None:
        """A sample with a score; NaN is how evaluations write that there is none."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            self.unscored(query)
            return
        self.seen[str(value)] += 1
        self.samples[query] += 1
        if self.outcome is not None and self.outcome.is_failure(value):
            self.failures[query] += 1

    def summary(self, capacity: int) -> tuple[TailSummary, tuple[str, ...]]:
        """Summary of the counts, and notes on what is not among them.

        :raises InputError: no rule for failure, or no scored sample
        """
        shown = ", ".join(f"{value} ({times})" for value, times in self.seen.most_common(8))
        if not self.seen:
            lost = f" ({self.n_errored} errored, {self.n_unscored} unscored)" if self.samples else ""
            raise InputError(f"{self.what}: no sample has a score{lost}")
        if self.outcome is None:
            raise InputError(f"which value of {self.what} means failure? Add --fails VALUE; values seen: {shown}")
        notes = []
        if self.n_errored:
            notes.append(
                f"{self.n_errored} samples errored and have no score; any of them may be the failure looked for."
            )
        if self.n_unscored:
            notes.append(f"{self.n_unscored} samples have no score from {self.what} (missing or NaN).")
        if not self.failures:
            notes.append(f"no sample has the value {self.outcome.text!r} that means failure; values seen: {shown}.")
        queries = [query for query, samples in self.samples.items() if samples]
        return (
            TailSummary.from_counts(
                [self.failures[query] for query in queries],
                [self.samples[query] for query in queries],
                capacity,
                n_unscored=len(self.samples) - len(queries),
            ),
            tuple(notes),
        )
