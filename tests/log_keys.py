"""The page of log keys, for the tests that hold runs against it."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PAGE = Path(__file__).parents[1] / "docs" / "log_keys.md"


def documented() -> list[tuple[str, str, str]]:
    """Tag, unit and meaning of every row."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*?)(?<!\\)\|(.*)\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [(tag, unit.strip(), meaning.strip()) for tag, unit, meaning in rows]


def undocumented(tags: set[str]) -> set[str]:
    """Those of the tags that the page does not have."""
    known = [tag for tag, _, _ in documented()]
    return {tag for tag in tags if not any(fnmatchcase(tag, pattern) for pattern in known)}


def scalar_tags(folder: Path) -> set[str]:
    """Scalar tags in the event files below a folder."""
    tags: set[str] = set()
    for home in {path.parent for path in folder.rglob("events.*")}:
        events = EventAccumulator(str(home), size_guidance={"scalars": 1})
        events.Reload()
        tags |= set(events.Tags()["scalars"])
    return tags
