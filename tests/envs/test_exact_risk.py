"""Exact risk and occupancy against simulation, against enumeration of all paths, and at the extremes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from envs import FAMILIES, GridVecEnv, GridWorld, RecolorWorld, RiskGridEnv, SlipWorld, exact_risk
from envs.gridworld.exact_risk import occupancy
from rl_forecast.scores import psi_from_log_p


def _network(scale: float = 1.0, world: GridWorld | None = None) -> nn.Sequential:
    world = world or RecolorWorld()
    generator = torch.Generator().manual_seed(3)
    n_inputs, n_actions = world.observation.dimension, world.rules.n_actions
    net = nn.Sequential(nn.Linear(n_inputs, 32), nn.Tanh(), nn.Linear(32, n_actions), nn.LogSoftmax(dim=1)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3 * scale)
    return net


def _policy(net: nn.Module):  # type: ignore[no-untyped-def]
    return lambda observation: net(observation.double())


@pytest.mark.parametrize(
    ("family", "settings", "n_tasks"),
    [("recolor", {}, 600), ("gale", {"rare_probability": 0.5}, 300), ("bridge", {"rare_probability": 0.5}, 300)],
)
def test_agrees_with_simulation(family: str, settings: dict[str, Any], n_tasks: int) -> None:
    world, episodes, n_envs = FAMILIES[family](**settings), 250, 4000
    policy, tasks = _policy(_network(world=world)), world.tasks(np.arange(n_tasks))
    with torch.no_grad():
        exact, expected = exact_risk(world, tasks, policy), occupancy(world, tasks, policy)
    venv = GridVecEnv(world, np.arange(n_tasks), num_envs=n_envs, episodes_per_task=episodes, seed=0)
    rng = np.random.default_rng(0)
    failures, successes, count, risk = (np.zeros(n_tasks) for _ in range(4))
    visits = np.zeros((n_tasks, world.rules.n_cells))
    observation = venv.reset()
    # One pass of the queue, and only episodes begun in it: stopping earlier would favour short episodes.
    wanted, begun, counted = n_tasks * episodes, n_envs, np.ones(n_envs, dtype=bool)
    while counted.any():
        np.add.at(visits, (venv.engine._row, world.rules.cell[venv.engine._state]), counted)
        with torch.no_grad():
            pi = policy(torch.from_numpy(observation)).exp().numpy()
        above = rng.random((n_envs, 1)) > pi.cumsum(axis=1)
        observation, _, done, infos = venv.step(above.sum(axis=1).clip(max=pi.shape[1] - 1))
        for env in np.flatnonzero(done):
            if counted[env]:
                task = infos[env]["task_id"]
                count[task] += 1
                failures[task] += infos[env]["failure"]
                successes[task] += infos[env]["is_success"]
                risk[task] += infos[env]["risk"]
            counted[env] = begun < wanted
            begun += 1
    assert (count == episodes).all()
    for simulated, probability in ((failures, exact.p.numpy()), (successes, exact.success.numpy())):
        sd = np.sqrt(probability * (1 - probability) * episodes)
        total = (simulated - probability * episodes).sum() / np.sqrt((sd**2).sum())
        assert abs(total) < 4
        # Per task the count is close to normal only where a few events are expected on either side.
        z = ((simulated - probability * episodes) / np.maximum(sd, 1e-9))[sd > 2]
        assert len(z) > 50
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * len(z))
        assert np.abs(z).max() < 5
    # An episode's risk has the failure probability as its mean and no more variance than the failure itself,
    # except that it may exceed 1; its sum over all episodes is held against the exact one.
    sd = np.sqrt((exact.p * (1 - exact.p) * episodes).sum().item())
    assert abs(risk.sum() / episodes - exact.p.sum().item()) < 5 * sd / episodes
    # Summed over tasks, the steps begun in a cell: a handful per episode, thousands of episodes.
    np.testing.assert_allclose(visits.sum(axis=0) / episodes, expected.visits.sum(axis=0), rtol=0.03)


@pytest.mark.parametrize("family", ["recolor", "gale", "bridge"])
def test_occupancy_ends_as_the_exact_risk_says(family: str) -> None:
    world = FAMILIES[family](rare_probability=0.5)
    tasks, policy = world.tasks(np.arange(200)), _policy(_network(2.0, world))
    with torch.no_grad():
        exact, forward = exact_risk(world, tasks, policy), occupancy(world, tasks, policy)
    np.testing.assert_allclose(forward.failure.sum(axis=1), exact.p.numpy(), rtol=1e-12)
    np.testing.assert_allclose(forward.success, exact.success.numpy(), rtol=1e-12)
    assert (forward.failure[~tasks.hazard] == 0).all()
    assert (forward.visits[tasks.hazard] == 0).all()


def test_the_single_environment_agrees_with_the_exact_risk() -> None:
    world = FAMILIES["gale"](rare_probability=1.0)
    env, net, episodes = RiskGridEnv("gale", rare_probability=1.0), _network(world=world), 1500
    tasks = world.tasks(np.arange(200))
    with torch.no_grad():
        risks = exact_risk(world, tasks, _policy(net)).p.numpy()
        task = int(np.abs(risks - 0.5).argmin())
        observation = world.observation.encode(tasks, np.full(25, task), np.arange(25))
        table = _policy(net)(torch.from_numpy(observation)).exp().numpy()
    p = risks[task]
    rng = np.random.default_rng(1)
    failures = risk = 0.0
    env.reset(seed=3)
    for _ in range(episodes):
        env.reset(options={"task_id": task})
        done, info = False, {}
        while not done:
            _, _, terminated, truncated, info = env.step(rng.choice(5, p=table[env._state[0]]))
            done = terminated or truncated
        failures += info["failure"]
        risk += info["risk"]
    sd = np.sqrt(p * (1 - p) / episodes)
    assert 0.3 < p < 0.7
    assert abs(failures / episodes - p) < 4 * sd
    assert abs(risk / episodes - p) < 4 * sd


@pytest.mark.parametrize("family", ["recolor", "slip", "bridge"])
def test_equals_the_sum_over_all_action_sequences(family: str) -> None:
    horizon = 7 if family == "recolor" else 4
    world = FAMILIES[family](horizon=horizon, rare_probability=0.5)
    net, rules = _network(2.0, world), world.rules
    tasks = world.tasks(np.arange(12))
    assert tasks.rare.any()
    with torch.no_grad():
        exact = exact_risk(world, tasks, _policy(net))
    states = np.arange(rules.n_states)
    for row in range(len(tasks)):
        with torch.no_grad():
            observation = world.observation.encode(tasks, np.full(rules.n_states, row), states)
            chosen = _policy(net)(torch.from_numpy(observation)).exp().numpy()
        slip = tasks.slip[row]
        # Executed moves, slips summed over by hand.
        pi = np.zeros_like(chosen)
        for action in range(rules.n_actions):
            for move in range(rules.n_actions):
                slipped = 0.0 if rules.slip_move is None else rules.slip_move[action, move]
                pi[:, move] += chosen[:, action] * ((1 - slip) * (action == move) + slip * slipped)
        failure = success = 0.0
        for moves in product(range(rules.n_actions), repeat=horizon):
            state, probability, outcome = int(tasks.start_state[row]), 1.0, None
            for step, move in enumerate(moves):
                probability *= pi[state, move]
                state = int(rules.move[state, move])
                cell = rules.cell[state]
                outcome = "failure" if tasks.hazard[row, cell] else "success" if cell == tasks.goal_cell[row] else None
                if outcome:
                    # Every continuation after the end is summed once: count the first of them only.
                    probability = probability if all(m == 0 for m in moves[step + 1 :]) else 0.0
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
    entered = world.rules.cell[world.rules.move[tasks.start_state, 2]]
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
    assert np.isneginf(psi(-np.inf)).all()


@pytest.mark.parametrize("family", ["recolor", "slip"])
def test_gradient_equals_finite_differences(family: str) -> None:
    world = FAMILIES[family]()
    net = _network(world=world)
    tasks = world.tasks(np.arange(40))
    weight = torch.linspace(-1, 1, 40, dtype=torch.float64)

    def value() -> torch.Tensor:
        return (weight * psi_from_log_p(exact_risk(world, tasks, _policy(net)).log_p)).sum()

    value().backward()
    bias = net[2].bias
    assert bias.grad is not None
    for index in range(3):
        step = torch.zeros(len(bias), dtype=torch.float64)
        step[index] = 1e-6
        with torch.no_grad():
            bias += step
            above = value()
            bias -= 2 * step
            below = value()
            bias += step
        assert bias.grad[index].item() == pytest.approx((above - below).item() / 2e-6, rel=1e-5)


def test_chunks_do_not_matter_for_values_and_gradients() -> None:
    world, net = SlipWorld(), _network(world=SlipWorld())
    tasks = world.tasks(np.arange(30))
    results, gradients = [], []
    for budget in (2**30, 1, 2**20):
        net.zero_grad()
        risk = exact_risk(world, tasks, _policy(net), memory_budget=budget)
        psi_from_log_p(risk.log_p).sum().backward()
        results.append(risk)
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))  # type: ignore[union-attr]
    for risk, gradient in zip(results[1:], gradients[1:], strict=True):
        for name in ("log_p", "success"):
            np.testing.assert_allclose(
                getattr(risk, name).detach().numpy(), getattr(results[0], name).detach().numpy(), rtol=1e-12
            )
        np.testing.assert_allclose(gradient.numpy(), gradients[0].numpy(), rtol=1e-9, atol=1e-12)


def test_bad_arguments_are_refused() -> None:
    world, net = RecolorWorld(), _network()
    tasks = world.tasks(np.arange(10))
    with torch.no_grad():
        assert len(exact_risk(world, tasks[:0], _policy(net)).log_p) == 0
        with pytest.raises(ValueError, match="log-probabilities of shape"):
            exact_risk(world, tasks, lambda observation: torch.zeros(len(observation), 2))
        with pytest.raises(ValueError, match="memory_budget"):
            exact_risk(world, tasks, _policy(net), memory_budget=0)
