"""What was noticed about a forecast, a training or an agent: a sentence for people, a code and numbers for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing a reader should know.

    :param code: stable name for programs
    :param severity: ``"note"`` always holds, ``"warning"`` holds for this case, ``"error"`` forbids the result
    :param values: the numbers in the sentence
    """

    code: str
    severity: Severity
    sentence: str
    values: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)
