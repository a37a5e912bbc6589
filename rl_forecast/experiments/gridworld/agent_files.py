"""Agents on disk: weights as safetensors, everything else as JSON, an SB3 zip beside them as an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3.common.policies import ActorCriticPolicy

from rl_forecast.experiments.config import BaseConfig
from rl_forecast.experiments.gridworld.models import policy_kwargs
from rl_forecast.usage import UsageError

if TYPE_CHECKING:
    from stable_baselines3 import PPO

    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["load_policy", "save_agent"]


def save_agent(folder: RunFolder, name: str, model: PPO) -> None:
    """Write an agent to ``agents/<name>/``.

    ``agent.zip`` is Stable-Baselines3's own format, for ``PPO.load``. It holds a pickle: nothing here ever reads it.

    :param folder: run folder
    :param name: name of the agent
    :param model: the agent
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.policy.state_dict().items()}
    folder.write(f"agents/{name}/policy.safetensors", lambda path: save_file(state, path))
    observation_space = model.observation_space
    assert isinstance(observation_space, spaces.Box)
    assert isinstance(model.action_space, spaces.Discrete)
    description = {
        "algorithm": type(model).__name__,
        "num_timesteps": model.num_timesteps,
        "observation_dimension": int(observation_space.shape[0]),
        "n_actions": int(model.action_space.n),
    }
    folder.write_json(f"agents/{name}/agent.json", description)
    folder.write(f"agents/{name}/agent.zip", model.save)


def load_policy(folder: RunFolder, name: str, base: BaseConfig) -> ActorCriticPolicy:
    """Rebuild an agent's policy from its safetensors and JSON, on the CPU, without unpickling anything.

    :param folder: run folder
    :param name: name of the agent
    :param base: configuration of the run's networks
    :raises UsageError: the agent's files are missing or do not fit each other
    """
    home = folder.path / "agents" / name
    try:
        description = json.loads((home / "agent.json").read_text(encoding="utf-8"))
        state = load_file(home / "policy.safetensors")
    except OSError as error:
        raise UsageError(
            f"agent {name!r} cannot be read from {folder.path}: {Path(str(error.filename)).name}"
        ) from error
    policy = ActorCriticPolicy(
        spaces.Box(0.0, 1.0, shape=(description["observation_dimension"],)),
        spaces.Discrete(description["n_actions"]),
        lr_schedule=lambda _: 0.0,
        **policy_kwargs(base),
    )
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"the weights of agent {name!r} do not fit config.yaml: {str(error).splitlines()[-1]}"
        ) from error
    policy.set_training_mode(False)
    return policy
