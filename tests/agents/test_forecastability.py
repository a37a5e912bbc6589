"""The callback and ForecastPPO: what is added to which algorithm, what an environment must say, what saving keeps."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from agents import Forecastability, ForecastPPO, ForecastSettings
from agents.risk.base import log_action_probability, tensors
from agents.task_memory import VisitedStates, fatal_source
from rl_forecast.loss.objectives import anchor, cvar, top_score
from tests.agents.contract_env import Bridge
from tests.agents.helpers import MANY, PAPER, ROLLOUT, SIZES, SMALL, AtEnd, bridges, callback_of, equal, grid, weights

RECOMMENDED = ForecastSettings(**SIZES)
FEW = replace(PAPER, n_eval=40, n_deploy=60)


def test_the_class_is_ppo_with_the_callback_wherever_it_stands() -> None:
    def train(model: Any, callback: Any) -> dict[str, torch.Tensor]:
        return weights(model.learn(ROLLOUT * 4, callback=callback))

    ours = train(ForecastPPO("MlpPolicy", grid(), **MANY, settings=PAPER), None)
    other = ConvertCallback(lambda *_: True)
    for make in (lambda c: c, lambda c: [c, other], lambda c: [other, c]):
        callback = Forecastability(PAPER)
        assert equal(ours, train(PPO("MlpPolicy", grid(), **MANY), make(callback)))
        assert callback.update.n_touched > 0
    assert not equal(ours, train(PPO("MlpPolicy", grid(), **MANY), None))
    assert not equal(ours, train(ForecastPPO("MlpPolicy", grid(), **MANY | {"seed": 4}, settings=PAPER), None))


@pytest.mark.parametrize("arguments", [{}, {"target_kl": 0.01, "ent_coef": 0.01, "clip_range_vf": 0.2}])
@pytest.mark.parametrize("off", [{"settings": None}, {"forecast_coef": 0.0}])
def test_without_settings_it_is_ppo_to_the_bit(arguments: dict[str, Any], off: dict[str, Any]) -> None:
    learned = []
    for algorithm, extra in ((PPO, {}), (ForecastPPO, off)):
        model = algorithm("MlpPolicy", bridges(with_contract=False), **SMALL, **arguments, **extra)
        learned.append(weights(model.learn(1000)))
    assert equal(*learned)


@pytest.mark.parametrize(("algorithm", "more"), [(A2C, {}), (PPO, {"batch_size": 32 * 64, "n_epochs": 1})])
def test_interval_counts_steps_of_the_whole_run(algorithm: Any, more: dict[str, Any]) -> None:
    """A2C takes one step an update, and PPO with one minibatch too: the gradient still comes at every fourth."""
    callback = Forecastability(replace(PAPER, interval=4))
    model = algorithm("MlpPolicy", grid(), n_steps=32, seed=3, device="cpu", **more).learn(ROLLOUT * 5, callback)
    model.learn(ROLLOUT).learn(ROLLOUT * 4, callback)  # once without it
    assert (callback.update.n_steps, callback.update.n_touched) == (9, 2)


class _Masked(Bridge):
    """Running is forbidden in tasks of odd number, and walking in those that 4 divides."""

    def action_masks(self) -> NDArray[np.bool_]:
        return np.array([self.task_id % 4 != 0, self.task_id % 2 == 0])


def test_scores_are_those_of_a_policy_that_cannot_take_masked_actions() -> None:
    callback = Forecastability(FEW)
    model: Any = MaskablePPO("MlpPolicy", bridges(16, _Masked), n_steps=64, batch_size=256, seed=0, device="cpu")
    model.learn(16 * 64 * 4, callback=callback)
    memory, rows = callback.memory, cast("VisitedStates", callback.memory.scored)
    psi = callback.source.psi(model.policy, memory).numpy()
    unmasked = log_action_probability(model.policy, torch.as_tensor(rows["observation"])).exp().detach().numpy()
    kind = memory.task_id[rows["task"]]
    runs = np.where(kind % 2 == 1, 0.0, np.where(kind % 4 == 0, 1.0, unmasked[:, 1]))
    p = np.bincount(rows["task"], weights=runs * rows["fatal"][:, 1] * rows["weight"], minlength=len(psi))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(psi, -np.log(-np.log(p)), rtol=1e-5)
    assert {0, 1, 2, 3} == set(memory.task_id % 4)
    assert callback.update.n_touched > 0


class _DictBridge(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The bridge with its two numbers under two keys, and the position once more as an integer."""

    def __init__(self) -> None:
        super().__init__(Bridge())
        part, place = gymnasium.spaces.Box(0.0, 1.0, shape=(1,), dtype=np.float32), gymnasium.spaces.Discrete(8)
        self.observation_space = gymnasium.spaces.Dict({"slip": part, "at": part, "place": place})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"at": observation[:1], "slip": observation[1:], "place": round(float(observation[0]) * 7)}


@pytest.mark.parametrize(
    ("algorithm", "policy", "make_env"),
    [
        (PPO, "MultiInputPolicy", lambda: bridges(16, _DictBridge)),
        (PPO, "MultiInputPolicy", lambda: VecNormalize(bridges(16, _DictBridge), norm_obs_keys=["at"])),
        (MaskablePPO, "MlpPolicy", lambda: bridges(16, _Masked)),
        (RecurrentPPO, "MlpLstmPolicy", lambda: bridges(16)),
    ],
    ids=["dict", "dict, normalised", "masked", "recurrent"],
)
def test_a_step_asked_again_is_as_probable_as_when_it_was_taken(algorithm: Any, policy: str, make_env: Any) -> None:
    callback = Forecastability(FEW)
    model = algorithm(policy, make_env(), n_steps=64, batch_size=512, n_epochs=2, seed=0, device="cpu")

    def ask_again() -> None:
        columns = callback.record.columns(model.rollout_buffer, with_actions=True)
        steps = VisitedStates({name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()})
        observation, context = tensors(steps, model.device)
        with torch.no_grad():
            log_pi = log_action_probability(model.policy, observation, **context)
        taken = torch.as_tensor(steps["action"]).long()
        torch.testing.assert_close(log_pi.gather(1, taken)[:, 0], torch.as_tensor(steps["log_prob"]).ravel())
        if algorithm is RecurrentPPO:  # a state of the network belongs to the weights that made it
            assert set(callback.memory.task_id) <= set(callback.record.task_id[callback.record.done])

    model.learn(16 * 64 * 3, callback=[callback, AtEnd(ask_again)])
    assert callback.update.n_touched > 0


@pytest.mark.parametrize("name", ["TRPO", "DQN"])
def test_algorithms_that_cannot_be_trained_are_refused_by_name(name: str) -> None:
    algorithm = getattr(sb3_contrib, name, None) or getattr(stable_baselines3, name)
    model = algorithm("MlpPolicy", Bridge(), device="cpu")
    with pytest.raises(ValueError, match=name):
        model.learn(64, callback=Forecastability())


# -- what the environment says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_the_record_is_aligned_with_the_buffer(vec_env: str) -> None:
    make = [lambda: Bridge(n_tasks=50) for _ in range(3)]
    env = DummyVecEnv(make) if vec_env == "dummy" else SubprocVecEnv(make, start_method="forkserver")  # type: ignore[arg-type]
    callback, ends = Forecastability(PAPER), []
    model = PPO("MlpPolicy", env, **SMALL)

    def compare() -> None:
        observation, record = model.rollout_buffer.observations, callback.record
        assert record.fatal is not None
        # The observation carries the task's slipperiness, which is the fatal probability of running.
        np.testing.assert_allclose(record.fatal[..., 1], 10 ** (-6 * observation[..., 1]), rtol=1e-5)
        assert (record.fatal[..., 0] == 0).all()
        assert ((record.task_id >= 0) == record.done).all()
        expected = [Bridge.slipperiness(task) for task in record.task_id[record.done].tolist()]
        np.testing.assert_allclose(record.fatal[record.done, 1], expected, rtol=1e-5)
        ends.append(len(expected))

    try:
        for _ in range(2):
            model.learn(100, callback=[callback, AtEnd(compare)], reset_num_timesteps=False)
    finally:
        env.close()
    assert len(ends) == 4
    assert min(ends) > 5


class _Asked(Bridge):
    """Says by a method what the others say in their infos."""

    def fatal_probability(self) -> NDArray[np.float32]:
        return np.array([0.0, self.slipperiness(self.task_id)], np.float32)

    def _info(self) -> dict[str, Any]:
        return {}


def test_infos_and_a_method_are_the_same_contract() -> None:
    learned = []
    for kind in (Bridge, _Asked):
        model = ForecastPPO("MlpPolicy", bridges(16, kind), **SMALL, settings=PAPER)
        learned.append(weights(model.learn(16 * 32 * 4)))
        assert callback_of(model).update.n_touched > 0
    assert equal(*learned)
    without_infos = bridges(2)
    without_infos.reset()
    del without_infos.reset_infos
    assert fatal_source(without_infos) is None


def _changed(**infos: Any) -> type[Bridge]:
    """A bridge whose infos hold something else, by key: nothing, a value, or a function of the right one."""

    class Changed(Bridge):
        def step(self, action: np.int64) -> Any:
            *result, info = super().step(action)
            for key, wrong in infos.items():
                if key in info:
                    info[key] = wrong(info[key]) if callable(wrong) else wrong
            return *result, {key: value for key, value in info.items() if value is not None}

    return Changed


class _SilentResets(Bridge):
    """Only the first reset's info has fatal probabilities."""

    n_resets = 0

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        self.n_resets += 1
        return observation, info if self.n_resets == 1 else {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_changed(task_id=None), "must carry 'task_id'"),
        *((_changed(task_id=wrong), "task_id must be an integer") for wrong in ("7", 7.9, True, -3, 2**63)),
        (_changed(fatal_probability=lambda p: p * 100), r"must lie in \[0, 1\], the environment reports"),
        (_changed(fatal_probability=lambda p: p - 0.1), r"must lie in \[0, 1\], the environment reports -0.1"),
        (_changed(fatal_probability=lambda p: p * np.nan), r"must lie in \[0, 1\], the environment reports nan"),
        (_changed(fatal_probability=lambda p: p[:1]), r"must have shape \(n_actions,\)"),
        (_changed(fatal_probability=None), "an info lacks it"),
        (_SilentResets, "an info lacks it"),
        (type("Short", (_Asked,), {"fatal_probability": lambda _: np.zeros(3)}), r"must have shape \(2, 2\), it has"),
        (lambda: Bridge(with_contract=False), "risk='direct' needs fatal_probability: the info of a reset has none"),
    ],
)
def test_what_an_environment_gets_wrong_is_refused_in_one_line(kind: Any, message: str) -> None:
    model = ForecastPPO("MlpPolicy", bridges(2, kind), **SMALL, settings=PAPER)
    with pytest.raises(ValueError, match=message) as error:
        model.learn(100)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("resets", [(False, False), (False, True), (True, False)], ids=["none", "after", "between"])
@pytest.mark.parametrize("between", ["stopped by a callback", "without ours"])
def test_no_task_is_scored_from_half_an_episode(between: str, resets: tuple[bool, bool]) -> None:
    """An episode's fatal probabilities add up to its risk: with rows missing, or of two, a task is scored wrongly."""
    callback = Forecastability(replace(PAPER, risk="flow"))  # which remembers every step
    # Every task is played once, in 20 to 40 steps: most episodes span two rollouts.
    model = PPO("MlpPolicy", bridges(8, length=40, n_tasks=10**9), **SMALL).learn(8 * 32, callback=callback)
    stop = ConvertCallback(lambda locals_, _: locals_["n_steps"] < 10)
    callbacks: Any = [callback, stop] if between == "stopped by a callback" else None
    model.learn(8 * 32, callback=callbacks, reset_num_timesteps=resets[0])
    n_scored = 0
    for i in range(6):
        model.learn(8 * 32, callback=callback, reset_num_timesteps=resets[1] and i == 0)
        new = cast("VisitedStates", callback.memory.new)
        for episode in np.unique(new["episode"]):
            planks = new["observation"][new["episode"] == episode, 0]
            n_scored += 1
            assert planks[0] == 0, "its beginning is there"
            assert (np.diff(planks) > 0).all(), "and nothing of another one"
    assert n_scored > 10


@pytest.mark.parametrize(
    ("make_env", "settings", "reason"),
    [
        (lambda: bridges(64, n_tasks=10**9), {"episodes_per_task": 4}, "none episodes_per_task=4 times"),
        (lambda: bridges(64, n_tasks=8), {}, "8 tasks are too few"),
        (grid, {"interval": 10**6}, "interval is larger than their number"),
        (grid, {"risk": "failures"}, "share 2 scores.*mean_risk_coef"),
    ],
)
def test_a_gradient_that_touches_no_step_is_announced(make_env: Any, settings: dict[str, Any], reason: str) -> None:
    callback = Forecastability(replace(PAPER, **settings))
    with pytest.warns(UserWarning, match=f"added to none of the \\d+ optimiser steps so far: .*{reason}"):
        PPO("MlpPolicy", make_env(), **MANY | {"n_epochs": 1}).learn(ROLLOUT * 10, callback=callback)
    assert callback.update.n_touched == 0


class _Extractor(torch.nn.Sequential):
    def __init__(self, observation_space: gymnasium.spaces.Box) -> None:
        super().__init__(torch.nn.Linear(observation_space.shape[0], 16), torch.nn.Tanh())
        self.features_dim = 16


@pytest.mark.parametrize(("limit", "ratio", "shared"), [(1e-3, None, None), (1e3, None, True), (1e9, 0.3, False)])
def test_what_is_added_is_the_gradient_of_the_objective_within_limits(
    limit: float, ratio: float | None, shared: bool | None
) -> None:
    """An absolute limit, and one relative to PPO's own gradient on the same parameters; the critic is left alone."""
    extractor = {"features_extractor_class": _Extractor, "share_features_extractor": shared}
    kwargs: Any = None if shared is None else extractor
    settings = replace(PAPER, interval=1, max_grad_norm=limit, max_grad_ratio=ratio)
    arguments: dict[str, Any] = {"settings": settings, "objective": top_score(2.0, n_top=30), "policy_kwargs": kwargs}
    model = ForecastPPO("MlpPolicy", bridges(16), **SMALL, **arguments).learn(16 * 32 * 2)
    callback = callback_of(model)
    memory, rows = callback.memory, cast("VisitedStates", callback.memory.scored)
    # As at the beginning of an update.
    callback._differentiate(model.policy, callback.source.psi(model.policy, memory))
    # Independent: the definitions of the direct estimate and the objective, differentiated as they stand.
    pi = log_action_probability(model.policy, torch.as_tensor(rows["observation"])).exp()
    risk = (pi * torch.as_tensor(rows["fatal"])).sum(dim=1) * torch.as_tensor(rows["weight"], dtype=torch.float32)
    p = torch.zeros(len(memory.task_id)).index_add(0, torch.as_tensor(rows["task"]), risk)
    value = 2.0 * -torch.log(-torch.log(p.topk(30).values)).mean()
    named = dict(model.policy.named_parameters())
    gradient = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    raw = {name: g for name, g in zip(named, gradient, strict=True) if g is not None}
    assert ("features_extractor.0.weight" in raw) == bool(kwargs)
    assert not [name for name in raw if name.startswith(("vf_features", "mlp_extractor.value", "value_net"))]
    generator = torch.Generator().manual_seed(0)
    before = {name: 1e-3 * torch.randn(p.shape, generator=generator) for name, p in named.items()}
    for name, parameter in named.items():
        parameter.grad = before[name].clone()
    callback._add_gradient()
    norm, own = (float(torch.nn.utils.get_total_norm([g[name] for name in raw])) for g in (raw, before))
    factor = min(1.0, limit / norm, np.inf if ratio is None else ratio * own / norm)
    for name, parameter in named.items():
        assert parameter.grad is not None
        expected = before[name] + factor * raw[name] if name in raw else before[name]
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-8)


def test_what_is_logged_stands_beside_ppos_values_of_the_same_update(tmp_path: Path) -> None:
    model = ForecastPPO("MlpPolicy", grid(), **MANY, settings=PAPER)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    calls: list[int] = []
    model.learn(ROLLOUT * 4, callback=lambda *_: not calls.append(1))  # type: ignore[func-returns-value]
    model.logger.close()
    assert len(calls) == 4 * MANY["n_steps"], "a user's own callback, a function, is called as well"
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["train/n_updates"]) == 2 * 3, "PPO writes before an update: the third is in the fourth dump"
    assert 0 < float(rows[-1]["train/forecast_clip_factor"]) <= 1
    assert 0 < float(rows[-1]["train/forecast_share_of_steps"]) <= 1 / 4
    assert 0 < float(rows[-1]["rollout/ep_risk_mean"]) < 1
    # One update's values are gone from the next rows only where they are replaced.
    assert len({row["train/forecast_loss"] for row in rows[1:]}) == len(rows) - 1


# -- anchor, saving and loading -----------------------------------------------------------------------------------


def _anchor(model: ForecastPPO) -> dict[str, torch.Tensor]:
    return weights(cast("ActorCriticPolicy", callback_of(model).anchor))


@pytest.fixture
def plain(tmp_path: Path) -> PPO:
    """A trained PPO, and its zip."""
    model = PPO("MlpPolicy", grid(), **MANY).learn(ROLLOUT)
    model.save(tmp_path / "ppo.zip")
    return model


def test_from_scratch_there_is_no_anchor_ever_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ForecastPPO("MlpPolicy", grid(), **MANY, settings=RECOMMENDED).learn(ROLLOUT)
    assert [record.message for record in caplog.records] == ["an untrained policy is no anchor: training without one"]
    model.save(tmp_path / "model.zip")
    loaded = ForecastPPO.load(tmp_path / "model.zip", env=grid())
    for trained in (model, loaded):
        trained.learn(ROLLOUT, reset_num_timesteps=False)
        assert callback_of(trained).anchor is None
        assert callback_of(trained).settings == replace(RECOMMENDED, anchor_coef=0.0)
    assert len(caplog.records) == 1


def test_the_anchor_is_the_policy_that_training_started_from_and_survives_saving(plain: PPO, tmp_path: Path) -> None:
    model = ForecastPPO.load(tmp_path / "ppo.zip", env=grid(), settings=RECOMMENDED)
    start = weights(plain)
    assert equal(weights(model), start)
    model.learn(ROLLOUT * 3)
    assert callback_of(model).update.n_touched > 0
    model.save(tmp_path / "model.zip")
    loaded = ForecastPPO.load(tmp_path / "model.zip", env=grid())
    assert callback_of(loaded).settings == RECOMMENDED
    before = weights(loaded)
    assert equal(before, weights(model))
    loaded.learn(ROLLOUT * 3, reset_num_timesteps=False)
    assert callback_of(loaded).update.n_touched > 0
    assert not equal(before, weights(loaded))
    assert not equal(before, start)
    assert equal(_anchor(model), start)
    assert equal(_anchor(loaded), start)


def test_weight_anchor_and_objective_can_be_given(plain: PPO, tmp_path: Path) -> None:
    start = weights(plain)
    loaded = ForecastPPO.load(tmp_path / "ppo.zip", env=grid(), forecast_coef=2.0, anchor=plain.policy)
    plain.learn(ROLLOUT, reset_num_timesteps=False)
    assert equal(_anchor(loaded), start), "a copy"
    assert callback_of(loaded).settings == ForecastSettings(coef=2.0)
    beside = ForecastPPO("MlpPolicy", bridges(1), **SMALL, settings=RECOMMENDED, forecast_coef=0.0)
    assert callback_of(beside).settings == replace(RECOMMENDED, coef=0.0), "the weight replaces that of the settings"
    assert ForecastPPO.load(tmp_path / "ppo.zip", env=grid(), forecast_coef=0.0).forecastability is None
    with pytest.raises(ValueError, match=r"forecast_coef=0\.5 has no settings"):
        ForecastPPO("MlpPolicy", bridges(1), **SMALL, settings=None, forecast_coef=0.5)
    with pytest.raises(ValueError, match="settings=None is plain PPO, which takes no objective"):
        ForecastPPO("MlpPolicy", bridges(1), **SMALL, settings=None, anchor=plain.policy)
    objective = cvar(1.0, 0.05) + anchor(10.0)
    ForecastPPO.load(tmp_path / "ppo.zip", env=grid(), objective=objective).save(tmp_path / "cvar.zip")
    again = callback_of(ForecastPPO.load(tmp_path / "cvar.zip", env=grid())).objective
    assert again is not None
    psi, rng = torch.linspace(-3, 1, 100).double(), np.random.default_rng(0)
    assert again(psi, psi - 1, rng)[0] == objective(psi, psi - 1, rng)[0]  # type: ignore[index]
