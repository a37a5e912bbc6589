"""ForecastPPO: nothing changes without the term, and with it exactly what is promised."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from agents.baselines import LagrangianPPO
from agents.forecast_ppo import ForecastPPO
from agents.forecast_ppo.risk_tape import has_risk_contract
from agents.ppo import _constructor_arguments
from agents.risk.base import log_action_probability
from agents.task_memory import flat_observation
from envs import GridVecEnv, RecolorWorld
from tests.agents.contract_env import Bridge

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 3, "device": "cpu"}
# Enough episodes that the term has tasks to compare, in few minibatches.
MANY: dict[str, Any] = SMALL | {"batch_size": 512}
TERM: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 500}


def _grid(n_envs: int = 16, episodes_per_task: int = 1) -> GridVecEnv:
    return GridVecEnv(RecolorWorld(rare_probability=0.1), np.arange(3000), n_envs, episodes_per_task, seed=2)


def _bridges(n_envs: int = 8, **settings: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Bridge(**settings) for _ in range(n_envs)])


def _weights(model: PPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("settings", [{}, {"target_kl": 0.01}, {"ent_coef": 0.01, "clip_range_vf": 0.2}])
@pytest.mark.parametrize("with_contract", [True, False])
def test_coefficient_zero_is_bit_identical_to_ppo(settings: dict[str, Any], with_contract: bool) -> None:
    weights = []
    for algorithm, extra in ((PPO, {}), (ForecastPPO, {"forecast_coef": 0.0, **TERM})):
        env: VecEnv = _grid() if with_contract else _bridges(with_contract=False)
        model = algorithm("MlpPolicy", env, **SMALL, **settings, **extra)
        model.learn(1500)
        weights.append(_weights(model))
    assert _equal(*weights)


@pytest.mark.parametrize(
    "settings",
    [
        {"forecast_coef": 1.0},
        {"risk_coef": 1.0, "risk_penalty": "mean_risk"},
        {"risk_coef": 1.0, "risk_penalty": "cvar"},
        {"risk_coef": 0.1, "risk_penalty": "top_log_risk"},
        {"anchor_coef": 100.0},
        {"risk_limit": 1e-3},
    ],
)
def test_every_term_changes_what_is_learned(settings: dict[str, Any]) -> None:
    plain = ForecastPPO("MlpPolicy", _grid(64), **MANY, forecast_coef=0.0)
    algorithm = LagrangianPPO if "risk_limit" in settings else ForecastPPO
    model = algorithm("MlpPolicy", _grid(64), **MANY, **TERM, **({"forecast_coef": 0.0} | settings))
    for m in (plain, model):
        m.learn(64 * 32 * 4)
    assert not _equal(_weights(plain), _weights(model))


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    def train(seed: int) -> dict[str, torch.Tensor]:
        model = ForecastPPO("MlpPolicy", _grid(64), **MANY | {"seed": seed}, **TERM)
        model.learn(64 * 32 * 4)
        return _weights(model)

    assert _equal(train(1), train(1))
    assert not _equal(train(1), train(2))


# -- the contract ---------------------------------------------------------------------------------------------------


def test_learn_without_the_contract_says_what_is_missing() -> None:
    model = ForecastPPO("MlpPolicy", _bridges(with_contract=False), **SMALL)
    with pytest.raises(ValueError, match=r"fatal_probability.*forecast_coef=0"):
        model.learn(100)


def test_an_episode_that_does_not_name_its_task_is_refused() -> None:
    class Nameless(Bridge):
        def step(self, action: np.int64) -> Any:
            *result, info = super().step(action)
            return *result, {"fatal_probability": info["fatal_probability"]}

    model = ForecastPPO("MlpPolicy", DummyVecEnv([Nameless]), **SMALL)
    with pytest.raises(ValueError, match="must carry 'task_id'"):
        model.learn(100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forecast_coef": -1.0}, "forecast_coef must not be negative"),
        ({"forecast_interval": 0}, "forecast_interval must be at least 1"),
        ({"episodes_per_task": 0}, "episodes_per_task must be at least 1"),
        ({"forecast_max_grad_norm": 0.0}, "forecast_max_grad_norm must be positive"),
        ({"error_space": "p"}, "error.space"),
        ({"forecast_gradient": "stop_forecast"}, "stop_forecast"),
        ({"tail_k": 1}, "tail_k >= 2"),
        ({"forecast_max_grad_ratio": 0.0}, "forecast_max_grad_ratio must be positive or None"),
        ({"risk_coef": -1.0}, "risk_coef must not be negative"),
        ({"anchor_coef": -1.0}, "anchor_coef must not be negative"),
        ({"risk_penalty": "cvr"}, "unknown risk_penalty 'cvr'"),
        ({"risk_fraction": 0.0}, "risk_fraction must lie in"),
        ({"risk_estimator": "direkt"}, "unknown risk_estimator 'direkt': did you mean 'direct'"),
        ({"risk_estimator": "failures", "anchor_coef": 1.0}, "needs the risk under the anchor"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastPPO("MlpPolicy", _bridges(1), **SMALL, **settings)


def test_continuous_actions_are_refused_with_the_term_only() -> None:
    env = gymnasium.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"forecast_coef=1.0: risk_estimator='direct' needs a Discrete action space"):
        ForecastPPO("MlpPolicy", env, **SMALL)
    with pytest.raises(ValueError, match=r"risk_coef=2.0: .* needs a Discrete action space"):
        ForecastPPO("MlpPolicy", env, **SMALL, forecast_coef=0.0, risk_coef=2.0)
    with pytest.raises(ValueError, match=r"LagrangianPPO: .* needs a Discrete action space"):
        LagrangianPPO("MlpPolicy", env, **SMALL)
    ForecastPPO("MlpPolicy", env, **SMALL, forecast_coef=0.0).learn(64)


class _Spy(BaseCallback):
    """Keeps what the tape and the buffer hold at the end of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, ForecastPPO)
        tape = self.model._term.tape
        observation = copy.deepcopy(self.model.rollout_buffer.observations)
        self.seen.append((observation, tape.fatal.copy(), tape.done.copy(), tape.task_id.copy()))


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_the_tape_is_aligned_with_the_buffer(vec_env: str) -> None:
    make = [lambda: Bridge(n_tasks=50) for _ in range(3)]
    env = DummyVecEnv(make) if vec_env == "dummy" else SubprocVecEnv(make, start_method="forkserver")  # type: ignore[arg-type]
    spy = _Spy()
    try:
        model = ForecastPPO("MlpPolicy", env, **SMALL, **TERM)
        model.learn(200, callback=spy)
        model.learn(200, callback=spy, reset_num_timesteps=False)
    finally:
        env.close()
    assert len(spy.seen) == 6
    for observation, fatal, done, task_id in spy.seen:
        # The observation carries the task's slipperiness, which is the fatal probability of running.
        np.testing.assert_allclose(fatal[..., 1], 10 ** (-6 * observation[..., 1]), rtol=1e-5)
        assert (fatal[..., 0] == 0).all()
        assert ((task_id >= 0) == done).all()
        for step, env_index in zip(*np.nonzero(done), strict=True):
            expected = Bridge.slipperiness(int(task_id[step, env_index]))
            assert fatal[step, env_index, 1] == pytest.approx(expected, rel=1e-5)


def test_arrays_and_infos_are_the_same_contract() -> None:
    assert has_risk_contract(_grid())
    bare = _bridges(2)
    bare.reset()
    assert has_risk_contract(bare)
    assert has_risk_contract(VecNormalize(_grid()))
    without = _bridges(2, with_contract=False)
    without.reset()
    assert not has_risk_contract(without)


def test_trains_behind_vec_normalize() -> None:
    model = ForecastPPO("MlpPolicy", VecNormalize(_bridges(16)), **SMALL, **TERM)
    model.learn(16 * 32 * 4)
    assert len(model.known_task_ids) > 100


class _DictBridge(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The bridge with its two numbers under two keys, and the position once more as an integer."""

    def __init__(self) -> None:
        super().__init__(Bridge())
        part = gymnasium.spaces.Box(0.0, 1.0, shape=(1,), dtype=np.float32)
        place = gymnasium.spaces.Discrete(8)
        self.observation_space = gymnasium.spaces.Dict({"slip": part, "at": part, "place": place})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"at": observation[:1], "slip": observation[1:], "place": round(float(observation[0]) * 7)}


@pytest.mark.parametrize("normalised", [False, True])
def test_dict_observations(normalised: bool) -> None:
    """Every row of memory, seen by the policy, is what the policy saw in the rollout."""
    env: VecEnv = DummyVecEnv([_DictBridge for _ in range(16)])
    env = VecNormalize(env, norm_obs_keys=["at"]) if normalised else env
    model = ForecastPPO("MultiInputPolicy", env, **SMALL, **TERM)
    spy = _Spy()
    model.learn(16 * 32 * 4, callback=spy)
    assert len(model.known_task_ids) > 100
    assert model._term.grad_norms
    observation = spy.seen[0][0]
    with torch.no_grad():
        batch = {key: torch.as_tensor(value[0]) for key, value in observation.items()}
        expected = model.policy.get_distribution(batch).distribution.logits
        flat = torch.as_tensor(flat_observation(observation)[0])
        torch.testing.assert_close(log_action_probability(model.policy, flat), expected)
    if not normalised:
        assert model._term.ledger.rows is not None
        # The space orders its keys by name: at, place, slip.
        rows = model._term.ledger.rows
        np.testing.assert_allclose(rows.fatal[:, 1], 10 ** (-6 * rows.observation[:, 2]), rtol=1e-5)


def test_a_term_without_effect_is_announced() -> None:
    """Tasks that never come again are never complete when four episodes of each are asked for."""
    model = ForecastPPO("MlpPolicy", _bridges(64, n_tasks=10**9), **SMALL, **TERM, episodes_per_task=4)
    with pytest.warns(UserWarning, match="none episodes_per_task=4 times, so the forecast term has no effect"):
        model.learn(64 * 32 * 5)
    assert not model._term.grad_norms


# -- the estimate and its gradient --------------------------------------------------------------------------------


def _weigh(model: ForecastPPO) -> None:
    """Make the term ready to add its gradient, as at the beginning of an update."""
    term = model._term
    psi = term.estimator.psi(model.policy, term.ledger)
    assert term.weight(model.policy, model.anchor, psi, model._objective(), model.logger) is not None
    assert term.surrogate is not None
    term.limit = model._limit()


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_added_gradient_obeys_its_own_norm_limit(limit: float) -> None:
    model = ForecastPPO("MlpPolicy", _grid(64), **MANY, **TERM, forecast_interval=1)
    model.learn(64 * 32 * 3)
    model.forecast_max_grad_norm, model.forecast_max_grad_ratio = limit, None
    _weigh(model)
    assert model._term.surrogate is not None
    loss = model._term.surrogate.loss(model.policy)
    raw = torch.autograd.grad(loss, list(model.policy.parameters()), allow_unused=True)
    raw_norm = torch.nn.utils.get_total_norm([g for g in raw if g is not None])
    for parameter in model.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model._term.add_gradient(model.policy)
    added = torch.nn.utils.get_total_norm([p.grad for p in model.policy.parameters() if p.grad is not None])
    assert float(added) == pytest.approx(min(limit, float(raw_norm)), rel=1e-4)
    for name, parameter in model.policy.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == ("value_net" not in name), "the critic is left alone, the actor is not"


def test_the_added_gradient_is_limited_by_ppos_own() -> None:
    model = ForecastPPO("MlpPolicy", _grid(64), **MANY, **TERM, forecast_interval=1)
    model.learn(64 * 32 * 3)
    model.forecast_max_grad_norm, model.forecast_max_grad_ratio = 1e9, 0.3
    _weigh(model)
    actor = [p for name, p in model.policy.named_parameters() if "value_net" not in name]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.policy.parameters():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator)
    before = [p.grad.clone() for p in actor if p.grad is not None]
    model._term.add_gradient(model.policy)
    added = [p.grad - b for p, b in zip(actor, before, strict=True) if p.grad is not None]
    own = float(torch.nn.utils.get_total_norm(before))
    assert float(torch.nn.utils.get_total_norm(added)) == pytest.approx(0.3 * own, rel=1e-3)
    assert model._term.clip_factors[-1] < 1


class _Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: gymnasium.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=16)
        self.layer = torch.nn.Linear(observation_space.shape[0], 16)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(observation))


class _OwnPolicy(ActorCriticPolicy):
    """A policy class of one's own."""


@pytest.mark.parametrize("shared", [True, False])
def test_custom_policies_and_extractors_take_the_gradient_where_actions_depend_on_them(shared: bool) -> None:
    kwargs = {"features_extractor_class": _Extractor, "share_features_extractor": shared}
    # No relative limit: there is no gradient of PPO's own here to be relative to.
    settings = {"forecast_interval": 1, "forecast_max_grad_ratio": None, "policy_kwargs": kwargs}
    model = ForecastPPO(_OwnPolicy, _grid(64), **MANY, **TERM, **settings)
    model.learn(64 * 32 * 3)
    _weigh(model)
    model.policy.zero_grad()
    model._term.add_gradient(model.policy)
    moved = {name for name, p in model.policy.named_parameters() if p.grad is not None and bool(p.grad.any())}
    actor = {"mlp_extractor.policy_net.0.weight", "action_net.weight"}
    # Not shared, this name is the actor's own, and the critic's begins with vf_.
    assert actor | {"features_extractor.layer.weight"} <= moved
    assert not [name for name in moved if name.startswith(("vf_features", "mlp_extractor.value", "value_net"))]


# -- life with Stable-Baselines3 -----------------------------------------------------------------------------------


def test_save_load_and_continue(tmp_path: Path) -> None:
    model = ForecastPPO("MlpPolicy", _grid(64), **MANY, **TERM, psi_cap=2.5)
    model.learn(64 * 32 * 3)
    model.save(tmp_path / "model.zip")
    loaded = ForecastPPO.load(tmp_path / "model.zip", env=_grid(64))
    assert _equal(_weights(model), _weights(loaded))
    assert (loaded.psi_cap, loaded.n_eval, loaded.forecast_coef) == (2.5, 40, 1.0)
    before = _weights(loaded)
    loaded.learn(64 * 32 * 3, reset_num_timesteps=False)
    assert not _equal(before, _weights(loaded))
    assert loaded._term.grad_norms, "the hook is registered again on load"


def test_starts_from_a_plain_ppo_zip(tmp_path: Path) -> None:
    plain = PPO("MlpPolicy", _grid(64), **MANY)
    plain.learn(64 * 32)
    plain.save(tmp_path / "ppo.zip")
    loaded = ForecastPPO.load(tmp_path / "ppo.zip", env=_grid(64), forecast_coef=2.0, **TERM)
    assert _equal(_weights(plain), _weights(loaded))
    assert (loaded.forecast_coef, loaded.n_partitions) == (2.0, ForecastPPO("MlpPolicy", _bridges(1)).n_partitions)
    loaded.learn(64 * 32 * 3)
    assert loaded._term.grad_norms


def test_the_anchor_is_the_policy_at_the_start_and_survives_saving(tmp_path: Path) -> None:
    model = ForecastPPO("MlpPolicy", _grid(64), **MANY, **TERM, anchor_coef=10.0)
    start = _weights(model)
    model.learn(64 * 32 * 3)
    assert model.anchor is not None
    assert not _equal(_weights(model), start)
    assert _equal(dict(model.anchor.state_dict()), start)
    model.save(tmp_path / "model.zip")
    loaded = ForecastPPO.load(tmp_path / "model.zip", env=_grid(64))
    assert loaded.anchor is not None
    assert _equal(dict(loaded.anchor.state_dict()), start)
    loaded.learn(64 * 32, reset_num_timesteps=False)
    assert _equal(dict(loaded.anchor.state_dict()), start), "a loaded agent keeps its anchor"
    with pytest.raises(ValueError, match="there is no anchor"):
        ForecastPPO("MlpPolicy", _bridges(1), **SMALL).set_anchor(model.policy)


def test_a_plain_ppo_zip_becomes_the_anchor(tmp_path: Path) -> None:
    plain = PPO("MlpPolicy", _grid(64), **MANY)
    plain.learn(64 * 32)
    plain.save(tmp_path / "ppo.zip")
    loaded = ForecastPPO.load(tmp_path / "ppo.zip", env=_grid(64), anchor_coef=1.0, **TERM)
    assert loaded.anchor is not None
    assert _equal(dict(loaded.anchor.state_dict()), _weights(plain))


class _Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("kind", ["none", "one", "list", "function"])
def test_users_callbacks_keep_working(kind: str, tmp_path: Path) -> None:
    calls = []
    callback: Any = {
        "none": None,
        "one": CheckpointCallback(50, str(tmp_path)),
        "list": [_Nothing(), CheckpointCallback(50, str(tmp_path))],
        "function": lambda *_: calls.append(1) or True,
    }[kind]
    ForecastPPO("MlpPolicy", _grid(4), **SMALL, **TERM).learn(4 * 64, callback=callback)
    if kind in ("one", "list"):
        assert list(tmp_path.glob("*.zip"))
    if kind == "function":
        assert len(calls) == 64


@pytest.mark.parametrize("algorithm", [ForecastPPO, LagrangianPPO])
def test_load_refuses_names_that_no_constructor_knows(algorithm: type[ForecastPPO], tmp_path: Path) -> None:
    algorithm("MlpPolicy", _bridges(1), **SMALL).save(tmp_path / "model.zip")
    for wrong, right in (
        ("forecast_coeff", "forecast_coef"),
        ("learning_rates", "learning_rate"),
        ("_term", ""),
        ("risk_limits", "risk_limit" if algorithm is LagrangianPPO else "risk_estimator"),
    ):
        with pytest.raises(TypeError, match=rf"{algorithm.__name__}\.load: unknown argument '{wrong}'") as error:
            algorithm.load(tmp_path / "model.zip", **{wrong: 1})
        assert f"did you mean {right!r}" in str(error.value) or not right
        assert "\n" not in str(error.value)
    loaded = algorithm.load(
        tmp_path / "model.zip",
        env=_bridges(2),
        device="cpu",
        custom_objects={},
        print_system_info=False,
        force_reset=True,
        learning_rate=1e-5,
        stats_window_size=7,
        n_eval=77,
        tensorboard_log=None,
        **({"risk_limit": 0.5} if algorithm is LagrangianPPO else {}),
    )
    assert (loaded.learning_rate, loaded._stats_window_size, loaded.n_eval, loaded.n_envs) == (1e-5, 7, 77, 2)
    assert loaded.lr_schedule(1.0) == 1e-5
    with pytest.raises(ValueError, match="tail_k >= 2"):
        algorithm.load(tmp_path / "model.zip", tail_k=1)


def test_every_constructor_argument_of_ppo_can_be_given_to_load() -> None:
    names = _constructor_arguments(ForecastPPO)
    assert set(_constructor_arguments(PPO)) < set(names)
    assert set(names) < set(_constructor_arguments(LagrangianPPO))
    model = ForecastPPO("MlpPolicy", _bridges(1), **SMALL)
    # Every name but this one, which ``load`` translates, is an attribute under its own name.
    assert [name for name in names if not hasattr(model, name)] == ["stats_window_size"]


def test_what_a_stopped_rollout_began_is_not_scored() -> None:
    """Rows of an episode that began in a rollout which a callback stopped were never taken in."""
    model = ForecastPPO("MlpPolicy", _bridges(8, length=40, n_tasks=10**9), **SMALL, **TERM)
    model.learn(8 * 32)
    model.learn(8 * 32, callback=lambda locals_, _: locals_["n_steps"] < 10, reset_num_timesteps=False)
    spy = _Spy()
    model.learn(8 * 32, callback=spy, reset_num_timesteps=False)
    observation, fatal, _, _ = spy.seen[0]
    assert (observation[0, :, 0] == 0).all(), "episodes begin at the first plank"
    np.testing.assert_allclose(fatal[..., 1], 10 ** (-6 * observation[..., 1]), rtol=1e-5)


def test_a_vec_env_without_reset_infos_lacks_the_contract() -> None:
    env = _bridges(2)
    env.reset()
    del env.reset_infos
    assert not has_risk_contract(env)


def test_target_kl_ends_an_update_and_the_term_with_it() -> None:
    acted = []
    for target_kl in (None, 1e-9):
        model = ForecastPPO("MlpPolicy", _grid(64), **SMALL, **TERM, forecast_interval=1, target_kl=target_kl)
        model.learn(64 * 32 * 3)
        acted.append(len(model._term.grad_norms))
    # 2 epochs of 64 minibatches; the second case ends at the first minibatch whose policy has moved.
    assert acted[0] == 128
    assert 0 < acted[1] < 5


def test_the_last_values_can_be_read_after_learning() -> None:
    """As after PPO's own learn, although they have been written."""
    model = ForecastPPO("MlpPolicy", _grid(64), **MANY, **TERM)
    model.learn(64 * 32 * 3)
    assert model.logger.name_to_value["train/n_updates"] == 2 * 3
    assert model.logger.name_to_value["train/forecast_grad_norm"] > 0
    # Where a value must not go is remembered with it.
    assert model.logger.name_to_excluded["train/n_updates"] == ("tensorboard",)


def test_what_is_logged_and_that_the_last_update_is(tmp_path: Path) -> None:
    model = ForecastPPO("MlpPolicy", _grid(64), **MANY, **TERM)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(64 * 32 * 4)
    model.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert int(last["train/n_updates"]) == 2 * 4
    for key in (
        "loss",
        "error",
        "under_prediction_rate",
        "tail_scale",
        "grad_norm",
        "clip_factor",
        "kl",
        "rows",
        "active_tasks",
        "known_tasks",
    ):
        assert np.isfinite(float(last[f"train/forecast_{key}"])), key
    assert float(last["train/forecast_grad_norm"]) > 0
    assert 0 < float(last["train/forecast_clip_factor"]) <= 1
    assert float(last["time/forecast_seconds"]) > 0
    assert 0 < float(last["rollout/ep_risk_mean"]) < 1
