"""Exact risk against simulation, against enumeration of all paths, and at the extremes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from envs import GridVecEnv, RecolorWorld, exact_risk
from rl_forecast.scores import psi_from_log_p


def _network(scale: float = 1.0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(118, 32), nn.Tanh(), nn.Linear(32, 3), nn.LogSoftmax(dim=1)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3 * scale)
    return net


def _policy(net: nn.Module):  # type: ignore[no-untyped-def]
    return lambda observation: net(observation.double())


def test_agrees_with_simulation_on_1000_tasks() -> None:
    world, net, n_tasks, episodes = RecolorWorld(), _network(), 1000, 400
    with torch.no_grad():
        exact = exact_risk(world, world.tasks(np.arange(n_tasks)), _policy(net))
    engine = GridVecEnv(world, np.arange(n_tasks), num_envs=4000, episodes_per_task=episodes, seed=0)
    rng = np.random.default_rng(0)
    failures, successes, count = (np.zeros(n_tasks) for _ in range(3))
    observation = engine.reset()
    # One pass of the queue, and only episodes begun in it: stopping earlier would favour short episodes.
    wanted = n_tasks * episodes
    begun = 4000
    counted = np.ones(4000, dtype=bool)
    while counted.any():
        with torch.no_grad():
            pi = _policy(net)(torch.from_numpy(observation)).exp().numpy()
        action = (rng.random((4000, 1)) > pi.cumsum(axis=1)).sum(axis=1).clip(max=2)
        observation, _, done, infos = engine.step(action)
        for env in np.flatnonzero(done):
            if counted[env]:
                task = infos[env]["task_id"]
                count[task] += 1
                failures[task] += infos[env]["failure"]
                successes[task] += infos[env]["is_success"]
            counted[env] = begun < wanted
            begun += 1
    assert (count == episodes).all()
    for simulated, probability in ((failures, exact.p.numpy()), (successes, exact.success.numpy())):
        sd = np.sqrt(probability * (1 - probability) * episodes)
        total = (simulated - probability * episodes).sum() / np.sqrt((sd**2).sum())
        assert abs(total) < 4
        # Per task the count is close to normal only where a few events are expected on either side.
        z = ((simulated - probability * episodes) / np.maximum(sd, 1e-9))[sd > 2]
        assert len(z) > 100
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * len(z))
        assert np.abs(z).max() < 5


def test_equals_the_sum_over_all_action_sequences() -> None:
    world, net = RecolorWorld(horizon=7), _network(2.0)
    tasks = world.tasks(np.arange(12))
    with torch.no_grad():
        exact = exact_risk(world, tasks, _policy(net))
        pi = np.stack(
            [
                _policy(net)(torch.from_numpy(world.observation.encode(tasks, np.full(100, row), np.arange(100))))
                .exp()
                .numpy()
                for row in range(len(tasks))
            ]
        )
    for row in range(len(tasks)):
        failure = success = 0.0
        for actions in product(range(3), repeat=7):
            state, probability, outcome = int(tasks.start_state[row]), 1.0, None
            for step, action in enumerate(actions):
                probability *= pi[row, state, action]
                state = int(world.rules.move[state, action])
                cell = state // 4
                outcome = "failure" if tasks.hazard[row, cell] else "success" if cell == tasks.goal_cell[row] else None
                if outcome:
                    # Every continuation after the end is summed once: count the first of them only.
                    probability = probability if all(a == 0 for a in actions[step + 1 :]) else 0.0
                    break
            failure += probability * (outcome == "failure")
            success += probability * (outcome == "success")
        assert exact.p[row].item() == pytest.approx(failure, rel=1e-12, abs=1e-300)
        assert exact.success[row].item() == pytest.approx(success, rel=1e-12, abs=1e-300)


def _forward_with_log_odds(log_odds: float):  # type: ignore[no-untyped-def]
    """A policy that steps forward with these log-odds, and otherwise turns left."""

    def policy(observation: torch.Tensor) -> torch.Tensor:
        n = len(observation)
        forward = torch.full((n,), log_odds, dtype=torch.float64)
        left, right = torch.zeros(n, dtype=torch.float64), torch.full((n,), -torch.inf, dtype=torch.float64)
        return torch.stack([left, right, forward], dim=1).log_softmax(dim=1)

    return policy


def test_psi_is_finite_and_linear_in_the_logits_at_both_ends() -> None:
    world = RecolorWorld()
    tasks = world.tasks(np.arange(3000))
    # Tasks that begin in front of lava: the failure is certain but for turns of probability exp(-log_odds), or
    # impossible but for forward steps of that probability.
    entered = world.rules.entered_cell[tasks.start_state, 2]
    facing = tasks[np.flatnonzero(tasks.hazard[np.arange(len(tasks)), entered])[:50]]

    def psi(log_odds: float) -> np.ndarray:
        with torch.no_grad():
            return psi_from_log_p(exact_risk(world, facing, _forward_with_log_odds(log_odds)).log_p.numpy())

    assert psi(200.0).min() > 190
    turns_needed = (psi(200.0) - psi(100.0)) / 100
    np.testing.assert_allclose(turns_needed, np.round(turns_needed), atol=1e-9)
    assert set(np.round(turns_needed)) <= {1, 2, 3, 4}
    log_p = -np.exp(-psi(-200.0))
    np.testing.assert_allclose(log_p, -200.0, atol=4.0)  # one forward step, at one of up to 20 moments


def test_impossible_failure_has_psi_minus_infinity() -> None:
    world = RecolorWorld()
    with torch.no_grad():
        risk = exact_risk(world, world.tasks(np.arange(50)), _forward_with_log_odds(-np.inf))
    assert torch.isneginf(risk.log_p).all()
    assert (risk.success == 0).all()


def test_gradient_equals_finite_differences() -> None:
    world, net = RecolorWorld(), _network()
    tasks = world.tasks(np.arange(40))
    weight = torch.linspace(-1, 1, 40, dtype=torch.float64)

    def value() -> torch.Tensor:
        return (weight * psi_from_log_p(exact_risk(world, tasks, _policy(net)).log_p)).sum()

    value().backward()
    bias = net[2].bias
    assert bias.grad is not None
    for index in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[index] = 1e-6
        with torch.no_grad():
            bias += step
            above = value()
            bias -= 2 * step
            below = value()
            bias += step
        assert bias.grad[index].item() == pytest.approx((above - below).item() / 2e-6, rel=1e-5)


def test_chunks_do_not_matter_and_bad_policies_are_refused() -> None:
    world, net = RecolorWorld(), _network()
    tasks = world.tasks(np.arange(100))
    with torch.no_grad():
        whole, parts = (exact_risk(world, tasks, _policy(net), chunk_size=c) for c in (100, 7))
        assert torch.equal(whole.success, parts.success) or torch.allclose(whole.success, parts.success, rtol=1e-13)
        np.testing.assert_allclose(whole.log_p.numpy(), parts.log_p.numpy(), rtol=1e-12)
        assert len(exact_risk(world, tasks[:0], _policy(net)).log_p) == 0
        with pytest.raises(ValueError, match="log-probabilities of shape"):
            exact_risk(world, tasks, lambda observation: torch.zeros(len(observation), 2))
        with pytest.raises(ValueError, match="chunk_size"):
            exact_risk(world, tasks, _policy(net), chunk_size=0)
