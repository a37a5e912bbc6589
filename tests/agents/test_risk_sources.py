"""Sources of failure probabilities against dynamic programming: values, gradients, and what each can be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import ForecastPPO, ForecastSettings
from agents.risk import SOURCES, DirectRisk, FailureRisk
from agents.risk.base import log_action_probability
from agents.risk.direct import DirectGradient
from agents.risk.flow import risk_to_come, without_own
from agents.task_memory import RolloutRecord, TaskMemory
from envs import GridVecEnv, RecolorWorld, SlipWorld, exact_risk
from envs.gridworld.world import GridWorld
from tests.agents.contract_env import Bridge, memory_of

# More tasks than a rollout gets through: of a task begun a second time only those episodes would count that ended
# in time, and they are the short ones.
N_TASKS, EPISODES = 100, 200


def _played(source: str, world: GridWorld) -> ForecastPPO:
    """An agent that has played every task often and learned nothing: its learning rate is 0."""
    env = GridVecEnv(world, np.arange(N_TASKS), 200, EPISODES, seed=0)
    arguments = {"learning_rate": 0.0, "n_steps": 300, "batch_size": 200 * 300, "n_epochs": 1, "seed": 1}
    settings = ForecastSettings(coef=0.0, anchor_coef=0.0, risk=source, episodes_per_task=EPISODES)  # type: ignore[arg-type]
    model = ForecastPPO("MlpPolicy", env, **arguments, settings=settings, device="cpu")
    model.learn(1)
    assert 15 < len(memory_of(model).task_id) < N_TASKS
    assert (memory_of(model).episodes == EPISODES).all()
    return model


def _psi(model: ForecastPPO) -> torch.Tensor:
    assert model.forecastability is not None
    return model.forecastability.source.psi(model.policy, memory_of(model))


def _exact_p(model: ForecastPPO, world: GridWorld) -> torch.Tensor:
    tasks = world.tasks(memory_of(model).task_id)
    return exact_risk(world, tasks, lambda seen: log_action_probability(model.policy, seen)).p


def _actor(model: ForecastPPO) -> list[torch.nn.Parameter]:
    return [p for name, p in model.policy.named_parameters() if "value_net" not in name]


def _flat(gradients: Any) -> NDArray[np.float64]:
    return np.concatenate([g.detach().double().numpy().ravel() for g in gradients])


def _gradients_of_p(model: ForecastPPO, world: GridWorld, c: torch.Tensor) -> list[NDArray[np.float64]]:
    """Estimated and exact gradient of sum_i c_i p_i."""
    assert model.forecastability is not None
    memory, source = memory_of(model), model.forecastability.source
    p = (-(-_psi(model)).exp()).exp()
    # Weights by psi that turn the gradient into one of p; Jeffreys shrinks the estimate by a known factor.
    weight = c * p * -p.log()
    if isinstance(source, FailureRisk):
        weight *= torch.as_tensor((memory.episodes + 1) / memory.episodes)
    loss = source.score_gradient(model.policy, memory, weight).loss(model.policy)
    exact = (c * _exact_p(model, world)).sum()
    return [_flat(torch.autograd.grad(value, _actor(model))) for value in (loss, exact)]


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def agents() -> dict[tuple[str, str], tuple[ForecastPPO, GridWorld]]:
    worlds: dict[str, GridWorld] = {"recolor": RecolorWorld(), "slip": SlipWorld()}
    return {(name, w): (_played(name, world), world) for w, world in worlds.items() for name in SOURCES}


@pytest.mark.parametrize("world", ["recolor", "slip"])
@pytest.mark.parametrize("source", sorted(SOURCES))
def test_scores_agree_with_exact_risk(agents: Any, source: str, world: str) -> None:
    """Every estimate is unbiased: over many episodes it meets the dynamic programme."""
    model, its_world = agents[source, world]
    estimate = np.exp(-np.exp(-_psi(model).numpy()))
    with torch.no_grad():
        exact = _exact_p(model, its_world).numpy()
    episodes = memory_of(model).episodes
    # An episode's risk is a sum over steps and may exceed 1, so near certain failure it scatters more than a flag.
    standard_error = np.sqrt(exact / episodes) + 1e-9 + (source == "failures") / episodes
    z = (estimate - exact) / standard_error
    assert np.abs(z).max() < 6
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    if source == "exact":
        np.testing.assert_allclose(estimate, exact, rtol=1e-6)


@pytest.mark.parametrize("world", ["recolor", "slip"])
def test_gradients_agree_with_the_exact_one_as_far_as_promised(agents: Any, world: str) -> None:
    cosine, size = {}, {}
    for name in SOURCES:
        model, its_world = agents[name, world]
        c = torch.as_tensor(np.random.default_rng(0).uniform(0.5, 1.5, len(memory_of(model).task_id)))
        estimate, exact = _gradients_of_p(model, its_world, c)
        cosine[name] = _cosine(estimate, exact)
        size[name] = float(estimate @ exact / (exact @ exact))
    assert cosine["exact"] > 1 - 1e-6
    assert cosine["flow"] > 0.97
    assert cosine["failures"] > 0.9
    # Unbiased in length too; the direct one leaves the flow out.
    assert size["flow"] == pytest.approx(1.0, abs=0.1)
    assert size["failures"] == pytest.approx(1.0, abs=0.15)
    assert cosine["direct"] < cosine["flow"] - 0.01


def test_the_control_variate_is_the_mean_of_the_other_members() -> None:
    group, value = np.array([3, 3, 7, 3]), np.array([1.0, 2.0, 9.0, 6.0])
    np.testing.assert_allclose(without_own(group, value, np.array([3, 3, 1, 3])), [4.0, 3.5, 0.0, 1.5])
    # Members that are absent count as 0.
    np.testing.assert_allclose(without_own(group, value, np.array([5, 5, 2, 5])), [2.0, 1.75, 0.0, 0.75])


def test_risk_to_come_is_that_of_later_steps_of_the_same_episode() -> None:
    episode = np.array([4, 2, 4, 2, 4, 9])
    to_come, time = risk_to_come(episode, np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    np.testing.assert_allclose(to_come, [0.8, 0.4, 0.5, 0.0, 0.0, 0.0], atol=1e-15)
    assert time.tolist() == [0, 0, 1, 1, 2, 0]


def test_the_gradient_is_the_weighted_gradient_of_psi(agents: Any) -> None:
    model, _ = agents["direct", "recolor"]
    rows = memory_of(model).scored
    assert rows is not None
    risk = np.exp(-np.exp(-_psi(model).numpy()))
    # An untrained policy has estimates near and above 1, where the factor d psi / d p is clamped on purpose.
    weight = torch.as_tensor(np.random.default_rng(0).normal(size=len(risk)) * (risk < 0.9))
    gradient = torch.autograd.grad(DirectGradient(model.policy, rows, weight).loss(model.policy), _actor(model))

    # Independent: psi of every task, differentiated by autograd as it stands.
    pi = log_action_probability(model.policy, torch.as_tensor(rows["observation"])).exp()
    at_risk = (pi * torch.as_tensor(rows["fatal"])).sum(dim=1) * torch.as_tensor(rows["weight"], dtype=torch.float32)
    p = torch.zeros(len(risk)).index_add(0, torch.as_tensor(rows["task"]), at_risk)
    touched = (weight != 0).nonzero().ravel()
    assert len(touched) > 10
    psi = -torch.log(-torch.log(p[touched]))
    expected = torch.autograd.grad((weight.float()[touched] * psi).sum(), _actor(model))
    for a, b in zip(gradient, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_task_at_certain_failure_keeps_a_gradient() -> None:
    model = ForecastPPO("MlpPolicy", DummyVecEnv([Bridge]), device="cpu")
    memory, record = TaskMemory(1, 10, DirectRisk().compress), RolloutRecord(True, False)
    memory.resume_episodes(np.array([True]), continues=False)
    record.done, record.task_id, record.failure = np.array([[True]]), np.array([[5]]), np.array([[1.0]])
    steps = {"observation": np.array([[[0.0, 0.2]]], np.float32), "fatal": np.array([[[0.0, 1.0]]], np.float32)}
    memory.ingest(steps, np.array([[True]]), record)
    bias: Any = model.policy.action_net.bias
    with torch.no_grad():
        bias += torch.tensor([0.0, 8.0])
    assert memory.scored is not None
    DirectGradient(model.policy, memory.scored, torch.ones(1).double()).loss(model.policy).backward()
    assert bias.grad is not None
    assert abs(float(bias.grad[1])) > 0.01


# -- what an environment must give --------------------------------------------------------------------------------


class _Drive(gymnasium.Env[NDArray[np.float32], Any]):
    """Choose a speed (any kind of action); fast is rewarded, and crashes with the task's probability."""

    def __init__(self, action_space: spaces.Space[Any], says_failure: bool = True) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, shape=(1,), dtype=np.float32)
        self.action_space = action_space
        self._says_failure = says_failure

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.task_id = int(self.np_random.integers(40))
        return np.array([self.task_id / 40], np.float32), {}

    def step(self, action: Any) -> Any:
        speed = float(np.clip(np.mean(action), 0.0, 1.0))
        failure = bool(self.np_random.random() < 0.9 * speed * self.task_id / 40)
        info = {"task_id": self.task_id, "is_success": not failure}
        if self._says_failure:
            info["failure"] = failure
        return np.array([self.task_id / 40], np.float32), 0.1 * speed, True, False, info


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(2),
        spaces.MultiDiscrete([2, 2]),
        spaces.MultiBinary(2),
        spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32),
    ],
    ids=["discrete", "multi_discrete", "multi_binary", "box"],
)
def test_failures_are_enough_for_any_action_space(space: spaces.Space[Any]) -> None:
    """A penalty on the mean risk, estimated from failures alone, lowers it; plain PPO raises it for its reward."""

    def mean_risk(settings: ForecastSettings | None) -> float:
        env = DummyVecEnv([lambda: _Drive(space) for _ in range(16)])
        model = ForecastPPO(
            "MlpPolicy",
            env,
            n_steps=64,
            batch_size=256,
            n_epochs=4,
            learning_rate=1e-2,
            seed=0,
            device="cpu",
            settings=settings,
        )
        model.learn(16 * 64 * 8)
        env.seed(1)
        failures, observation = [], env.reset()
        for _ in range(30):
            observation, _, _, infos = env.step(model.predict(observation)[0])
            failures += [info["failure"] for info in infos]
        return float(np.mean(failures))

    penalty = {"coef": 0.0, "anchor_coef": 0.0, "risk": "failures", "n_known_tasks": 40}
    limits = {"interval": 1, "max_grad_norm": 10.0, "max_grad_ratio": None}
    assert mean_risk(ForecastSettings(**penalty, **limits)) < 0.5 * mean_risk(None)  # type: ignore[arg-type]


def _agent(env: Any, source: str, **settings: Any) -> ForecastPPO:
    given = ForecastSettings(risk=source, **{"anchor_coef": 0.0} | settings)  # type: ignore[arg-type]
    return ForecastPPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", settings=given)


def test_what_a_source_needs_is_said_before_training() -> None:
    box = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)
    for name in ("direct", "flow", "exact"):
        with pytest.raises(ValueError, match=rf"risk='{name}' needs a Discrete.*risk='failures' takes any"):
            _agent(DummyVecEnv([lambda: _Drive(box)]), name)
    with pytest.raises(ValueError, match="risk='failures' cannot tell: set anchor_coef=0"):
        _agent(DummyVecEnv([lambda: _Drive(box)]), "failures", anchor_coef=1.0)
    silent = DummyVecEnv([lambda: _Drive(spaces.Discrete(2), says_failure=False)])
    with pytest.raises(ValueError, match="must carry 'failure'"):
        _agent(silent, "failures").learn(8)
    with pytest.raises(ValueError, match=r"risk='flow' needs fatal_probability.*risk='failures'"):
        _agent(silent, "flow").learn(8)
    with pytest.raises(ValueError, match="needs an environment with log_failure_probability"):
        _agent(DummyVecEnv([Bridge]), "exact").learn(8)
    with pytest.raises(ValueError, match="no wrapper that changes observations"):
        _agent(VecNormalize(GridVecEnv(RecolorWorld(), np.arange(10), 2)), "exact").learn(8)


def _forecasting(source: str) -> ForecastPPO:
    env = GridVecEnv(RecolorWorld(rare_probability=0.1), np.arange(3000), 64, seed=2)
    sizes: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 300}
    settings = replace(ForecastSettings.paper(), risk=source, **sizes)
    return ForecastPPO(
        "MlpPolicy", env, n_steps=32, batch_size=512, n_epochs=1, seed=3, device="cpu", settings=settings
    )


@pytest.mark.parametrize("source", ["flow", "exact"])
def test_other_sources_train_with_the_forecast(source: str) -> None:
    model = _forecasting(source).learn(64 * 32 * 3)
    assert model.forecastability is not None
    norms = model.forecastability.update.grad_norms
    assert norms
    assert np.isfinite(norms).all()


def test_a_forecast_from_single_failures_says_that_it_does_nothing() -> None:
    with pytest.warns(UserWarning, match=r"added to none of the \d+ optimiser steps.*share 2 scores.*mean_risk_coef"):
        _forecasting("failures").learn(64 * 32 * 10)


def test_the_flow_source_remembers_no_more_than_the_direct_one(agents: Any) -> None:
    direct, flow = (memory_of(agents[name, "recolor"][0]) for name in ("direct", "flow"))
    assert direct.scored is not None
    assert flow.scored is not None
    assert flow.new is not None
    assert set(flow.scored.columns) == set(direct.scored.columns) == {"task", "observation", "fatal", "weight"}
    assert len(flow.scored) == len(direct.scored)
    assert len(flow.new) > 5 * len(flow.scored)
