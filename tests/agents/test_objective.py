"""Objectives as functions of scores: their gradients against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.baselines import LagrangianPPO
from agents.forecast_ppo.objective import TaskObjective, risk_penalty
from rl_forecast.loss.forecastability import ForecastabilityLoss, one_sided_anchor
from tests.agents.contract_env import Bridge


def _scores(n: int = 400) -> np.ndarray:
    return np.random.default_rng(0).normal(-1.5, 1.0, size=n)


@pytest.mark.parametrize("kind", ["mean_risk", "cvar", "top_log_risk"])
def test_penalties_and_their_gradients(kind: str) -> None:
    psi = _scores()
    value, weight = risk_penalty(psi, kind, fraction=0.1)
    leaf = torch.tensor(psi, requires_grad=True)
    log_p = -torch.exp(-leaf)
    riskiest = log_p.topk(40).values
    expected = {"mean_risk": log_p.exp().mean(), "cvar": riskiest.exp().mean(), "top_log_risk": riskiest.mean()}[kind]
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(weight, leaf.grad, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("kind", ["mean_risk", "cvar", "top_log_risk"])
def test_tasks_without_any_risk_have_no_gradient(kind: str) -> None:
    psi = np.array([-np.inf, -np.inf, 0.5])
    value, weight = risk_penalty(psi, kind, fraction=1.0)
    assert np.isfinite(value)
    assert (weight[:2] == 0).all()
    assert weight[2] > 0
    _, none = risk_penalty(np.full(3, -np.inf), kind, fraction=1.0)
    assert not none.any()


def _objective(**settings: float) -> TaskObjective:
    loss = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16)
    defaults = {"forecast_coef": 0.0, "risk_coef": 0.0, "risk_fraction": 0.05, "anchor_coef": 0.0}
    return TaskObjective(loss=loss, risk_penalty="cvar", **(defaults | settings))


def test_a_mixture_is_the_weighted_sum_of_its_parts() -> None:
    psi, base = _scores(), _scores() - 0.3
    objective = _objective(forecast_coef=0.5, risk_coef=2.0, anchor_coef=3.0)
    mixed = objective(psi, base, np.random.default_rng(1))
    assert mixed is not None
    forecast, _ = objective.loss.task_weights(psi, np.random.default_rng(1))
    _, penalty = risk_penalty(psi, "cvar", 0.05)
    leaf = torch.tensor(psi, requires_grad=True)
    one_sided_anchor(leaf, torch.from_numpy(base)).backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(mixed.weight, 0.5 * forecast + 2.0 * penalty + 3.0 * leaf.grad.numpy(), rtol=1e-12)
    assert mixed.logs["share_risen"] == 1.0
    assert {"forecast_loss", "risk_penalty", "anchor_loss"} <= set(mixed.logs)


def test_few_tasks_shrink_the_partitions_and_too_few_give_nothing() -> None:
    objective = _objective(forecast_coef=1.0)
    assert objective(_scores(100), None, np.random.default_rng(0)) is not None
    assert objective(_scores(30), None, np.random.default_rng(0)) is None


def test_the_multiplier_rises_above_the_limit_and_falls_below_it() -> None:
    env = DummyVecEnv([Bridge])
    model = LagrangianPPO("MlpPolicy", env, risk_limit=0.01, multiplier_rate=2.0, device="cpu")
    model.set_logger(configure(None, []))
    history = []
    for p in (0.5, 0.5, 0.015, 0.005, 0.0):
        objective = model._objective_for(np.full(20, -np.log(-np.log(p))) if p else np.full(20, -np.inf))
        assert objective.risk_coef == model.multiplier
        history.append(model.multiplier)
    np.testing.assert_allclose(history, [2.0, 4.0, 5.0, 4.0, 2.0])
    for settings, message in (({"risk_limit": 0.0}, "risk_limit"), ({"multiplier": -1.0}, "multiplier must not")):
        with pytest.raises(ValueError, match=message):
            LagrangianPPO("MlpPolicy", env, device="cpu", **settings)
