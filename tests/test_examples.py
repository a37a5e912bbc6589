"""The examples run, in small, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _run(name: str, *arguments: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, f"examples/{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("name", ["speed_limit.py", pytest.param("lava_crossing.py", marks=pytest.mark.slow)])
def test_example(name: str) -> None:
    lines = _run(name, "--steps", "2048", "--tasks", "30")
    assert [line.split()[0] for line in lines] == ["agent", "base", "PPO", "ForecastPPO"]
    for line in lines[1:]:
        *_, mean_risk, failures, success = map(float, line.split()[1:])
        # The same episodes: what failed and what was announced agree roughly, and nothing failed and succeeded.
        assert abs(mean_risk - failures) < 0.35
        assert failures + success <= 1 + 1e-9 or name == "speed_limit.py"


def test_an_environment_of_ones_own_takes_less_than_sixty_lines() -> None:
    path = ROOT / "examples" / "own_environment.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    lines = _run(path.name, "--steps", "6144", "--tasks", "60")
    assert [line.split(":")[0] for line in lines] == ["PPO", "ForecastPPO"]
    # Three updates: that it trains and forecasts is what is shown, not what training is worth.
    risks = [float(line.split("mean risk ")[1].split(",")[0]) for line in lines]
    assert all(0 < risk < 0.2 for risk in risks)
