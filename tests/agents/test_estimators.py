"""Estimators of task risk against dynamic programming: values, gradients, and what each can be asked."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.forecast_ppo import ForecastPPO
from agents.risk import ESTIMATORS, DirectEstimator, FailuresEstimator, FlowEstimator
from agents.risk.base import log_action_probability
from agents.risk.direct import DirectSurrogate
from agents.risk.played import risk_to_come, without_own
from agents.task_memory import RiskLedger, RiskRows
from envs import GridVecEnv, RecolorWorld, SlipWorld, exact_risk
from envs.gridworld.world import GridWorld
from tests.agents.contract_env import Bridge

# More tasks than a rollout gets through: of a task begun a second time only those episodes would count that ended
# in time, and they are the short ones.
N_TASKS, EPISODES = 100, 200


def _played(
    estimator: str, world: GridWorld, episodes: int = EPISODES, n_steps: int = 300, **settings: Any
) -> ForecastPPO:
    """An agent that has played every task often and learned nothing: its learning rate is 0."""
    env = GridVecEnv(world, np.arange(N_TASKS), 200, episodes, seed=0)
    arguments = {"learning_rate": 0.0, "n_steps": n_steps, "batch_size": 200 * n_steps, "n_epochs": 1, "seed": 1}
    term = {"risk_estimator": estimator, "episodes_per_task": episodes, "risk_coef": 1.0, "forecast_coef": 0.0}
    model = ForecastPPO("MlpPolicy", env, **arguments, **term, **settings, device="cpu")  # type: ignore[arg-type]
    model.learn(1)
    assert 15 < len(model.known_task_ids) < N_TASKS
    assert (model._term.ledger.episodes == episodes).all()
    return model


def _exact_p(model: ForecastPPO, world: GridWorld) -> torch.Tensor:
    tasks = world.tasks(model.known_task_ids)
    return exact_risk(world, tasks, lambda seen: log_action_probability(model.policy, seen)).p


def _actor(model: ForecastPPO) -> list[torch.nn.Parameter]:
    return [p for name, p in model.policy.named_parameters() if "value_net" not in name]


def _flat(gradients: Any) -> NDArray[np.float64]:
    return np.concatenate([g.detach().double().numpy().ravel() for g in gradients])


def _gradients_of_p(model: ForecastPPO, world: GridWorld, c: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Estimated and exact gradient of sum_i c_i p_i."""
    ledger, estimator = model._term.ledger, model._term.estimator
    p = np.exp(-np.exp(-estimator.psi(model.policy, ledger)))
    # Weights by psi that make the surrogate's gradient one of p; Jeffreys shrinks the estimate by a known factor.
    weight = c * p * -np.log(p)
    if isinstance(estimator, FailuresEstimator):
        weight *= (ledger.episodes + 1) / ledger.episodes
    loss = estimator.surrogate(model.policy, ledger, weight).loss(model.policy)
    exact = (torch.as_tensor(c) * _exact_p(model, world)).sum()
    return [_flat(torch.autograd.grad(value, _actor(model))) for value in (loss, exact)]


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def agents() -> dict[tuple[str, str], tuple[ForecastPPO, GridWorld]]:
    worlds: dict[str, GridWorld] = {"recolor": RecolorWorld(), "slip": SlipWorld()}
    return {(name, w): (_played(name, world), world) for w, world in worlds.items() for name in ESTIMATORS}


@pytest.mark.parametrize("world", ["recolor", "slip"])
@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_scores_agree_with_exact_risk(agents: Any, estimator: str, world: str) -> None:
    """Every estimate is unbiased: over many episodes it meets the dynamic programme."""
    model, its_world = agents[estimator, world]
    estimate = np.exp(-np.exp(-model._term.estimator.psi(model.policy, model._term.ledger)))
    with torch.no_grad():
        exact = _exact_p(model, its_world).numpy()
    episodes = model._term.ledger.episodes
    # An episode's risk is a sum over steps and may exceed 1, so near certain failure it scatters more than a flag.
    standard_error = np.sqrt(exact / episodes) + 1e-9 + (estimator == "failures") / episodes
    z = (estimate - exact) / standard_error
    assert np.abs(z).max() < 6
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    if estimator == "exact":
        np.testing.assert_allclose(estimate, exact, rtol=1e-6)


@pytest.mark.parametrize("world", ["recolor", "slip"])
def test_gradients_agree_with_the_exact_one_as_far_as_promised(agents: Any, world: str) -> None:
    cosine, size = {}, {}
    for name in ESTIMATORS:
        model, its_world = agents[name, world]
        c = np.random.default_rng(0).uniform(0.5, 1.5, len(model.known_task_ids))
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


def test_the_control_variate_leaves_the_mean_and_lowers_the_scatter() -> None:
    """One state, two actions, one fatal: everything is known in closed form."""
    rng = np.random.default_rng(0)
    q, episodes = 0.3, 8
    score = np.array([-q, 1 - q])  # d log pi(a) / d logit of the fatal action
    plain, controlled = [], []
    for _ in range(4000):
        failed = (rng.random(episodes) < q).astype(float)
        gradient = score[failed.astype(int)]
        others = (failed.sum() - failed) / (episodes - 1)
        plain.append((failed * gradient).mean())
        controlled.append(((failed - others) * gradient).mean())
        np.testing.assert_allclose(
            failed - without_own(np.zeros(episodes, np.int64), failed, np.full(episodes, episodes)), failed - others
        )
    assert np.mean(controlled) == pytest.approx(q * (1 - q), abs=0.003)
    assert np.mean(plain) == pytest.approx(q * (1 - q), abs=0.005)
    assert np.var(controlled) < 0.7 * np.var(plain)


def test_risk_to_come_is_that_of_later_steps_of_the_same_episode() -> None:
    episode = np.array([4, 2, 4, 2, 4, 9])
    rows = RiskRows(np.zeros(6, np.int64), {"episode": episode, "weight": np.ones(6)})
    to_come, time = risk_to_come(rows, np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    np.testing.assert_allclose(to_come, [0.8, 0.4, 0.5, 0.0, 0.0, 0.0], atol=1e-15)
    assert time.tolist() == [0, 0, 1, 1, 2, 0]


def test_surrogate_gradient_is_the_weighted_gradient_of_psi(agents: Any) -> None:
    model, _ = agents["direct", "recolor"]
    ledger = model._term.ledger
    rows = ledger.rows
    risk = np.exp(-np.exp(-model._term.estimator.psi(model.policy, ledger)))
    # An untrained policy has estimates near and above 1, where the surrogate's factor is clamped on purpose.
    weight = np.random.default_rng(0).normal(size=len(risk)) * (risk < 0.9)
    gradient = torch.autograd.grad(DirectSurrogate(model.policy, rows, weight).loss(model.policy), _actor(model))

    # Independent: psi of every task, differentiated by autograd as it stands.
    pi = log_action_probability(model.policy, torch.as_tensor(rows.observation)).exp()
    at_risk = (pi * torch.as_tensor(rows.fatal)).sum(dim=1) * torch.as_tensor(rows.weight, dtype=torch.float32)
    p = torch.zeros(len(risk)).index_add(0, torch.as_tensor(rows.owner), at_risk)
    touched = torch.as_tensor(weight != 0).nonzero().ravel()
    assert len(touched) > 10
    psi = -torch.log(-torch.log(p[touched]))
    expected = torch.autograd.grad((torch.as_tensor(weight, dtype=torch.float32)[touched] * psi).sum(), _actor(model))
    for a, b in zip(gradient, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_task_at_certain_failure_keeps_a_gradient() -> None:
    model = ForecastPPO("MlpPolicy", DummyVecEnv([Bridge]), device="cpu")
    ledger = RiskLedger(1, 10, DirectEstimator().condense)
    steps = {
        "observation": np.array([[[0.0, 0.2]]], np.float32),
        "fatal": np.array([[[0.0, 1.0]]], np.float32),
    }
    ledger.ingest(steps, np.array([[True]]), np.array([[True]]), np.array([[5]]), np.array([[1.0]]))
    bias: Any = model.policy.action_net.bias
    with torch.no_grad():
        bias += torch.tensor([0.0, 8.0])
    assert ledger.rows is not None
    DirectSurrogate(model.policy, ledger.rows, np.ones(1)).loss(model.policy).backward()
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
def test_failures_will_do_for_any_action_space(space: spaces.Space[Any]) -> None:
    """A penalty on the mean risk, estimated from failures alone, lowers it; plain PPO raises it for its reward."""

    def mean_risk(risk_coef: float) -> float:
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
            forecast_coef=0.0,
            risk_coef=risk_coef,
            risk_estimator="failures",
            forecast_interval=1,
            forecast_max_grad_norm=10.0,
            forecast_max_grad_ratio=None,
            n_known_tasks=40,
        )
        model.learn(16 * 64 * 8)
        env.seed(1)
        failures, observation = [], env.reset()
        for _ in range(30):
            observation, _, _, infos = env.step(model.predict(observation)[0])
            failures += [info["failure"] for info in infos]
        return float(np.mean(failures))

    assert mean_risk(100.0) < 0.5 * mean_risk(0.0)


def test_what_an_estimator_needs_is_said_before_training() -> None:
    box = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)
    for name in ("direct", "flow", "exact"):
        with pytest.raises(ValueError, match=rf"risk_estimator='{name}' needs a Discrete.*'failures' takes any"):
            ForecastPPO("MlpPolicy", DummyVecEnv([lambda: _Drive(box)]), risk_estimator=name, device="cpu")
    silent = DummyVecEnv([lambda: _Drive(spaces.Discrete(2), says_failure=False)])
    arguments: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu"}
    with pytest.raises(ValueError, match="must carry 'failure'"):
        ForecastPPO("MlpPolicy", silent, risk_estimator="failures", **arguments).learn(8)
    with pytest.raises(ValueError, match=r"'flow' needs an environment whose infos carry.*risk_estimator='failures'"):
        ForecastPPO("MlpPolicy", silent, risk_estimator="flow", **arguments).learn(8)
    with pytest.raises(ValueError, match="needs an environment with log_failure_probability"):
        ForecastPPO("MlpPolicy", DummyVecEnv([Bridge]), risk_estimator="exact", **arguments).learn(8)
    grid = GridVecEnv(RecolorWorld(), np.arange(10), 2)
    with pytest.raises(ValueError, match="no wrapper that changes observations"):
        ForecastPPO("MlpPolicy", VecNormalize(grid), risk_estimator="exact", **arguments).learn(8)


def _forecasting(estimator: str) -> ForecastPPO:
    env = GridVecEnv(RecolorWorld(rare_probability=0.1), np.arange(3000), 64, seed=2)
    settings: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 300}
    return ForecastPPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=512,
        n_epochs=1,
        seed=3,
        device="cpu",
        risk_estimator=estimator,
        **settings,
    )


@pytest.mark.parametrize("estimator", ["flow", "exact"])
def test_other_estimators_train_with_the_forecast(estimator: str) -> None:
    model = _forecasting(estimator)
    model.learn(64 * 32 * 3)
    assert len(model.known_task_ids) > 200
    assert model._term.grad_norms
    assert np.isfinite(model._term.grad_norms).all()


def test_a_forecast_from_single_failures_says_that_it_does_nothing() -> None:
    model = _forecasting("failures")
    with pytest.warns(UserWarning, match=r"share 2 scores, so no line fits.*use risk_coef"):
        model.learn(64 * 32 * 3)
    assert not model._term.grad_norms


def test_the_flow_estimate_remembers_no_more_than_the_direct_one(agents: Any) -> None:
    direct, flow = (agents[name, "recolor"][0]._term.ledger for name in ("direct", "flow"))
    assert isinstance(agents["flow", "recolor"][0]._term.estimator, FlowEstimator)
    assert set(flow.rows.columns) == set(direct.rows.columns) == {"observation", "fatal", "weight"}
    assert len(flow.rows) == len(direct.rows)
    assert len(flow.fresh) > 5 * len(flow.rows)
