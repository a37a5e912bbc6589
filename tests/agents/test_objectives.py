"""Objectives as functions of scores: values and gradients against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from agents import ForecastSettings
from rl_forecast.loss.forecastability import ForecastabilityLoss, one_sided_anchor
from rl_forecast.loss.objectives import (
    Objective,
    anchor,
    cvar,
    forecast_loss,
    mean_log_risk,
    mean_risk,
    mean_score,
    objective_of,
    risk_limit,
    top_risk,
    top_score,
)

LOSS = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16, psi_cap=3.0)


def _scores(n: int = 400) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(0).normal(-1.5, 1.0, size=n))


def _evaluate(objective: Objective, psi: torch.Tensor, base: torch.Tensor | None = None) -> tuple[float, Any, Any]:
    """Value, gradient by psi, and logs."""
    leaf = psi.clone().requires_grad_()
    result = objective(leaf, base, np.random.default_rng(1))
    assert result is not None
    (gradient,) = torch.autograd.grad(result[0], leaf)
    return float(result[0].detach()), gradient, result[1]


@pytest.mark.parametrize(
    ("objective", "definition"),
    [
        (mean_risk(2.0), lambda p, psi: 2 * p.mean()),
        (mean_log_risk(2.0), lambda p, psi: 2 * p.log().mean()),
        (mean_score(2.0), lambda p, psi: 2 * psi.mean()),
        (cvar(2.0, fraction=0.1), lambda p, psi: 2 * p.topk(40).values.mean()),
        (top_risk(2.0, fraction=0.1), lambda p, psi: 2 * p.log().topk(40).values.mean()),
        (top_score(2.0, n_top=40), lambda p, psi: 2 * psi.topk(40).values.mean()),
    ],
)
def test_penalties_are_means_of_the_riskiest_tasks(objective: Objective, definition: Any) -> None:
    psi = _scores().clamp(min=-3.0)  # the definition's log of p would underflow
    value, gradient, _ = _evaluate(objective, psi)
    leaf = psi.clone().requires_grad_()
    expected = definition((-(-leaf).exp()).exp(), leaf)
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("objective", [mean_risk(1.0), cvar(1.0, 1.0), top_risk(1.0, 1.0), risk_limit(0.01)])
def test_tasks_without_any_risk_have_no_gradient(objective: Objective) -> None:
    value, gradient, _ = _evaluate(objective, torch.tensor([-torch.inf, -torch.inf, 0.5], dtype=torch.float64))
    assert np.isfinite(value)
    assert (gradient[:2] == 0).all()
    assert gradient[2] > 0


def test_a_sum_is_the_weighted_sum_of_its_parts() -> None:
    psi, base = _scores(), _scores() - 0.3
    parts = [forecast_loss(0.5, LOSS), cvar(2.0, 0.05), anchor(3.0)]
    value, gradient, logs = _evaluate(parts[0] + parts[1] + parts[2], psi, base)
    alone = [_evaluate(part, psi, base) for part in parts]
    assert value == pytest.approx(sum(v for v, _, _ in alone), rel=1e-12)
    torch.testing.assert_close(gradient, sum(g for _, g, _ in alone))
    leaf = psi.clone().requires_grad_()
    (weight,) = torch.autograd.grad(LOSS(leaf, np.random.default_rng(1)).loss, leaf)
    torch.testing.assert_close(alone[0][1], 0.5 * weight)
    assert alone[2][0] == pytest.approx(3.0 * float(one_sided_anchor(psi, base)))
    assert logs["share_riskier_than_anchor"] == 1.0
    assert {"forecast_loss", "cvar", "anchor_loss"} <= set(logs)
    without, only = (parts[1] + parts[2]).split_anchor()
    assert (without.needs_anchor, only.needs_anchor) == (False, True)
    # Few tasks shrink the partitions, too few give nothing.
    assert _evaluate(parts[0], psi[:100])
    assert parts[0](psi[:30], None, np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="no scores of it were given"):
        anchor(1.0)(psi, None, np.random.default_rng(0))


def test_the_settings_name_the_parts() -> None:
    psi = _scores(1200)
    sizes: dict[str, Any] = {"n_eval": 200, "n_deploy": 800, "tail_k": 10, "n_partitions": 64, "psi_cap": 3.0}
    recommended = ForecastabilityLoss(**sizes, error_space="log10_p", penalty="huber")
    expected = forecast_loss(0.1, recommended) + mean_risk(100.0) + anchor(100.0)
    assert _evaluate(objective_of(ForecastSettings()), psi, psi - 0.2)[0] == _evaluate(expected, psi, psi - 0.2)[0]
    paper = objective_of(ForecastSettings.paper())
    assert not paper.needs_anchor
    assert _evaluate(paper, psi)[0] == _evaluate(forecast_loss(1.0, ForecastabilityLoss(**sizes)), psi)[0]
    assert not objective_of(ForecastSettings(coef=0.0, mean_risk_coef=0.0, anchor_coef=0.0))


def test_saturated_and_floored_partitions_are_counted() -> None:
    rng = np.random.default_rng(0)
    # A tenth of all tasks certain to fail: both parts of every partition see them.
    degenerate = np.where(np.arange(200) % 10 == 0, 9.0, rng.normal(-2, 0.1, 200))
    ordinary, safe = rng.normal(-1, 0.5, 200), rng.normal(-6, 0.2, 200)
    shares = []
    for psi in (degenerate, ordinary, safe):
        logs = _evaluate(forecast_loss(1.0, LOSS), torch.as_tensor(psi))[2]
        shares.append((logs["forecast_share_saturated"], logs["forecast_share_floored"]))
    assert shares[0][0] > 0.9
    assert shares[1] == (0.0, 0.0)
    assert shares[2][1] == 1.0


def test_the_multiplier_rises_above_the_limit_and_falls_below_it() -> None:
    objective, history = risk_limit(0.01, rate=2.0), []
    for p in (0.5, 0.5, 0.015, 0.005, 0.0):
        psi = torch.full((20,), -np.log(-np.log(p)) if p else -np.inf, dtype=torch.float64)
        result = objective(psi, None, np.random.default_rng(0))
        assert result is not None
        history.append(result[1]["multiplier"])
        assert float(result[0]) == pytest.approx(history[-1] * p)
    np.testing.assert_allclose(history, [2.0, 4.0, 5.0, 4.0, 2.0])
    other = risk_limit(0.01, rate=2.0)
    other.load_state_dict(objective.state_dict())
    assert other.state_dict() == objective.state_dict() == {"0.multiplier": 2.0}


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (risk_limit, {"limit": 0.0}, "risk_limit must lie in"),
        (risk_limit, {"limit": 0.1, "multiplier": -1.0}, "multiplier must be finite and not negative"),
        (cvar, {"coef": 1.0, "fraction": 0.0}, "fraction must lie in"),
        (top_score, {"coef": 1.0, "n_top": 0}, "n_top must be at least 1"),
        (mean_risk, {"coef": -1.0}, "must be finite and not negative"),
        (mean_risk, {"coef": math.nan}, "must be finite and not negative"),
        (ForecastSettings, {"coef": math.nan}, "coef must be a finite number"),
        (ForecastSettings, {"mean_risk_coef": math.inf}, "mean_risk_coef must be a finite number"),
        (ForecastSettings, {"anchor_coef": -1.0}, "anchor_coef must not be negative"),
        (ForecastSettings, {"max_grad_norm": math.nan}, "max_grad_norm must be a finite number"),
        (ForecastSettings, {"max_grad_norm": 0.0}, "max_grad_norm must be positive"),
        (ForecastSettings, {"max_grad_ratio": 0.0}, "max_grad_ratio must be positive"),
        (ForecastSettings, {"psi_cap": math.inf}, "psi_cap must be a finite number"),
        (ForecastSettings, {"interval": 2.5}, "interval must be an integer of at least 1, it is 2.5"),
        (ForecastSettings, {"interval": 0}, "interval must be an integer of at least 1"),
        (ForecastSettings, {"tail_k": 10.0}, "tail_k must be an integer of at least 2"),
        (ForecastSettings, {"tail_k": 1}, "tail_k must be an integer of at least 2"),
        (ForecastSettings, {"episodes_per_task": True}, "episodes_per_task must be an integer"),
        (ForecastSettings, {"n_partitions": "many"}, "n_partitions must be an integer"),
        (ForecastSettings, {"error_space": "log10"}, "unknown error_space 'log10': did you mean 'log10_p'"),
        (ForecastSettings, {"gradient": "stop_forecast"}, "unknown gradient 'stop_forecast'"),
        (ForecastSettings, {"penalty": "hubert"}, "unknown penalty 'hubert': did you mean 'huber'"),
        (ForecastSettings, {"risk": "direkt"}, "unknown risk 'direkt': did you mean 'direct'"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(made: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        made(**arguments)
    assert "\n" not in str(error.value)
