"""A user's own PPO agent as the base agent of a run, out of Stable-Baselines3's zip."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from rl_forecast.errors import InputError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from stable_baselines3 import PPO

    from rl_forecast.experiments.settings import Config


def check_trust(path: Path, trusted: bool) -> None:
    """Refuse a zip that is none of SB3's, and any that the user has not said to trust; nothing of it is loaded.

    :raises InputError: why, and what to do
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--base-zip {str(path)!r} cannot be read: {reason}") from error
    if not {"data", "policy.pth"} <= set(names):
        raise InputError(f"--base-zip {str(path)!r} is not a zip that Stable-Baselines3 has saved")
    if not trusted:
        raise InputError(
            f"{str(path)!r} holds pickles, as every Stable-Baselines3 zip does, and loading one runs whatever code was "
            "put into it: add --trust if you know where it comes from"
        )


def import_agent(path: Path, config: Config) -> tuple[Config, PPO]:
    """Load a trusted zip, once; the run itself keeps the weights as safetensors.

    :return: the configuration with the agent's network, and the agent in the run's world
    :raises InputError: it cannot be loaded, or is no agent for this world
    """
    from stable_baselines3 import PPO

    from rl_forecast.experiments.gridworld.agents import make_base
    from rl_forecast.experiments.gridworld.worlds import make_world

    # What the zip holds of schedules is not needed, and their bytecode does not load under another Python.
    schedules: dict[str, Any] = {"lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0, "learning_rate": 0.0}
    try:
        found = PPO.load(path, device="cpu", custom_objects=schedules)
    except Exception as error:  # whatever a foreign pickle raises
        raise InputError(f"--base-zip {str(path)!r} cannot be loaded: {one_line(str(error), 300)}") from error
    config = replace(config, base=replace(config.base, **_network(path, found)))
    model = make_base(config, make_world(config.world))
    for what in ("observation_space", "action_space"):
        own, wanted = getattr(found, what), getattr(model, what)
        if own.shape != wanted.shape or getattr(own, "n", None) != getattr(wanted, "n", None):
            raise InputError(
                f"the agent of {str(path)!r} has the {what} {own}, the world {config.world.family} {wanted}"
            )
    model.policy.load_state_dict(found.policy.state_dict())
    model.num_timesteps = found.num_timesteps
    return config, model


def _network(path: Path, found: PPO) -> dict[str, Any]:
    """Fields of :class:`BaseConfig` that describe the network of an agent."""
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import FlattenExtractor
    from torch import nn

    policy = found.policy
    if type(policy) is not ActorCriticPolicy or not isinstance(policy.features_extractor, FlattenExtractor):
        raise InputError(f"the agent of {str(path)!r} is no MlpPolicy: only those can be the base agent of a run")
    names: dict[Any, Literal["relu", "tanh"]] = {nn.ReLU: "relu", nn.Tanh: "tanh"}
    layers: Any = policy.net_arch
    actor, critic = (layers["pi"], layers["vf"]) if isinstance(layers, dict) else (layers, layers)
    if policy.activation_fn not in names or list(actor) != list(critic) or not actor:
        raise InputError(
            f"the network of {str(path)!r} has the layers {layers} and {policy.activation_fn.__name__}: only equal "
            "hidden layers of actor and critic with ReLU or Tanh can be the base agent of a run"
        )
    return {"hidden": tuple(actor), "activation": names[policy.activation_fn]}
