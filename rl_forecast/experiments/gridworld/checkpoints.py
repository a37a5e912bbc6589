"""Where an agent stands in the middle of its training, on disk, and an agent put there again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agents.callbacks import TrainingStateCallback
from agents.training_state import restore_training_state, training_state
from rl_forecast.errors import InputError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from stable_baselines3 import PPO

    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["KeepCheckpoint", "checkpoint_path", "restore_checkpoint"]


def checkpoint_path(folder: RunFolder, name: str) -> Path:
    """File of an agent in training."""
    return folder.path / f"checkpoints/{name}.safetensors"


class KeepCheckpoint(TrainingStateCallback):
    """Keeps the checkpoint of an agent in its run folder.

    Beside the state of the training it holds what was recorded and is not yet in TensorBoard: SB3 writes an update's
    losses only after the next rollout. It must come before callbacks that record when a rollout starts, because these
    record again when the training goes on.

    :param folder: run folder
    :param name: name of the agent
    :param every: environment steps between two checkpoints
    """

    def __init__(self, folder: RunFolder, name: str, every: int) -> None:
        super().__init__(checkpoint_path(folder, name), every)
        self._folder = folder

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
        self._folder.write(
            f"checkpoints/{self.path.name}", lambda path: save_file(tensors, path, metadata={"values": text})
        )


def restore_checkpoint(path: Path, model: PPO) -> dict[str, float]:
    """Put an agent where its checkpoint is; the next thing it does must be to learn.

    :param path: of the checkpoint
    :param model: made as that of the checkpoint was
    :return: what had been recorded and was not yet in TensorBoard
    :raises InputError: the file is damaged, or of an agent with other settings
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["values"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        recorded = {str(key): float(value) for key, value in values.pop("recorded").items()}
        restore_training_state(model, tensors, values)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = one_line(str(error), 200)
        raise InputError(f"checkpoint {path} cannot be used: {reason}; delete it to train this agent again") from error
    return recorded
