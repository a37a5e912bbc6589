"""Generated documentation is what its generator writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from envs import FAMILIES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_of_a_world_is_its_docstring(family: str) -> None:
    spec = importlib.util.spec_from_file_location("make_worlds", DOCS / "make_worlds.py")
    assert spec is not None
    assert spec.loader is not None
    make_worlds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_worlds)
    written = (DOCS / "worlds" / f"{family}.md").read_text(encoding="utf-8")
    assert written == make_worlds.page(family), "run: python docs/make_worlds.py"
    assert (DOCS / "worlds" / f"{family}.png").stat().st_size > 5000
    assert f"worlds/{family}.md" in (DOCS / "worlds.md").read_text(encoding="utf-8")
