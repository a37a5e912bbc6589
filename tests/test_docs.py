"""Generated documentation is what its generator writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from envs import FAMILIES
from rl_forecast.experiments.settings import WorldConfig

DOCS = Path(__file__).parents[1] / "docs"


def _generator(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_that_of_the_classes() -> None:
    make_configuration = _generator("make_configuration")
    written = make_configuration.PAGE.read_text(encoding="utf-8")
    assert written == make_configuration.page(), "run: python docs/make_configuration.py"
    rows = [line for line in written.splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("|  |")], "a field without a meaning"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_of_a_world_is_its_docstring(family: str) -> None:
    make_worlds = _generator("make_worlds")
    written = (DOCS / "worlds" / f"{family}.md").read_text(encoding="utf-8")
    assert written == make_worlds.page(family), "run: python docs/make_worlds.py"
    assert (DOCS / "worlds" / f"{family}.png").stat().st_size > 5000
    assert f"worlds/{family}.md" in (DOCS / "worlds.md").read_text(encoding="utf-8")


def test_every_world_is_a_choice_of_the_command_line() -> None:
    assert get_args(get_type_hints(WorldConfig)["family"]) == tuple(FAMILIES)


def test_the_table_of_robustness_is_the_one_that_was_made() -> None:
    made = (DOCS.parent / "benchmarks" / "results" / "robustness.md").read_text(encoding="utf-8")
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert "\n".join(rows) in (DOCS / "run_folders.md").read_text(encoding="utf-8")
