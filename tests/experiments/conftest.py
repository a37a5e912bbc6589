"""A finished run that the tests of this folder read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_module(module: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module as a user does, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished smoke run, started outside the checkout, and what it printed."""
    folder = tmp_path_factory.mktemp("main_job")
    result = run_module("rl_forecast.train", "--preset", "smoke", "--log-dir", "here", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return folder / "here" / "smoke-0", result.stdout


#: A sweep in small: two base agents, three runs for the weights, two for the comparison.
SWEEP = ("--preset", "rl-study-smoke", "--worlds", "[slip]")


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep. Tests that change it make a copy."""
    folder = tmp_path_factory.mktemp("sweep")
    result = run_module("rl_forecast.sweep", *SWEEP, "--log-dir", "here", "--n-jobs", "1", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return folder / "here" / "rl-study-smoke"
