"""A finished run that the tests of this folder read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.forked import run_module


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], str]) -> tuple[Path, str]:
    """A folder that one of pytest-xdist's processes makes for all of them, and what its maker returned."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    said = folder / "said.txt"
    with FileLock(folder.with_suffix(".lock")):
        if not said.is_file():
            folder.mkdir(exist_ok=True)
            said.write_text(make(folder))
    return folder, said.read_text()


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished smoke run, started outside the checkout, and what it printed. Tests only add to it."""

    def make(folder: Path) -> str:
        result = run_module("rl_forecast.train", "--preset", "smoke", "--log-dir", "here", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    folder, said = made_once(tmp_path_factory, "main_job", make)
    return folder / "here" / "smoke-0", said


#: A sweep in small: two base agents, three runs for the weights, two for the comparison.
SWEEP = ("--preset", "rl-study-smoke", "--worlds", "[slip]", "--run.fine-tune.total-timesteps", "16384")


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep. Tests that change it make a copy."""

    def make(folder: Path) -> str:
        result = run_module("rl_forecast.sweep", *SWEEP, "--log-dir", "here", "--n-jobs", "1", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    folder, _ = made_once(tmp_path_factory, "sweep", make)
    return folder / "here" / "rl-study-smoke"
