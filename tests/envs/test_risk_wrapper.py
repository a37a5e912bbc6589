"""RiskWrapper: the contract around environments that know nothing of it, against their own state and tables."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import gymnasium
import minigrid
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map
from gymnasium.utils.env_checker import check_env, data_equivalence
from minigrid.wrappers import FlatObsWrapper, ImgObsWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from agents import ForecastPPO
from agents.simulation import simulate_tasks
from envs import RiskWrapper, disjoint_splits
from rl_forecast.loss.settings import ForecastSettings
from rl_forecast.tasks import SPLITS

gymnasium.register_envs(minigrid)
SMALL: dict[str, Any] = {"batch_size": 64, "n_epochs": 1, "seed": 0, "device": "cpu"}
LAVA = ["MiniGrid-LavaGapS5-v0", "MiniGrid-LavaCrossingS9N1-v0", "MiniGrid-DistShift1-v0"]


def fell(env: Any, observation: Any, reward: Any, terminated: bool, *_: Any) -> bool:
    """FrozenLake: it ended without the reward of the goal."""
    return bool(terminated and reward == 0)


def too_fast(env: Any, observation: Any, *_: Any) -> bool:
    return bool(abs(observation[1]) > 0.3)


class Lake(FrozenLakeEnv):
    """FrozenLake whose map is drawn at reset, as a task should be."""

    def __init__(self) -> None:
        super().__init__(desc=generate_random_map(4, seed=0))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        layout = generate_random_map(4, seed=int(self.np_random.integers(2**31)))
        fresh = FrozenLakeEnv(desc=layout)
        self.desc, self.P = fresh.desc, fresh.P
        return self.s, {"prob": 1}


class Costly(gymnasium.Env[Any, Any]):
    """Action 1 costs one; the Safety-Gymnasium convention."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.random(1).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        return self.np_random.random(1).astype(np.float32), 0.0, False, False, {"cost": float(action)}


def costly(**settings: Any) -> RiskWrapper:
    return RiskWrapper(
        gymnasium.wrappers.TimeLimit(Costly(), 10), failure="cost", cost_limit=2.0, fatal="lookahead", **settings
    )


def lake(**settings: Any) -> RiskWrapper:
    return RiskWrapper(gymnasium.wrappers.TimeLimit(Lake(), 50), fell, "table", **settings)


def lava(name: str = LAVA[0], **settings: Any) -> RiskWrapper:
    return RiskWrapper(ImgObsWrapper(gymnasium.make(name, disable_env_checker=True)), **settings)


def _episode(env: gymnasium.Env[Any, Any], rng: np.random.Generator, **reset: Any) -> tuple[list[Any], dict[str, Any]]:
    """Observations and fatal probabilities of a random episode, and its last info."""
    observation, info = env.reset(**reset)
    track = [(observation, info["fatal_probability"])]
    while True:
        observation, _, terminated, truncated, info = env.step(int(rng.integers(env.action_space.n)))  # type: ignore[attr-defined]
        track.append((observation, info["fatal_probability"]))
        if terminated or truncated:
            return track, info


@pytest.mark.parametrize("name", LAVA)
def test_lava_is_recognised_and_its_fatal_action_is_what_kills(name: str) -> None:
    env = lava(name)
    rng, deaths = np.random.default_rng(0), 0
    for task in range(40):
        _, info = env.reset(options={"task_id": task})
        for _ in range(60):
            action = int(rng.choice([0, 1, 2, 2]))
            announced = info["fatal_probability"][action]
            assert env.fatal_probability()[action] == announced
            _, reward, terminated, truncated, info = env.step(action)
            # MiniGrid ends an episode in lava and at the goal; only the goal is rewarded.
            assert announced == float(terminated and reward == 0)
            if terminated or truncated:
                assert info["task_id"] == task
                assert info["failure"] == bool(announced) == (info["risk"] == 1.0)
                assert info["is_success"] == (reward > 0)
                deaths += info["failure"]
                break
    assert deaths > 0


@pytest.mark.parametrize("make", [lava, lake, costly])
def test_a_task_is_the_reset_seed_and_its_noise_is_fresh(make: Any) -> None:
    env = make()
    first = [env.reset(seed=s, options={"task_id": 17})[0] for s in (0, 1)]
    assert data_equivalence(first[0], first[1])
    again = [_episode(make(), np.random.default_rng(0), seed=5, options={"task_id": 17}) for _ in range(2)]
    assert data_equivalence(again[0], again[1])
    if make is not lava:  # whose moves are certain
        paths = [_episode(env, np.random.default_rng(0), options={"task_id": 17})[0] for _ in range(10)]
        assert not all(data_equivalence(paths[0], path) for path in paths)


def test_table_equals_lookahead_on_average_and_outcomes_agree_with_the_risk() -> None:
    def short(fatal: Any) -> RiskWrapper:
        return RiskWrapper(gymnasium.wrappers.TimeLimit(Lake(), 30), fell, fatal)

    for fatal in ("table", "lookahead"):
        env, rng, surprise, variance = short(fatal), np.random.default_rng(0), 0.0, 0.0
        for episode in range(30):
            _, last = _episode(env, rng, options={"task_id": episode})
            surprise += last["failure"] - last["risk"]
            variance += last["risk"]
        # Failure minus risk is a martingale; its variance is at most the sum of the announced probabilities.
        assert abs(surprise) < 4 * np.sqrt(variance)
        if fatal == "lookahead":
            assert surprise == 0  # the copy draws what the environment will draw


def test_cost_fails_above_the_limit_once_and_not_before() -> None:
    env = costly()
    env.reset(seed=0)
    for step in range(10):
        *_, truncated, info = env.step(1)
        # Two are within the limit: the third is fatal, and after it nothing is.
        assert info["fatal_probability"].tolist() == ([0.0, 1.0] if step == 1 else [0.0, 0.0])
    assert truncated
    assert (info["failure"], info["risk"], info["is_success"]) == (True, 1.0, False)


def test_tasks_are_drawn_from_a_pool_and_played_in_a_row() -> None:
    env = costly(n_tasks=5, episodes_per_task=3, split="validation")
    played = [
        _episode(env, np.random.default_rng(i), **({"seed": 0} if i == 0 else {}))[1]["task_id"] for i in range(60)
    ]
    assert all(len(set(played[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert 2 < len(set(played)) <= 5
    assert set(played) <= set(SPLITS["validation"].task_ids(5, 0).tolist())
    own = costly(split=range(100, 104))
    assert {_episode(own, np.random.default_rng(0))[1]["task_id"] for _ in range(20)} <= set(range(100, 104))


@pytest.mark.parametrize("make", [lava, lake, costly])
def test_checkers_of_gymnasium_and_stable_baselines(make: Any) -> None:
    with warnings.catch_warnings():
        # Said of every wrapped environment; and SB3's advice on images is about CnnPolicy.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        warnings.filterwarnings("ignore", message=".*minimal resolution for an image")
        # MiniGrid's wrappers cannot be made again from a spec, which Gymnasium's checker does: without them there.
        plain = RiskWrapper(gymnasium.make(LAVA[0])) if make is lava else make()
        check_env(plain, skip_render_check=True)
        sb3_check_env(make())


def test_pickled_in_the_middle_it_goes_on_alike() -> None:
    env = lake()
    env.reset(seed=1)
    twin = pickle.loads(pickle.dumps(env))
    rng = [np.random.default_rng(0) for _ in range(2)]
    assert data_equivalence(_episode(env, rng[0]), _episode(twin, rng[1]))
    assert repr(env.spec) == repr(twin.spec)


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_trains_in_vectorised_normalised_monitored_environments(kind: str) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        inner = gymnasium.make(LAVA[0], max_steps=30, disable_env_checker=True)
        return Monitor(RiskWrapper(FlatObsWrapper(inner)))

    if kind == "dummy":
        venv: Any = DummyVecEnv([make] * 2)
    else:
        venv = SubprocVecEnv([make] * 2, start_method="forkserver")
    try:
        settings = ForecastSettings(tail_k=2, n_eval=10, n_deploy=20, anchor_coef=0.0)
        model = ForecastPPO("MlpPolicy", VecNormalize(venv), settings=settings, **SMALL, n_steps=128).learn(256)
    finally:
        venv.close()
    assert model.forecastability is not None
    known = model.forecastability.memory.task_id
    assert len(known) > 3
    assert (known < SPLITS["train"].stop).all()


def test_simulated_risk_is_the_failure_rate_within_its_error() -> None:
    model = PPO("MlpPolicy", DummyVecEnv([lake]), **SMALL)
    tasks = np.arange(30)
    outcome = simulate_tasks(model.policy, lake, tasks, episodes_per_task=10, seed=1)
    assert outcome.task_id is tasks
    # Both are unbiased for the same probability; a Bernoulli of 300 episodes has a standard error of at most 0.03.
    assert abs(outcome.risk.mean() - outcome.failure.mean()) < 0.12
    assert np.isfinite(outcome.psi[outcome.risk > 0]).all()

    class Asked(gymnasium.Wrapper[Any, Any, Any, Any]):
        """Has the method and says nothing in its infos."""

        def reset(self, **kwargs: Any) -> Any:
            return super().reset(**kwargs)[0], {}

        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return *rest, {key: value for key, value in info.items() if key != "fatal_probability"}

    again = simulate_tasks(model.policy, lambda: Asked(lake()), tasks, episodes_per_task=10, seed=1)
    assert np.array_equal(outcome.risk, again.risk)


def test_no_fatal_actions_no_risk_and_the_agent_says_what_to_give() -> None:
    def make() -> RiskWrapper:
        return RiskWrapper(gymnasium.make("CartPole-v1", disable_env_checker=True), too_fast)

    env = make()
    assert "fatal_probability" not in env.reset(seed=0)[1]
    assert not env.has_wrapper_attr("fatal_probability")
    model = ForecastPPO("MlpPolicy", DummyVecEnv([make]), **SMALL, n_steps=64)
    with pytest.raises(ValueError, match=r"fatal_probability.*fatal="):
        model.learn(64)
    assert model.num_timesteps == 0  # refused before a rollout is spent
    ForecastPPO("MlpPolicy", DummyVecEnv([make]), settings=None, **SMALL, n_steps=64).learn(64)


def test_an_environments_own_method_is_asked() -> None:
    class Known(Costly):
        def fatal_probability(self) -> np.ndarray:
            return np.array([0.0, 0.25], np.float32)

    def unlucky(env: Any, observation: Any, *_: Any) -> bool:
        return bool(observation[0] < 0.25)

    env = RiskWrapper(gymnasium.wrappers.TimeLimit(Known(), 10), unlucky)
    _, info = env.reset(seed=0)
    assert info["fatal_probability"].tolist() == env.fatal_probability().tolist() == [0.0, 0.25]
    ends = [env.step(1)[-1]["fatal_probability"].tolist() for _ in range(10)]
    assert ends[-1] == env.fatal_probability().tolist() == [0.0, 0.0]


def test_a_shaped_reward_does_not_turn_dying_into_success() -> None:
    class Bonus(gymnasium.RewardWrapper[Any, Any]):
        def reward(self, reward: Any) -> float:
            return float(reward) + 0.02

    env = RiskWrapper(Bonus(gymnasium.make("MiniGrid-LavaGapS7-v0")))
    ends = []
    for task in range(200):
        env.reset(options={"task_id": task})
        done, info = False, {}
        while not done:
            _, _, terminated, truncated, info = env.step(2)
            done = terminated or truncated
        ends.append((info["failure"], info["is_success"]))
    assert (True, False) in ends
    assert (True, True) not in ends


def _cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", disable_env_checker=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"what counts as a failure in .*CartPole.* give failure=f"),
        ({"failure": "lava"}, "for MiniGrid environments"),
        ({"failure": "costs"}, "did you mean 'cost'"),
        ({"failure": "cost"}, "failure='cost' and cost_limit go together"),
        ({"failure": too_fast, "cost_limit": 1.0}, "go together"),
        ({"failure": too_fast, "fatal": "tables"}, "did you mean 'table'"),
        ({"failure": too_fast, "fatal": "table"}, "needs a transition table"),
        ({"failure": too_fast, "split": "heldout"}, "did you mean 'held_out'"),
        ({"failure": too_fast, "split": range(-3, 5)}, "consecutive ids"),
        ({"failure": too_fast, "split": range(5), "n_tasks": 6}, r"n_tasks must be in \[1, 5\]"),
        ({"failure": too_fast, "episodes_per_task": 0}, "episodes_per_task must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        RiskWrapper(_cartpole(), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", [-1, 2.5, "3", True, None, 2**31])
def test_unknown_task_ids_are_refused(task: Any) -> None:
    with pytest.raises(ValueError, match=r"non-negative integer|not in split 'train'"):
        costly().reset(options={"task_id": task})


def test_overlapping_splits_are_refused() -> None:
    splits = disjoint_splits(train=range(100), held_out=range(100, 200))
    assert list(splits) == ["train", "held_out"]
    with pytest.raises(ValueError, match=r"'train' and 'held_out' overlap: both hold task 50"):
        disjoint_splits(held_out=range(50, 200), train=range(100))


@pytest.mark.parametrize("wrong", [[0.0], [0.0, 2.0], [0.0, np.nan], 0.5])
def test_wrong_fatal_probabilities_are_refused(wrong: Any) -> None:
    env = RiskWrapper(_cartpole(), too_fast, fatal=lambda _: wrong)
    with pytest.raises(ValueError, match="2 probabilities, one per action"):
        env.reset()


def test_environments_that_cannot_be_wrapped_say_why() -> None:
    with pytest.raises(ValueError, match="Discrete action space"):
        RiskWrapper(gymnasium.make("Pendulum-v1"), too_fast, fatal="lookahead")
    with pytest.raises(ValueError, match="follows the risk contract already"):
        RiskWrapper(gymnasium.make("envs:RiskGrid/Recolor-v0"))
    costless = RiskWrapper(_cartpole(), "cost", cost_limit=1.0)
    costless.reset(seed=0)
    with pytest.raises(ValueError, match=r"needs info\['cost'\]"):
        costless.step(0)
