"""Agents on disk: weights as safetensors, everything else as JSON, an SB3 zip beside them as an export."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load, save
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.callbacks import TrainingStateCallback
from agents.training_state import restore_training_state, training_state
from rl_forecast.errors import InputError
from rl_forecast.experiments.gridworld.agents import policy_kwargs
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import BaseConfig

_FORMAT = 1
_WEIGHTS, _DESCRIPTION, _EXPORT = "policy.safetensors", "agent.json", "agent.zip"


def save_agent(folder: RunFolder, name: str, model: PPO) -> None:
    """Write an agent to ``agents/<name>/``, the whole folder at once.

    ``agent.zip`` is Stable-Baselines3's own format, for ``PPO.load``. It holds a pickle: nothing here ever reads it.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.policy.state_dict().items()}
    weights = save(state)
    assert isinstance(model.observation_space, spaces.Box)
    assert isinstance(model.action_space, spaces.Discrete)
    description = {
        "format": _FORMAT,
        "algorithm": type(model).__name__,
        "num_timesteps": model.num_timesteps,
        "observation_dimension": int(model.observation_space.shape[0]),
        "n_actions": int(model.action_space.n),
        "shapes": {key: list(value.shape) for key, value in state.items()},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }

    def write(home: Path) -> None:
        (home / _WEIGHTS).write_bytes(weights)
        (home / _DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        model.save(home / _EXPORT)

    folder.write_folder(f"agents/{name}", write)


def has_agent(folder: RunFolder, name: str) -> bool:
    """Whether an agent has been saved, which is when its training is done."""
    return (folder.path / "agents" / name).is_dir()


def steps_of(folder: RunFolder, name: str) -> int:
    """Environment steps of a saved agent's training."""
    return _whole_number(_read(folder, name)[0], "num_timesteps", name)


def load_policy(folder: RunFolder, name: str, base: BaseConfig) -> ActorCriticPolicy:
    """Rebuild an agent's policy from its safetensors and JSON, on the CPU, without unpickling anything.

    :raises InputError: the agent's files are missing or damaged, or do not fit each other or the configuration
    """
    description, state = _read(folder, name)
    dimension, n_actions = (_whole_number(description, key, name) for key in ("observation_dimension", "n_actions"))
    first, last = state.get("mlp_extractor.policy_net.0.weight"), state.get("action_net.bias")
    if first is not None and last is not None and (found := (first.shape[1], len(last))) != (dimension, n_actions):
        raise InputError(
            f"agent {name!r}: {_DESCRIPTION} tells of {dimension} observed values and {n_actions} actions, its weights "
            f"are for {found[0]} and {found[1]}"
        )
    seen, actions = spaces.Box(0.0, 1.0, shape=(dimension,)), spaces.Discrete(n_actions)
    policy = ActorCriticPolicy(seen, actions, lr_schedule=lambda _: 0.0, **policy_kwargs(base))
    wanted = {key: list(value.shape) for key, value in policy.state_dict().items()}
    shapes = {key: list(value.shape) for key, value in state.items()}
    for key in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(key) != shapes.get(key):
            raise InputError(
                f"the weights of agent {name!r} do not fit config.yaml: {key} has the shape {shapes.get(key)}, the "
                f"configuration wants {wanted.get(key)}"
            )
    policy.load_state_dict(state)
    policy.set_training_mode(False)
    return policy


def _whole_number(description: dict[str, Any], key: str, name: str) -> int:
    try:
        return int(description[key])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"agent {name!r}: {_DESCRIPTION} has no {key} ({error})") from error


def _read(folder: RunFolder, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and weights, which must be those that were written together."""
    home = folder.path / "agents" / name
    try:
        description = json.loads((home / _DESCRIPTION).read_text(encoding="utf-8"))
        weights = (home / _WEIGHTS).read_bytes()
    except OSError as error:
        missing = Path(str(error.filename)).name
        raise InputError(f"agent {name!r} cannot be read from {folder.path}: {missing}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"agent {name!r}: {home / _DESCRIPTION} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format", _FORMAT) != _FORMAT:
        raise InputError(f"agent {name!r}: {home / _DESCRIPTION} is of another format than {_FORMAT}")
    # Agents written before there was a hash have none.
    found = hashlib.sha256(weights).hexdigest()
    if description.get("sha256", found) != found:
        raise InputError(
            f"agent {name!r}: {home / _WEIGHTS} is not the file that {_DESCRIPTION} describes (its sha256 is another): "
            "it was damaged or exchanged"
        )
    try:
        return description, load(weights)
    except SafetensorError as error:
        raise InputError(f"agent {name!r}: {home / _WEIGHTS} holds no weights: {error}") from error


class KeepCheckpoint(TrainingStateCallback):
    """Keeps the checkpoint of an agent in its run folder.

    Beside the state of the training it holds what was recorded and is not yet in TensorBoard: SB3 writes an update's
    losses only after the next rollout. It must come before callbacks that record when a rollout starts, because these
    record again when the training resumes.

    :param folder: run folder
    :param name: name of the agent
    :param every: environment steps between two checkpoints
    """

    def __init__(self, folder: RunFolder, name: str, every: int) -> None:
        super().__init__(folder.path / name, every)
        self._folder, self._name = folder, name

    def _on_training_end(self) -> None:
        """Nothing: the agent itself is saved next. From here the end of the training could not be logged again."""

    def _save(self, model: PPO) -> None:
        tensors, values = training_state(model)
        excluded = model.logger.name_to_excluded
        values["recorded"] = {
            key: float(value)
            for key, value in model.logger.name_to_value.items()
            if isinstance(value, int | float | np.number) and "tensorboard" not in (excluded[key] or ())
        }
        text = json.dumps(values, default=lambda value: value.item())
        self._folder.write_checkpoint(self._name, tensors, {"values": text})


def restore(model: PPO, tensors: dict[str, torch.Tensor], text: dict[str, str]) -> dict[str, float]:
    """Put an agent where its checkpoint is; the next thing it does must be to learn.

    :return: what had been recorded and was not yet in TensorBoard
    """
    values = json.loads(text["values"])
    recorded = {str(key): float(value) for key, value in values.pop("recorded").items()}
    restore_training_state(model, tensors, values)
    return recorded
