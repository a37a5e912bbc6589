"""The arrows between the packages, and names that must answer at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

import agents
import envs
import rl_forecast

HEAVY = ("agents", "envs", "stable_baselines3", "transformers", "matplotlib", "torch", "polars")


def _loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running some code."""
    code += "\nimport sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_core_and_the_command_lines_import_nothing_heavy() -> None:
    core = "rl_forecast.forecasting.methods, rl_forecast.forecasting.evaluate_forecasts, rl_forecast.loss.partitions"
    commands = "rl_forecast.train, rl_forecast.evaluate, rl_forecast.experiments.figures"
    use = "rl_forecast.forecast([.1, .2, .3, .4], n_deploy=100).warnings"
    assert not _loaded(f"import rl_forecast, {core}, {commands}; {use}") & set(HEAVY)


def test_the_loss_needs_torch_and_nothing_of_the_experiments() -> None:
    assert _loaded("import rl_forecast.loss.forecastability") & set(HEAVY) == {"torch"}


def test_worlds_and_agents_do_not_know_each_other() -> None:
    assert "agents" not in _loaded(
        "import envs.gridworld.vec_env, envs.gridworld.minigrid_env, envs.gridworld.exact_risk"
    )
    of_agents = "agents.ppo, agents.simulation, agents.callbacks, agents.language_model.trainer"
    assert "envs" not in _loaded(f"import {of_agents}, agents.language_model.objective")


@pytest.mark.parametrize("package", [rl_forecast, envs, agents])
def test_every_public_name_resolves(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        package.no_such_name  # type: ignore[attr-defined]  # noqa: B018
