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
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from agents.forecastability import Forecastability
from rl_forecast.tasks import ResumableEnv

_FORMAT = 2
# Key of what stands in JSON in place of a tensor.
_TENSOR = "tensor"
# Wrappers that are either without a state of their own or whose state is kept here.
_KNOWN_WRAPPERS = (VecNormalize, VecTransposeImage)
_ATTRIBUTES = (
    "num_timesteps",
    "_episode_num",
    "_n_updates",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
    "_last_episode_starts",
    "_last_obs",
    "_last_original_obs",
)
_STATISTICS = ("ep_info_buffer", "ep_success_buffer")


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
    env = _resumable(model.env)
    tensors: dict[str, torch.Tensor] = {}
    values = {
        "format": _FORMAT,
        "algorithm": type(model).__name__,
        "n_envs": model.n_envs,
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "run": {name: getattr(model, name) for name in (*_ATTRIBUTES, *_STATISTICS)},
        "rng": _generators(model.device),
        "normalize": [_normalization(wrapper) for wrapper in _normalizers(model.env)],
        "env": None if env is None else env.state_dict(),
        "forecastability": None if forecastability is None else forecastability.state_dict(),
    }
    packed: dict[str, Any] = _pack(values, "", tensors)
    return tensors, packed


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
    :param tensors: of :func:`training_state`, and so are the values
    :param forecastability: a new callback with the same settings, to be given to ``learn``
    :raises ValueError: the state is of another algorithm, network, number of environments, or pool of tasks
    """
    forecastability = forecastability or getattr(model, "forecastability", None)
    found = (values.get("format"), values.get("algorithm"), values.get("n_envs"))
    if found != (wanted := (_FORMAT, type(model).__name__, model.n_envs)):
        raise ValueError(f"the state is of (format, algorithm, n_envs) {found}, the agent is of {wanted}")
    state: dict[str, Any] = _unpack(values, tensors)
    if (state["forecastability"] is None) != (forecastability is None):
        raise ValueError("only one of the two is a training with the forecastability callback")
    assert model.env is not None
    normalizers = _normalizers(model.env)
    if len(normalizers) != len(state["normalize"]):
        raise ValueError("the state was taken with another number of VecNormalize: wrap the environment as it was")
    try:
        model.policy.load_state_dict(state["policy"])
    except RuntimeError as error:
        raise ValueError(f"the state is of another network: {' '.join(str(error).split())}") from None
    optimizer = state["optimizer"]
    optimizer["state"] = {int(index): entry for index, entry in optimizer["state"].items()}  # JSON's keys are text
    model.policy.optimizer.load_state_dict(optimizer)
    for wrapper, saved in zip(normalizers, state["normalize"], strict=True):
        _restore_normalization(wrapper, saved)
    if forecastability is not None:
        forecastability.load_state_dict(_as_arrays(state["forecastability"]), model.policy)
    run = _as_arrays(state["run"])
    for name in _ATTRIBUTES:
        setattr(model, name, run[name])
    for name in _STATISTICS:
        setattr(model, name, None if run[name] is None else deque(run[name], maxlen=model._stats_window_size))
    env = _resumable(model.env)
    if env is not None and state["env"] is not None:
        env.load_state_dict(_as_arrays(state["env"]))
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
    """Write :func:`training_state` to one safetensors file, the values as JSON in its header. The file appears whole or
    not at all.

    The arguments are those of :func:`training_state`, and the path of the file.
    """
    tensors, values = training_state(model, forecastability)
    unfinished = Path(f"{path}.part")
    save_file(tensors, unfinished, metadata={"values": json.dumps(values)})
    os.replace(unfinished, path)


def load_training_state(
    model: OnPolicyAlgorithm, path: str | Path, forecastability: Forecastability | None = None
) -> None:
    """:func:`restore_training_state` from a file of :func:`save_training_state`.

    :raises ValueError: not such a file, or a state that does not fit the agent
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["values"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no training state: {error}") from None
    restore_training_state(model, tensors, values, forecastability)


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """What JSON can hold of nested values; arrays and tensors are put aside, their path in their place."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor | np.ndarray):
        # A copy each: layers may share memory, and the run continues.
        tensors[path] = torch.as_tensor(value).detach().cpu().clone().contiguous()
        return {_TENSOR: path}
    if isinstance(value, dict):
        return {str(key): _pack(entry, f"{path}/{key}".lstrip("/"), tensors) for key, entry in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_pack(entry, f"{path}/{i}", tensors) for i, entry in enumerate(value)]
    return value


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _unpack(entry, tensors) for key, entry in value.items()}
    return [_unpack(entry, tensors) for entry in value] if isinstance(value, list) else value


def _as_arrays(value: Any) -> Any:
    """Nested values with numpy's arrays in place of tensors."""
    if isinstance(value, dict):
        return {key: _as_arrays(entry) for key, entry in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _generators(device: torch.device) -> dict[str, Any]:
    # The one place that looks at global generators: SB3 samples actions and minibatches from them.
    content = {"numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}  # noqa: NPY002
    return content | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _restore_generators(saved: dict[str, Any]) -> None:
    np.random.set_state(_as_arrays(saved["numpy"]))  # noqa: NPY002
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])


def _resumable(env: VecEnv) -> ResumableEnv | None:
    while isinstance(env, _KNOWN_WRAPPERS):
        env = env.venv
    return env if isinstance(env, ResumableEnv) else None


def _normalizers(env: VecEnv) -> list[VecNormalize]:
    """The environment's ``VecNormalize`` wrappers, outermost first."""
    found = []
    while isinstance(env, VecEnvWrapper):
        found += [env] if isinstance(env, VecNormalize) else []
        env = env.venv
    return found


def _running_means(wrapper: VecNormalize) -> dict[str, RunningMeanStd]:
    observed = {} if not wrapper.norm_obs else wrapper.obs_rms
    return {"ret": wrapper.ret_rms} | (observed if isinstance(observed, dict) else {"obs": observed})


def _normalization(wrapper: VecNormalize) -> dict[str, Any]:
    means = {name: vars(statistics) for name, statistics in _running_means(wrapper).items()}
    return {"returns": wrapper.returns, "means": means}


def _restore_normalization(wrapper: VecNormalize, saved: dict[str, Any]) -> None:
    wrapper.returns = saved["returns"].numpy()
    for name, statistics in _running_means(wrapper).items():
        for what, value in saved["means"][name].items():
            setattr(statistics, what, value.numpy() if isinstance(value, torch.Tensor) else value)
