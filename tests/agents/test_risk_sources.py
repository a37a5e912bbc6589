"""Sources of failure probabilities against dynamic programming: values, gradients, and what each can be asked."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import ForecastPPO, ForecastSettings
from agents.risk import SOURCES, FailureRisk
from agents.risk.base import log_action_probability
from agents.risk.direct import DirectGradient
from agents.risk.flow import risk_to_come, without_own
from agents.task_memory import VisitedStates
from envs import GridVecEnv, RecolorWorld, SlipWorld, exact_risk
from envs.gridworld.world import GridWorld
from tests.agents.helpers import MANY, PAPER, ROLLOUT, bridges, callback_of, grid

# More tasks than a rollout gets through: of a task begun a second time only those episodes would count that ended
# in time, and they are the short ones.
N_TASKS, EPISODES = 100, 200


def _played(source: Any, world: GridWorld) -> ForecastPPO:
    """An agent that has played every task often and learned nothing: its learning rate is 0."""
    env = GridVecEnv(world, np.arange(N_TASKS), 200, EPISODES, seed=0)
    arguments: dict[str, Any] = {"learning_rate": 0.0, "n_steps": 300, "batch_size": 200 * 300, "n_epochs": 1}
    settings = ForecastSettings(coef=0.0, anchor_coef=0.0, risk=source, episodes_per_task=EPISODES)
    model = ForecastPPO("MlpPolicy", env, **arguments, settings=settings, seed=1, device="cpu").learn(1)
    memory = callback_of(model).memory
    assert 15 < len(memory.task_id) < N_TASKS
    assert (memory.episodes == EPISODES).all()
    return model


def _psi(model: ForecastPPO) -> torch.Tensor:
    callback = callback_of(model)
    return callback.source.psi(model.policy, callback.memory)


def _exact_p(model: ForecastPPO, world: GridWorld) -> torch.Tensor:
    tasks = world.tasks(callback_of(model).memory.task_id)
    return exact_risk(world, tasks, lambda seen: log_action_probability(model.policy, seen)).p


def _actor(model: ForecastPPO) -> list[torch.nn.Parameter]:
    return [p for name, p in model.policy.named_parameters() if "value_net" not in name]


def _gradients_of_p(model: ForecastPPO, world: GridWorld, c: torch.Tensor) -> list[NDArray[np.float64]]:
    """Estimated and exact gradient of sum_i c_i p_i."""
    callback = callback_of(model)
    memory, source = callback.memory, callback.source
    p = (-(-_psi(model)).exp()).exp()
    # Weights by psi that turn the gradient into one of p; Jeffreys shrinks the estimate by a known factor.
    weight = c * p * -p.log()
    if isinstance(source, FailureRisk):
        weight *= torch.as_tensor((memory.episodes + 1) / memory.episodes)
    loss = source.score_gradient(model.policy, memory, weight).loss(model.policy)
    exact = (c * _exact_p(model, world)).sum()
    gradients = (torch.autograd.grad(value, _actor(model)) for value in (loss, exact))
    return [np.concatenate([g.double().numpy().ravel() for g in gradient]) for gradient in gradients]


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
    # An episode's risk is a sum over steps and may exceed 1, so near certain failure it scatters more than a flag.
    standard_error = np.sqrt(exact / EPISODES) + 1e-9 + (source == "failures") / EPISODES
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
        c = torch.as_tensor(np.random.default_rng(0).uniform(0.5, 1.5, len(_psi(model))))
        estimate, exact = _gradients_of_p(model, its_world, c)
        cosine[name] = estimate @ exact / np.linalg.norm(estimate) / np.linalg.norm(exact)
        size[name] = estimate @ exact / (exact @ exact)
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


def test_a_task_at_certain_failure_keeps_a_gradient() -> None:
    model = ForecastPPO("MlpPolicy", bridges(1), device="cpu")
    state = {"observation": np.array([[0, 0.2]], np.float32), "fatal": np.array([[0, 1]], np.float32)}
    visited = VisitedStates({"task": np.array([0]), "weight": np.array([1.0])} | state)
    bias: Any = model.policy.action_net.bias
    with torch.no_grad():
        bias += torch.tensor([0.0, 8.0])
    loss = DirectGradient(model.policy, visited, torch.ones(1).double()).loss(model.policy)
    assert abs(float(torch.autograd.grad(loss, bias)[0][1])) > 0.01


def test_an_episode_is_compared_with_the_other_episodes_of_its_task() -> None:
    """One of two failed: what it did is credited with 1 - 0, what the other did with 0 - 1."""
    policy = ForecastPPO("MlpPolicy", bridges(1), device="cpu").policy
    seen = np.array([[0, 0.2], [0.4, 0.2]], np.float32)
    log_pi = log_action_probability(policy, torch.as_tensor(seen))
    taken = log_pi[0, 1], log_pi[1, 0]
    rows = {"task": np.array([0, 0]), "failure": np.array([1.0, 0.0]), "weight": np.array([0.5, 0.5])}
    rows |= {"observation": seen, "action": np.array([[1], [0]]), "log_prob": torch.stack(taken).detach().numpy()}
    memory: Any = SimpleNamespace(new=VisitedStates(rows), episodes=np.array([2]), failure_rate=np.array([0.5]))
    loss = FailureRisk().score_gradient(policy, memory, torch.ones(1).double()).loss(policy)
    # d psi / d p at the score's p = (1 + 1/2) / (2 + 1), which moves by 2/3 of the failure rate.
    expected = 2 / 3 / (0.5 * np.log(2)) * (taken[0] - taken[1]) / 2
    bias: Any = policy.action_net.bias
    torch.testing.assert_close(*(torch.autograd.grad(value, bias)[0] for value in (loss, expected)))


def test_the_flow_source_remembers_no_more_than_the_direct_one(agents: Any) -> None:
    direct, flow = (cast("Any", callback_of(agents[name, "recolor"][0]).memory) for name in ("direct", "flow"))
    assert set(flow.scored.columns) == set(direct.scored.columns) == {"task", "observation", "fatal", "weight"}
    assert len(flow.scored) == len(direct.scored)
    assert len(flow.new) > 5 * len(flow.scored)


@pytest.mark.parametrize("source", ["flow", "exact"])
def test_other_sources_train_with_the_forecast(source: Any) -> None:
    model = ForecastPPO("MlpPolicy", grid(), **MANY, settings=replace(PAPER, risk=source))
    norms = callback_of(model.learn(ROLLOUT * 3)).update.grad_norms
    assert norms
    assert np.isfinite(norms).all()


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
        info = {"task_id": self.task_id} | ({"failure": failure} if self._says_failure else {})
        return np.array([self.task_id / 40], np.float32), 0.1 * speed, True, False, info


def _drives(space: spaces.Space[Any], says_failure: bool = True) -> DummyVecEnv:
    return DummyVecEnv([lambda: _Drive(space, says_failure) for _ in range(16)])


BOX = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)
SPACES: list[spaces.Space[Any]] = [spaces.Discrete(2), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), BOX]


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "several", "bits", "box"])
def test_failures_are_enough_for_any_action_space(space: spaces.Space[Any]) -> None:
    """A penalty on the mean risk, estimated from failures alone, lowers it; plain PPO raises it for its reward."""

    def speed(settings: ForecastSettings | None) -> float:
        arguments: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 4, "learning_rate": 1e-2}
        model = ForecastPPO("MlpPolicy", _drives(space), **arguments, settings=settings).learn(16 * 64 * 6)
        action, _ = model.predict(np.linspace(0.3, 1, 500, dtype=np.float32)[:, None])
        return float(np.clip(action.reshape(500, -1).mean(axis=1), 0, 1).mean())

    limits: dict[str, Any] = {"interval": 1, "max_grad_norm": 10.0, "max_grad_ratio": None}
    penalty = ForecastSettings(coef=0.0, anchor_coef=0.0, risk="failures", n_known_tasks=40, **limits)
    assert speed(penalty) < 0.5 * speed(None)


@pytest.mark.parametrize(
    ("make_env", "source", "anchor_coef", "message"),
    [
        (
            lambda: _drives(BOX),
            "direct",
            0.0,
            "needs a Discrete.*risk='failures' takes any.*settings=None is plain",
        ),
        (lambda: _drives(BOX), "flow", 0.0, "needs a Discrete.*risk='failures' takes any"),
        (lambda: _drives(BOX), "exact", 0.0, "needs a Discrete.*risk='failures' takes any"),
        (lambda: _drives(BOX), "failures", 1.0, "risk='failures' cannot tell: set anchor_coef=0"),
        (lambda: _drives(BOX, False), "failures", 0.0, "must carry 'failure'"),
        (lambda: _drives(spaces.Discrete(2)), "flow", 0.0, "risk='flow' needs fatal_probability.*risk='failures'"),
        (lambda: bridges(1), "exact", 0.0, "needs an environment with log_failure_probability"),
        (lambda: VecNormalize(grid(1)), "exact", 0.0, "no wrapper that changes observations"),
    ],
)
def test_what_a_source_needs_is_said_before_training(
    make_env: Any, source: Any, anchor_coef: float, message: str
) -> None:
    settings = ForecastSettings(risk=source, anchor_coef=anchor_coef)
    with pytest.raises(ValueError, match=message):
        ForecastPPO("MlpPolicy", make_env(), n_steps=8, batch_size=8, device="cpu", settings=settings).learn(8)
