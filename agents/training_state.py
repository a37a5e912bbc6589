"""Everything a run of PPO, A2C or ForecastPPO needs to resume as if it had never stopped, to the bit, without a pickle.

SB3's zip holds weights and settings. A run is also the state of its random generators, the episodes under way, the
counters, and what the forecastability callback remembers. All of it is tensors and JSON here, in one safetensors file.
The settings themselves are not: the agent is made again as it was made, and given the state.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from agents.task_memory import part_of
from rl_forecast.tasks import ResumableEnv

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    from agents.forecastability import Forecastability

__all__ = [
    "load_training_state",
    "restore_training_state",
    "save_training_state",
    "training_state",
]

_FORMAT = 2
_PARTS = ("policy", "optimizer", "run", "rng", "normalize", "env", "forecastability")
# Wrappers that are either without a state of their own or whose state is kept here.
_KNOWN_WRAPPERS = (VecNormalize, VecTransposeImage)
_COUNTERS = (
    "num_timesteps",
    "_episode_num",
    "_n_updates",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
)


def training_state(
    model: OnPolicyAlgorithm, forecastability: Forecastability | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state of a run between two rollouts.

    Take it where no rollout is under way: outside ``learn``, or in a callback's ``on_rollout_start`` (with gSDE outside
    ``learn`` only, because its noise is drawn before that). The generators of numpy and torch that PPO draws from are
    the process's own; whatever else draws from them is part of the run.

    :param model: a PPO, A2C, ForecastPPO or subclass
    :param forecastability: the callback that trains it; ``ForecastPPO`` brings its own
    :return: tensors by name, and values that JSON can hold by name
    :raises ValueError: a rollout is under way, or was cut short by a callback (not noticed at its very first step); a
        recurrent policy, whose state between rollouts is not among this
    """
    if getattr(model, "_last_lstm_states", None) is not None:
        raise ValueError(f"a training state of {type(model).__name__} is not supported: its policy is recurrent")
    forecastability = forecastability or getattr(model, "forecastability", None)
    buffer = model.rollout_buffer
    if 0 < buffer.pos < buffer.buffer_size:
        raise ValueError(
            f"{buffer.pos} of {buffer.buffer_size} steps of a rollout are done: take the state between two"
        )
    assert model.env is not None
    parts: dict[str, dict[str, Any]] = {
        "policy": model.policy.state_dict(),
        "optimizer": _optimizer_state(model.policy.optimizer),
        "run": {name: getattr(model, name) for name in _COUNTERS} | _episodes(model),
        "rng": _generators(model.device),
        "normalize": _normalization(model.env),
        "env": _env_state(model.env),
        "forecastability": {} if forecastability is None else forecastability.state_dict(),
    }
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {"format": _FORMAT, "algorithm": type(model).__name__, "n_envs": model.n_envs}
    for part, content in parts.items():
        for name, value in content.items():
            if isinstance(value, torch.Tensor | np.ndarray | np.generic):
                # A copy each: layers may share memory, and the run continues.
                tensors[f"{part}/{name}"] = torch.as_tensor(value).detach().cpu().clone().contiguous()
            else:
                values[f"{part}/{name}"] = value
    return tensors, values


def restore_training_state(
    model: OnPolicyAlgorithm,
    tensors: dict[str, torch.Tensor],
    values: dict[str, Any],
    forecastability: Forecastability | None = None,
) -> None:
    """Put an agent, its environment and this process's generators where :func:`training_state` found them.

    The agent is a new one, made with the same settings on the same environment. Restore right before
    ``learn(remaining, reset_num_timesteps=False)``: what draws from the global generators in between would be felt.
    An environment without ``state_dict`` begins new episodes, with a warning: the run resumes, but not to the bit.

    :param model: made as the saved one was
    :param tensors: of :func:`training_state`
    :param values: of :func:`training_state`
    :param forecastability: a new callback with the same settings, to be given to ``learn``
    :raises ValueError: the state is of another algorithm, network, number of environments, or pool of tasks
    """
    forecastability = forecastability or getattr(model, "forecastability", None)
    found = (values.get("format"), values.get("algorithm"), values.get("n_envs"))
    if found != (wanted := (_FORMAT, type(model).__name__, model.n_envs)):
        raise ValueError(f"the state is of (format, algorithm, n_envs) {found}, the agent is of {wanted}")
    state = {part: part_of(values | tensors, part, "/") for part in _PARTS}
    if bool(state["forecastability"]) != (forecastability is not None):
        raise ValueError("only one of the two is a training with the forecastability callback")
    assert model.env is not None
    try:
        model.policy.load_state_dict(state["policy"])
    except RuntimeError as error:
        raise ValueError(f"the state is of another network: {' '.join(str(error).split())}") from None
    _restore_optimizer(model.policy.optimizer, state["optimizer"])
    _restore_normalization(model.env, state["normalize"])
    if forecastability is not None:
        given = {name: _array(value) for name, value in state["forecastability"].items()}
        forecastability.load_state_dict(given, model.policy)
    _restore_run(model, state["run"])
    env = _resumable(model.env)
    if env is not None and state["env"]:
        env.load_state_dict({name: _array(value) for name, value in state["env"].items()})
    else:
        model._last_obs = None
        warnings.warn(
            "the environment's own state is not part of the saved one: it begins new episodes, and the run resumes, "
            "but not bit for bit (give the VecEnv state_dict and load_state_dict)",
            stacklevel=2,
        )
    _restore_generators(state["rng"])


def save_training_state(
    model: OnPolicyAlgorithm, path: str | Path, forecastability: Forecastability | None = None
) -> None:
    """Write :func:`training_state` to one safetensors file, the values as JSON in its header.

    The file appears whole or not at all.

    :param model: as for :func:`training_state`
    :param path: of the file
    :param forecastability: as for :func:`training_state`
    """
    tensors, values = training_state(model, forecastability)
    unfinished = Path(f"{path}.part")
    save_file(tensors, unfinished, metadata={"values": json.dumps(values, default=lambda value: value.item())})
    os.replace(unfinished, path)


def load_training_state(
    model: OnPolicyAlgorithm, path: str | Path, forecastability: Forecastability | None = None
) -> None:
    """:func:`restore_training_state` from a file of :func:`save_training_state`.

    :param model: made as the saved one was
    :param path: of the file
    :param forecastability: as for :func:`restore_training_state`
    :raises ValueError: not such a file, or a state that does not fit the agent
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["values"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no training state: {error}") from None
    restore_training_state(model, tensors, values, forecastability)


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = optimizer.state_dict()
    groups = [{name: value for name, value in group.items() if name != "params"} for group in state["param_groups"]]
    entries = {f"{i}.{name}": value for i, entry in state["state"].items() for name, value in entry.items()}
    return {"groups": groups, **entries}


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in saved.items():
        index, _, name = key.partition(".")
        if name:
            state.setdefault(int(index), {})[name] = value
    groups = [
        # JSON knows no tuples; Adam's betas are one.
        own | {name: tuple(value) if isinstance(value, list) else value for name, value in group.items()}
        for own, group in zip(optimizer.state_dict()["param_groups"], saved["groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _episodes(model: OnPolicyAlgorithm) -> dict[str, Any]:
    """What the agent itself knows of the episodes under way, and the statistics of ended ones."""
    content: dict[str, Any] = {"_last_episode_starts": model._last_episode_starts}
    for name in ("_last_obs", "_last_original_obs"):
        value = getattr(model, name)
        content |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    for name in ("ep_info_buffer", "ep_success_buffer"):
        value = getattr(model, name)
        content[name] = None if value is None else list(value)
    return content


def _restore_run(model: OnPolicyAlgorithm, saved: dict[str, Any]) -> None:
    for name in (*_COUNTERS, "_last_episode_starts"):
        setattr(model, name, _array(saved[name]))
    for name in ("_last_obs", "_last_original_obs"):
        keyed = {key.removeprefix(f"{name}."): _array(v) for key, v in saved.items() if key.startswith(f"{name}.")}
        setattr(model, name, keyed or _array(saved.get(name)))
    for name in ("ep_info_buffer", "ep_success_buffer"):
        value = saved[name]
        setattr(model, name, None if value is None else deque(value, maxlen=model._stats_window_size))


def _generators(device: torch.device) -> dict[str, Any]:
    # The one place that looks at global generators: SB3 samples actions and minibatches from them.
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    numpy_state["state"] = numpy_state["state"] | {"key": numpy_state["state"]["key"].tolist()}
    content = {"numpy": numpy_state, "torch": torch.get_rng_state()}
    if device.type == "cuda":
        content["cuda"] = torch.cuda.get_rng_state(device)
    return content


def _restore_generators(saved: dict[str, Any]) -> None:
    numpy_state = dict(saved["numpy"])
    numpy_state["state"] = numpy_state["state"] | {"key": np.array(numpy_state["state"]["key"], dtype=np.uint32)}
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])


def _wrappers(env: VecEnv) -> tuple[list[VecEnvWrapper], VecEnv]:
    """Wrappers of a vectorised environment, outermost first, and what they wrap."""
    wrappers = []
    while isinstance(env, VecEnvWrapper):
        wrappers.append(env)
        env = env.venv
    return wrappers, env


def _resumable(env: VecEnv) -> ResumableEnv | None:
    wrappers, base = _wrappers(env)
    known = all(isinstance(wrapper, _KNOWN_WRAPPERS) for wrapper in wrappers)
    return base if known and isinstance(base, ResumableEnv) else None


def _env_state(env: VecEnv) -> dict[str, Any]:
    base = _resumable(env)
    return {} if base is None else base.state_dict()


def _running_statistics(env: VecEnv) -> dict[str, RunningMeanStd]:
    """Running means of each ``VecNormalize``, by name."""
    found = {}
    for place, wrapper in enumerate(w for w in _wrappers(env)[0] if isinstance(w, VecNormalize)):
        found[f"{place}.ret"] = wrapper.ret_rms
        if wrapper.norm_obs:
            keyed = wrapper.obs_rms if isinstance(wrapper.obs_rms, dict) else {"": wrapper.obs_rms}
            found |= {f"{place}.obs.{key}": statistics for key, statistics in keyed.items()}
    return found


def _normalization(env: VecEnv) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, statistics in _running_statistics(env).items():
        content |= {f"{name}/{what}": np.asarray(getattr(statistics, what)) for what in ("mean", "var", "count")}
    for place, wrapper in enumerate(w for w in _wrappers(env)[0] if isinstance(w, VecNormalize)):
        content[f"{place}.returns"] = wrapper.returns
    return content


def _restore_normalization(env: VecEnv, saved: dict[str, Any]) -> None:
    for name, statistics in _running_statistics(env).items():
        if f"{name}/mean" not in saved:
            raise ValueError("the state was taken without this VecNormalize: wrap the environment as it was")
        for what in ("mean", "var", "count"):
            setattr(statistics, what, saved[f"{name}/{what}"].numpy()[()])
    for place, wrapper in enumerate(w for w in _wrappers(env)[0] if isinstance(w, VecNormalize)):
        wrapper.returns = saved[f"{place}.returns"].numpy()
