"""The examples run, in small, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forked import run_module

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def _run(name: str, *arguments: str) -> list[str]:
    result = run_module(name.removesuffix(".py"), *arguments, cwd=EXAMPLES)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("name", ["speed_limit.py", pytest.param("lava_crossing.py", marks=pytest.mark.slow)])
def test_example(name: str) -> None:
    lines = _run(name, "--steps", "2048", "--tasks", "20")
    assert [line.split()[0] for line in lines] == ["agent", "base", "PPO", "ForecastPPO"]
    for line in lines[1:]:
        *_, mean_risk, failures, success = map(float, line.split()[1:])
        # The same episodes: what failed and what was announced agree roughly, and nothing failed and succeeded.
        assert abs(mean_risk - failures) < 0.35
        assert failures + success <= 1 + 1e-9 or name == "speed_limit.py"


def test_an_environment_of_ones_own_takes_less_than_sixty_lines() -> None:
    path = EXAMPLES / "own_environment.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    lines = _run(path.name, "--steps", "6144", "--tasks", "60")
    assert [line.split(":")[0] for line in lines] == ["PPO", "ForecastPPO"]
    # Three updates: that it trains and forecasts is what is shown, not what training is worth.
    risks = [float(line.split("mean risk ")[1].split(",")[0]) for line in lines]
    assert all(0 < risk < 0.2 for risk in risks)
