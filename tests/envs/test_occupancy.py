"""Forward occupancy against the backward recursion and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs import FAMILIES, GridVecEnv, exact_risk
from envs.gridworld.exact_risk import occupancy


@pytest.mark.parametrize("family", ["recolor", "gale", "bridge"])
def test_mass_of_failure_and_success_is_that_of_the_exact_risk(family: str) -> None:
    world = FAMILIES[family](rare_probability=0.5)
    tasks = world.tasks(np.arange(200))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(world.observation.dimension, world.rules.n_actions, generator=generator)

    def policy(observation: torch.Tensor) -> torch.Tensor:
        return (observation @ weight).double().log_softmax(dim=1)

    exact, forward = exact_risk(world, tasks, policy), occupancy(world, tasks, policy)
    np.testing.assert_allclose(forward.failure.sum(axis=1), exact.p.numpy(), rtol=1e-12)
    np.testing.assert_allclose(forward.success, exact.success.numpy(), rtol=1e-12)
    assert (forward.failure[~tasks.hazard] == 0).all()
    assert (forward.visits[tasks.hazard] == 0).all()
    assert (forward.visits.sum(axis=1) <= world.horizon + 1e-9).all()


def test_visits_are_those_of_simulation() -> None:
    world, n_envs, episodes = FAMILIES["slip"](), 500, 20_000
    ids = np.array([3])
    expected = occupancy(world, world.tasks(ids), lambda o: torch.full((len(o), 5), -np.log(5.0)).double())
    engine = GridVecEnv(world, ids, num_envs=n_envs, episodes_per_task=1)
    rng = np.random.default_rng(0)
    engine.reset()
    visits, deaths, ended = np.zeros(25), 0, 0
    # Whole episodes only: each environment plays the same number of them.
    left = np.full(n_envs, episodes // n_envs)
    while left.any():
        state, active = engine.engine.state, left > 0
        visits += np.bincount(world.rules.cell[state[active]], minlength=25)
        _, _, done, infos = engine.step(rng.integers(0, 5, size=n_envs))
        for env in np.flatnonzero(done & active):
            deaths += infos[env]["failure"]
            ended += 1
        left -= done & active
    assert ended == episodes
    np.testing.assert_allclose(visits / episodes, expected.visits[0], atol=0.04)
    p = expected.failure[0].sum()
    assert abs(deaths / episodes - p) < 4 * np.sqrt(p * (1 - p) / episodes)
