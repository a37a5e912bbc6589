"""The callback and ForecastPPO: nothing changes without them, and with them exactly what is promised."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, ConvertCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from agents import Forecastability, ForecastPPO, ForecastSettings
from agents.risk.base import log_action_probability, tensors
from agents.task_memory import VisitedStates, fatal_source, flat_observation
from envs import GridVecEnv, RecolorWorld
from rl_forecast.loss.objectives import Objective, anchor, cvar, mean_risk, risk_limit, top_risk
from tests.agents.contract_env import Bridge, memory_of

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 3, "device": "cpu"}
# Enough episodes that there are tasks to compare, in few minibatches.
MANY: dict[str, Any] = SMALL | {"batch_size": 512}
SIZES: dict[str, Any] = {"n_eval": 40, "n_deploy": 160, "tail_k": 5, "n_known_tasks": 500}
PAPER = replace(ForecastSettings.paper(), **SIZES)


def _grid(n_envs: int = 64, episodes_per_task: int = 1) -> GridVecEnv:
    return GridVecEnv(RecolorWorld(rare_probability=0.1), np.arange(3000), n_envs, episodes_per_task, seed=2)


def _bridges(n_envs: int = 8, kind: type[Bridge] = Bridge, **settings: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: kind(**settings) for _ in range(n_envs)])


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _of(model: ForecastPPO) -> Forecastability:
    assert model.forecastability is not None
    return model.forecastability


# -- what is trained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"target_kl": 0.01}, {"ent_coef": 0.01, "clip_range_vf": 0.2}])
@pytest.mark.parametrize("off", [{"settings": None}, {"forecast_coef": 0.0}])
def test_without_settings_it_is_ppo_to_the_bit(arguments: dict[str, Any], off: dict[str, Any]) -> None:
    weights = []
    for algorithm, extra in ((PPO, {}), (ForecastPPO, off)):
        model = algorithm("MlpPolicy", _bridges(with_contract=False), **SMALL, **arguments, **extra)
        weights.append(_weights(model.learn(1000)))
    assert _equal(*weights)


def test_a_weight_given_beside_settings_replaces_theirs() -> None:
    model = ForecastPPO("MlpPolicy", _bridges(1), **SMALL, settings=ForecastSettings(), forecast_coef=0.0)
    assert _of(model).settings == ForecastSettings(coef=0.0)
    assert _of(ForecastPPO("MlpPolicy", _bridges(1), **SMALL, forecast_coef=0.5)).settings.coef == 0.5


def test_the_class_is_ppo_with_the_callback_wherever_it_stands() -> None:
    def train(model: Any, callback: Any) -> dict[str, torch.Tensor]:
        return _weights(model.learn(64 * 32 * 4, callback=callback))

    ours = train(ForecastPPO("MlpPolicy", _grid(), **MANY, settings=PAPER), None)
    for make in (lambda c: c, lambda c: [c, _Nothing()], lambda c: [_Nothing(), c]):
        callback = Forecastability(PAPER)
        assert _equal(ours, train(PPO("MlpPolicy", _grid(), **MANY), make(callback)))
        assert callback.update.n_touched > 0
    assert not _equal(ours, train(PPO("MlpPolicy", _grid(), **MANY), None))
    assert not _equal(ours, train(ForecastPPO("MlpPolicy", _grid(), **MANY | {"seed": 4}, settings=PAPER), None))


@pytest.mark.parametrize(
    "objective",
    [mean_risk(1.0), cvar(1.0), top_risk(0.1), anchor(100.0), risk_limit(1e-3), None],
    ids=["mean_risk", "cvar", "top_risk", "anchor", "risk_limit", "none"],  # workers must agree on them
)
def test_every_objective_changes_what_is_learned(objective: Objective | None) -> None:
    start = PPO("MlpPolicy", _grid(), **MANY | {"seed": 9}).policy
    weights = [_weights(PPO("MlpPolicy", _grid(), **MANY).learn(64 * 32 * 4))]
    model = ForecastPPO("MlpPolicy", _grid(), **MANY, settings=PAPER, objective=objective, anchor=start)
    weights.append(_weights(model.learn(64 * 32 * 4)))
    assert not _equal(*weights)


def test_interval_counts_steps_of_the_whole_run() -> None:
    """A2C takes one step an update, and PPO with one minibatch too: the gradient still comes at every fourth."""
    for algorithm, more in ((A2C, {}), (PPO, {"batch_size": 32 * 64, "n_epochs": 1})):
        callback = Forecastability(replace(PAPER, interval=4))
        algorithm("MlpPolicy", _grid(), n_steps=32, seed=3, device="cpu", **more).learn(64 * 32 * 9, callback=callback)
        assert (callback.update.n_steps, callback.update.n_touched) == (9, 2)


# -- other algorithms ---------------------------------------------------------------------------------------------


class _Masked(Bridge):
    """Running is forbidden in tasks of odd number."""

    def action_masks(self) -> np.ndarray:
        return np.array([True, self.task_id % 2 == 0])


def test_a_masked_fatal_action_adds_nothing_to_the_score() -> None:
    callback = Forecastability(replace(PAPER, n_eval=40, n_deploy=60))
    model = MaskablePPO("MlpPolicy", _bridges(16, _Masked), n_steps=64, batch_size=256, seed=0, device="cpu")
    model.learn(16 * 64 * 4, callback=callback)
    memory = callback.memory
    psi = callback.source.psi(model.policy, memory).numpy()
    odd = memory.task_id % 2 == 1
    assert odd.any()
    assert (psi[odd] == -np.inf).all()
    # The others are scored as a policy without masks would be, by the definition.
    rows = memory.scored
    assert rows is not None
    with torch.no_grad():
        pi = model.policy.get_distribution(torch.as_tensor(rows["observation"])).distribution.probs.double().numpy()
    p = np.bincount(rows["task"], weights=(pi * rows["fatal"]).sum(axis=1) * rows["weight"], minlength=len(psi))
    np.testing.assert_allclose(psi[~odd], -np.log(-np.log(np.minimum(p[~odd], np.exp(-1e-6)))), rtol=1e-6)
    assert callback.update.n_touched > 0


def test_a_recurrent_policy_is_asked_with_the_states_it_had() -> None:
    """Every step of a rollout, asked again by itself, gives the probability with which its action was taken."""

    class Again(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            columns = callback.record.columns(model.rollout_buffer, with_actions=True)
            steps = VisitedStates({name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()})
            observation, context = tensors(steps, model.device)
            with torch.no_grad():
                log_pi = log_action_probability(model.policy, observation, **context)
            taken = torch.as_tensor(steps["action"]).long()
            torch.testing.assert_close(log_pi.gather(1, taken)[:, 0], torch.as_tensor(steps["log_prob"]).ravel())
            assert set(callback.memory.task_id) <= set(callback.record.task_id[callback.record.done])

    callback = Forecastability(replace(PAPER, n_eval=40, n_deploy=60))
    model = RecurrentPPO("MlpLstmPolicy", _bridges(16), n_steps=64, batch_size=512, n_epochs=2, seed=0, device="cpu")
    model.learn(16 * 64 * 3, callback=[callback, Again()])
    assert callback.update.n_touched > 0


@pytest.mark.parametrize("name", ["TRPO", "DQN"])
def test_algorithms_that_cannot_be_trained_are_refused_by_name(name: str) -> None:
    algorithm = getattr(sb3_contrib, name, None) or getattr(stable_baselines3, name)
    model = algorithm("MlpPolicy", Bridge(), device="cpu")
    with pytest.raises(ValueError, match=name):
        model.learn(64, callback=Forecastability())


def test_continuous_actions_are_refused_before_training() -> None:
    env = gymnasium.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"risk='direct' needs a Discrete action space.*settings=None is plain PPO"):
        ForecastPPO("MlpPolicy", env, **SMALL)
    ForecastPPO("MlpPolicy", env, **SMALL, settings=None).learn(64)


# -- the contract -------------------------------------------------------------------------------------------------


class _Spy(BaseCallback):
    """Keeps what record and buffer hold at the end of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, ForecastPPO):
            record = _of(self.model).record
            assert record.fatal is not None
            observation = copy.deepcopy(self.model.rollout_buffer.observations)
            self.seen.append((observation, record.fatal.copy(), record.done.copy(), record.task_id.copy()))


class _Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_the_record_is_aligned_with_the_buffer(vec_env: str) -> None:
    make = [lambda: Bridge(n_tasks=50) for _ in range(3)]
    env = DummyVecEnv(make) if vec_env == "dummy" else SubprocVecEnv(make, start_method="forkserver")  # type: ignore[arg-type]
    spy = _Spy()
    try:
        model = ForecastPPO("MlpPolicy", env, **SMALL, settings=PAPER)
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


class _Asked(Bridge):
    """Says by a method what the others say in their infos."""

    def fatal_probability(self) -> np.ndarray:
        return np.array([0.0, self.slipperiness(self.task_id)], np.float32)

    def _info(self) -> dict[str, Any]:
        return {}


def test_infos_and_a_method_are_the_same_contract() -> None:
    weights = []
    for kind in (Bridge, _Asked):
        model = ForecastPPO("MlpPolicy", _bridges(16, kind), **SMALL, settings=PAPER)
        weights.append(_weights(model.learn(16 * 32 * 4)))
        assert _of(model).update.n_touched > 0
    assert _equal(*weights)
    envs: list[tuple[VecEnv, bool]] = [
        (_grid(), True), (VecNormalize(_grid()), True), (_bridges(2), True), (_bridges(2, with_contract=False), False)
    ]  # fmt: skip
    for env, has_contract in envs:
        env.reset()
        assert (fatal_source(env) is not None) == has_contract
    without_infos = _bridges(2)
    without_infos.reset()
    del without_infos.reset_infos
    assert fatal_source(without_infos) is None


def _changed(**infos: Any) -> type[Bridge]:
    """A bridge whose infos hold something else, by key; a callable is applied to the right value."""

    class Changed(Bridge):
        def step(self, action: np.int64) -> Any:
            *result, info = super().step(action)
            return *result, {
                key: self._wrong(key, value) for key, value in info.items() if infos.get(key, 0) is not None
            }

        def _wrong(self, key: str, value: Any) -> Any:
            wrong = infos.get(key, value)
            return wrong(value) if callable(wrong) else wrong

    return Changed


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ({"task_id": None}, "must carry 'task_id'"),
        *(({"task_id": wrong}, "task_id must be an integer") for wrong in ("7", 7.9, True, -3, 2**63)),
        ({"fatal_probability": lambda p: p * 100}, r"must lie in \[0, 1\], the environment reports"),
        ({"fatal_probability": lambda p: p - 0.1}, r"must lie in \[0, 1\], the environment reports -0.1"),
        ({"fatal_probability": lambda p: p * np.nan}, r"must lie in \[0, 1\], the environment reports nan"),
        ({"fatal_probability": lambda p: p[:1]}, r"must have shape \(n_actions,\)"),
        ({"fatal_probability": None}, "an info lacks it"),
    ],
)
def test_what_an_environment_gets_wrong_is_refused_in_one_line(infos: dict[str, Any], message: str) -> None:
    model = ForecastPPO("MlpPolicy", _bridges(2, _changed(**infos)), **SMALL, settings=PAPER)
    with pytest.raises(ValueError, match=message) as error:
        model.learn(100)
    assert "\n" not in str(error.value)


def test_an_environment_without_the_contract_is_refused() -> None:
    model = ForecastPPO("MlpPolicy", _bridges(with_contract=False), **SMALL)
    with pytest.raises(ValueError, match="risk='direct' needs fatal_probability: the info of a reset has none"):
        model.learn(100)

    class Short(_Asked):
        def fatal_probability(self) -> np.ndarray:
            return np.zeros(3)

    with pytest.raises(ValueError, match=r"must have shape \(2, 2\), it has \(2, 3\)"):
        ForecastPPO("MlpPolicy", _bridges(2, Short), **SMALL, settings=PAPER).learn(100)


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
    """Every remembered state, seen by the policy, is what the policy saw in the rollout."""
    env: VecEnv = DummyVecEnv([_DictBridge for _ in range(16)])
    env = VecNormalize(env, norm_obs_keys=["at"]) if normalised else env
    model = ForecastPPO("MultiInputPolicy", env, **SMALL, settings=PAPER)
    spy = _Spy()
    model.learn(16 * 32 * 4, callback=spy)
    assert len(memory_of(model).task_id) > 100
    assert _of(model).update.n_touched > 0
    observation = spy.seen[0][0]
    with torch.no_grad():
        batch = {key: torch.as_tensor(value[0]) for key, value in observation.items()}
        expected = model.policy.get_distribution(batch).distribution.logits
        flat = torch.as_tensor(flat_observation(observation)[0])
        torch.testing.assert_close(log_action_probability(model.policy, flat), expected)
    rows = memory_of(model).scored
    assert rows is not None
    if not normalised:  # the space orders its keys by name: at, place, slip
        np.testing.assert_allclose(rows["fatal"][:, 1], 10 ** (-6 * rows["observation"][:, 2]), rtol=1e-5)


@pytest.mark.parametrize(
    ("env", "settings", "reason"),
    [
        ({"n_tasks": 10**9}, {"episodes_per_task": 4}, "none episodes_per_task=4 times"),
        ({"n_tasks": 8}, {}, "8 tasks are too few"),
        ({"n_tasks": 500}, {"interval": 10**6}, "interval is larger than their number"),
    ],
)
def test_a_gradient_that_touches_no_step_is_announced(
    env: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    model = ForecastPPO("MlpPolicy", _bridges(64, **env), **MANY, settings=replace(PAPER, **settings))
    with pytest.warns(UserWarning, match=f"added to none of the \\d+ optimiser steps so far: .*{reason}"):
        model.learn(64 * 32 * 10)
    assert _of(model).update.n_touched == 0


# -- the gradient -------------------------------------------------------------------------------------------------


def _ready(model: ForecastPPO) -> Forecastability:
    """The callback as at the beginning of an update."""
    callback = _of(model)
    callback._differentiate(model.policy, callback.source.psi(model.policy, callback.memory))
    assert callback.gradient is not None
    return callback


@pytest.mark.parametrize(("limit", "ratio"), [(1e-3, None), (1e3, None), (1e9, 0.3)])
def test_the_added_gradient_obeys_its_limits(limit: float, ratio: float | None) -> None:
    """An absolute one, and one relative to PPO's own gradient on the same parameters."""
    settings = replace(PAPER, interval=1, max_grad_norm=limit, max_grad_ratio=ratio)
    model = ForecastPPO("MlpPolicy", _grid(), **MANY, settings=settings)
    model.learn(64 * 32 * 3)
    callback = _ready(model)
    assert callback.gradient is not None
    raw = torch.autograd.grad(callback.gradient.loss(model.policy), list(model.policy.parameters()), allow_unused=True)
    raw_norm = float(torch.nn.utils.get_total_norm([g for g in raw if g is not None]))
    named = dict(model.policy.named_parameters())
    generator = torch.Generator().manual_seed(0)
    before = {name: 1e-3 * torch.randn(p.shape, generator=generator) for name, p in named.items()}
    for name, parameter in named.items():
        parameter.grad = before[name].clone()
    callback._add_gradient()
    added = {name: p.grad - before[name] for name, p in named.items() if p.grad is not None}
    own = float(torch.nn.utils.get_total_norm([g for name, g in before.items() if "value_net" not in name]))
    norm = float(torch.nn.utils.get_total_norm(list(added.values())))
    assert norm == pytest.approx(min(limit, raw_norm, np.inf if ratio is None else ratio * own), rel=1e-3)
    for name, change in added.items():
        assert bool(change.any()) == ("value_net" not in name), "the critic is left alone, the actor is not"


class _Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: gymnasium.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=16)
        self.layer = torch.nn.Linear(observation_space.shape[0], 16)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(observation))


class _OwnPolicy(ActorCriticPolicy):
    """A user's own policy class."""


@pytest.mark.parametrize("shared", [True, False])
def test_custom_policies_take_the_gradient_where_actions_depend_on_them(shared: bool) -> None:
    kwargs = {"features_extractor_class": _Extractor, "share_features_extractor": shared}
    model = ForecastPPO(_OwnPolicy, _grid(), **MANY, settings=replace(PAPER, interval=1), policy_kwargs=kwargs)
    model.learn(64 * 32 * 3)
    callback = _ready(model)
    model.policy.zero_grad()
    callback._add_gradient()
    moved = {name for name, p in model.policy.named_parameters() if p.grad is not None and bool(p.grad.any())}
    actor = {"mlp_extractor.policy_net.0.weight", "action_net.weight"}
    # Not shared, this name is the actor's own, and the critic's begins with vf_.
    assert actor | {"features_extractor.layer.weight"} <= moved
    assert not [name for name in moved if name.startswith(("vf_features", "mlp_extractor.value", "value_net"))]


def test_target_kl_ends_an_update_and_the_gradient_with_it() -> None:
    acted = []
    for target_kl in (None, 1e-9):
        settings = replace(PAPER, interval=1)
        model = ForecastPPO("MlpPolicy", _grid(), **SMALL, settings=settings, target_kl=target_kl)
        model.learn(64 * 32 * 3)
        acted.append(len(_of(model).update.grad_norms))
    # 2 epochs of 64 minibatches; the second case ends at the first minibatch whose policy has moved.
    assert acted[0] == 128
    assert 0 < acted[1] < 5


# -- anchor, saving and loading -----------------------------------------------------------------------------------


def test_from_scratch_there_is_no_anchor_ever_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ForecastSettings(**SIZES)
    model = ForecastPPO("MlpPolicy", _grid(), **MANY, settings=settings)
    model.learn(64 * 32 * 3)
    assert [record.message for record in caplog.records] == ["an untrained policy is no anchor: training without one"]
    model.save(tmp_path / "model.zip")
    loaded = ForecastPPO.load(tmp_path / "model.zip", env=_grid())
    for trained in (model, loaded):
        trained.learn(64 * 32, reset_num_timesteps=False)
        assert _of(trained).anchor is None
        assert _of(trained).settings == replace(settings, anchor_coef=0.0)
    assert len(caplog.records) == 1


def test_the_anchor_is_the_policy_that_training_started_from_and_survives_saving(tmp_path: Path) -> None:
    plain = PPO("MlpPolicy", _grid(), **MANY).learn(64 * 32)
    plain.save(tmp_path / "ppo.zip")
    start = _weights(plain)
    settings = ForecastSettings(**SIZES, psi_cap=2.5)
    model = ForecastPPO.load(tmp_path / "ppo.zip", env=_grid(), settings=settings)
    assert _equal(_weights(model), start)
    model.learn(64 * 32 * 3)
    assert _of(model).update.n_touched > 0
    assert not _equal(_weights(model), start)
    model.save(tmp_path / "model.zip")
    loaded = ForecastPPO.load(tmp_path / "model.zip", env=_grid())
    assert _of(loaded).settings == settings
    before = _weights(loaded)
    assert _equal(before, _weights(model))
    loaded.learn(64 * 32 * 3, reset_num_timesteps=False)
    assert not _equal(before, _weights(loaded))
    for one in (model, loaded):
        kept = _of(one).anchor
        assert kept is not None
        assert _equal(dict(kept.state_dict()), start)
    given = ForecastPPO("MlpPolicy", _grid(), **MANY, settings=settings, anchor=plain.policy)
    own = _of(given).anchor
    assert own is not None
    assert _equal(dict(own.state_dict()), start)
    assert own is not plain.policy


def test_load_takes_settings_weight_and_anchor(tmp_path: Path) -> None:
    plain = PPO("MlpPolicy", _grid(), **MANY).learn(64 * 32)
    plain.save(tmp_path / "ppo.zip")
    other = PPO("MlpPolicy", _grid(), **MANY | {"seed": 8}).policy
    loaded = ForecastPPO.load(tmp_path / "ppo.zip", env=_grid(), forecast_coef=2.0, anchor=other)
    kept = _of(loaded).anchor
    assert kept is not None
    assert _of(loaded).settings == ForecastSettings(coef=2.0)
    assert _equal(dict(kept.state_dict()), _weights(PPO("MlpPolicy", _grid(), **MANY | {"seed": 8})))
    assert ForecastPPO.load(tmp_path / "ppo.zip", env=_grid(), forecast_coef=0.0).forecastability is None
    objective = cvar(1.0, 0.05) + anchor(10.0)
    ForecastPPO.load(tmp_path / "ppo.zip", env=_grid(), objective=objective).save(tmp_path / "cvar.zip")
    psi = torch.linspace(-3, 1, 100).double()
    again = _of(ForecastPPO.load(tmp_path / "cvar.zip", env=_grid())).objective
    assert again is not None
    rng = np.random.default_rng(0)
    assert again(psi, psi - 1, rng)[0] == objective(psi, psi - 1, rng)[0]  # type: ignore[index]


# -- life with Stable-Baselines3 ----------------------------------------------------------------------------------


def test_users_callbacks_keep_working_one_in_a_list_or_a_function(tmp_path: Path) -> None:
    calls: list[int] = []
    checkpoints = CheckpointCallback(50, str(tmp_path))
    for callback in (checkpoints, [_Nothing(), checkpoints], lambda *_: calls.append(1) or True):
        ForecastPPO("MlpPolicy", _grid(4), **SMALL, settings=PAPER).learn(4 * 64, callback=callback)
        assert list(tmp_path.glob("*.zip"))
    assert len(calls) == 64


@pytest.mark.parametrize("between", ["nothing", "without the callback"])
def test_no_task_is_scored_from_half_an_episode(between: str) -> None:
    """Fatal probabilities of an episode add up to its risk: a task whose rows miss some would be scored too low."""
    callback = Forecastability(replace(PAPER, risk="flow"))
    # Every task is played once, by 40 steps in which running is possible: a whole episode has as many rows as steps.
    model = PPO("MlpPolicy", _bridges(8, length=40, n_tasks=10**9), **SMALL)
    model.learn(8 * 32, callback=callback)
    stop = lambda locals_, _: locals_["n_steps"] < 10  # noqa: E731
    if between == "nothing":
        model.learn(8 * 32, callback=[callback, ConvertCallback(stop)], reset_num_timesteps=False)
    else:
        model.learn(8 * 32, reset_num_timesteps=False)
    for _ in range(6):
        model.learn(8 * 32, callback=callback, reset_num_timesteps=False)
        new = callback.memory.new
        assert new is not None
        for episode in np.unique(new["episode"]):
            steps = new["observation"][new["episode"] == episode]
            assert steps[:, 0].min() == 0, "the first plank is among the states of a scored episode"
    assert len(callback.memory.task_id) > 5


def test_what_is_logged_stands_beside_ppos_values_of_the_same_update(tmp_path: Path) -> None:
    model = ForecastPPO("MlpPolicy", _grid(), **MANY, settings=PAPER)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(64 * 32 * 4)
    model.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    last = rows[-1]
    assert int(last["train/n_updates"]) == 2 * 3, "PPO writes before an update: the third is in the fourth dump"
    keys = ("loss", "error", "tail_scale", "grad_norm", "clip_factor", "kl", "rows", "active_tasks", "known_tasks")
    for key in keys:
        assert np.isfinite(float(last[f"train/forecast_{key}"])), key
    assert 0 < float(last["train/forecast_clip_factor"]) <= 1
    assert 0 < float(last["train/forecast_share_of_steps"]) <= 1 / 4
    assert float(last["time/forecast_seconds"]) > 0
    assert 0 < float(last["rollout/ep_risk_mean"]) < 1
    # One update's values are gone from the next rows only where they are replaced.
    assert len({row["train/forecast_loss"] for row in rows[1:]}) == len(rows) - 1
