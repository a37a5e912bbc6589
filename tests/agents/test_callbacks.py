"""Our callbacks beside Stable-Baselines3's own, while forecastability is trained."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import BasePolicy

from agents import DegeneracyCallback, Forecastability, ForecastEvalCallback, ForecastPPO, TrainingStateCallback
from agents.risk.base import log_action_probability
from envs import GridVecEnv, RecolorWorld, exact_risk
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.scores import psi_from_log_p
from tests.agents.helpers import MANY, PAPER, ROLLOUT, SMALL, WORLD, AtEnd, bridges, callback_of, equal, grid, weights

# DegeneracyCallback has reason to speak up about an agent that has hardly been trained.
pytestmark = pytest.mark.filterwarnings(r"ignore:\w+ after \d+ steps")
TASKS = WORLD.tasks(np.arange(2**30, 2**30 + 240))


def _validation_scores(policy: BasePolicy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with torch.no_grad():
        risk = exact_risk(WORLD, TASKS, lambda seen: log_action_probability(policy, seen))  # type: ignore[arg-type]
    psi = psi_from_log_p(risk.log_p.numpy())
    return psi[:80].reshape(2, 40), psi[80:].reshape(1, 160)


def _ours() -> list[BaseCallback]:
    return [ForecastEvalCallback(_validation_scores, make_forecaster("gumbel_tail", 5), ROLLOUT), DegeneracyCallback()]


def _anchored() -> ForecastPPO:
    start = PPO("MlpPolicy", grid(), seed=1, device="cpu").policy
    return ForecastPPO("MlpPolicy", grid(), **MANY, settings=replace(PAPER, anchor_coef=1.0), anchor=start)


def test_all_together_each_does_its_work_and_changes_nothing(tmp_path: Path) -> None:
    """Evaluation, checkpoints and training states draw nothing from the run's generators."""
    model, here = _anchored(), str(tmp_path)
    model.set_logger(configure(here, ["csv"]))
    evaluation = EvalCallback(grid(8, seed=5), eval_freq=32, best_model_save_path=here, log_path=here, verbose=0)
    checkpoints = CheckpointCallback(32, str(tmp_path / "checkpoints"))
    state = TrainingStateCallback(tmp_path / "state.safetensors", ROLLOUT)
    # Nested and in a list, as users write it.
    model.learn(4 * ROLLOUT, callback=[evaluation, CallbackList([*_ours(), checkpoints, state])])
    model.logger.close()
    unwatched = _anchored().learn(4 * ROLLOUT)
    assert equal(weights(model), weights(unwatched))
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("forecast/error", "eval/mean_reward", "train/forecast_grad_norm"):
        assert sum(row[name] not in ("", "nan") for row in rows) >= 3, name
    assert evaluation.evaluations_timesteps == [ROLLOUT * i for i in range(1, 5)]
    for saved in ("best_model.zip", f"checkpoints/rl_model_{2 * ROLLOUT}_steps.zip"):
        loaded = ForecastPPO.load(tmp_path / saved, env=grid())
        assert callback_of(loaded).anchor is not None
        loaded.learn(2 * ROLLOUT, callback=_ours(), reset_num_timesteps=False)
        assert callback_of(loaded).update.n_touched > 0


def test_a_run_that_goes_wrong_is_announced_stopped_and_restored() -> None:
    arguments: dict[str, Any] = MANY | {"learning_rate": 2e-3, "gamma": 0.97}
    base = PPO("MlpPolicy", grid(), **arguments).learn(ROLLOUT * 24)
    # A reward for dying is a legal environment, and PPO follows it: risk rises and success falls.
    world = RecolorWorld(rare_probability=0.1, failure_cost=-20.0)
    model = PPO("MlpPolicy", GridVecEnv(world, np.arange(3000), 64, seed=2), **arguments)
    model.policy.load_state_dict(base.policy.state_dict())
    callback = Forecastability(replace(PAPER, coef=0.0, anchor_coef=1e-6), anchor=base.policy)  # which prevents nothing
    watch = DegeneracyCallback(stop=True, patience=2, forecastability=callback)
    good: list[dict[str, torch.Tensor]] = []
    keep = AtEnd(lambda: None if watch.found else good.append(weights(model)))
    with warnings.catch_warnings(record=True) as announced:
        warnings.simplefilter("always")
        model.learn(ROLLOUT * 60, callback=[callback, watch, keep])
    assert sum("mean_risk_risen after" in str(warning.message) for warning in announced) == 1
    assert watch.stopped
    assert equal(weights(model), good[-1]), "the policy of the last rollout before any sign"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingStateCallback("state.safetensors", 0), "every must be at least 1"),
        (lambda: ForecastEvalCallback(_validation_scores, make_forecaster("gumbel_tail"), 0), "every must be at least"),
        (lambda: DegeneracyCallback(patience=0), "patience must be at least 1"),
        (lambda: PPO("MlpPolicy", bridges(), **SMALL).learn(64, DegeneracyCallback()), "or the callback given as"),
    ],
)
def test_wrong_use_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
