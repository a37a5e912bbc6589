"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch

import agents
import envs
import rl_forecast

PACKAGES = (rl_forecast, envs, agents)
MODULES = [package.__name__ for package in PACKAGES] + [
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{package.__name__}.")
    if not module.name.endswith("__main__")
]

# Public names whose docstring shows how they are used; a name may be added here, hardly ever removed.
SHOWN = (
    "agents.callbacks.ForecastEvalCallback",
    "agents.ppo.ForecastPPO",
    "agents.language_model.objective.ForecastObjective",
    "agents.language_model.prompts.PromptTask",
    "agents.language_model.scorer.ContinuationScorer",
    "agents.simulation.simulate_tasks",
    "envs.gridworld.exact_risk.exact_risk",
    "envs.gridworld.vec_env.GridVecEnv",
    "envs.gridworld.world.GridWorld.tasks",
    "envs.risk.check.check_risk_env",
    "envs.risk.wrapper.RiskWrapper",
    "rl_forecast.forecasting.evaluate_forecasts.evaluate_forecasts",
    "rl_forecast.forecasting.compare.compare",
    "rl_forecast.forecasting.decomposition.finite_k_terms",
    "rl_forecast.forecasting.warnings.missed_mode",
    "rl_forecast.forecasting.methods.make_forecaster",
    "rl_forecast.forecasting.forecast.forecast",
    "rl_forecast.io.read.read_groups",
    "rl_forecast.loss.forecastability.ForecastabilityLoss",
    "rl_forecast.scores.psi_from_counts",
    "rl_forecast.scores.psi_from_log_p",
    "rl_forecast.scores.psi_from_p",
    "rl_forecast.forecasting.backtest.backtest",
    "rl_forecast.summary.TailSummary",
)


def _examples(module: str) -> list[doctest.DocTest]:
    # Like a reader's, an example knows its module's names, and what np and torch are.
    found = doctest.DocTestFinder().find(importlib.import_module(module), extraglobs={"np": np, "torch": torch})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", MODULES)
def test_examples_print_what_they_say(module: str) -> None:
    for test in _examples(module):
        report: list[str] = []
        result = doctest.DocTestRunner().run(test, out=report.append)
        assert result.attempted == len(test.examples)
        assert not result.failed, "".join(report)


def test_the_names_a_user_reads_first_have_examples() -> None:
    found = {test.name for name in SHOWN for test in _examples(_module_of(name))}
    assert not set(SHOWN) - found


def _module_of(name: str) -> str:
    return max((module for module in MODULES if name.startswith(f"{module}.")), key=len)
