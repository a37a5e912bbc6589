"""One process or several: who this one is, and what the main one does for all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from rl_forecast.errors import InputError
from rl_forecast.experiments.settings import AnyConfig, Config


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as ``accelerate launch`` starts them: number of this one, of all, and its device."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, config: AnyConfig) -> Processes:
        """Meet the other processes, if there are any.

        :raises InputError: the device is not there, accelerate is not installed, or the job has one process only
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            if isinstance(config, Config):
                raise InputError("several processes can only train language models: start one for gridworlds")
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise InputError("several processes need accelerate: pip install rl-forecast[lm]") from error
            state = PartialState(cpu=config.device == "cpu")
            return cls(state.process_index, state.num_processes, state.device)
        try:
            device = torch.device(config.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {config.device!r} is not available here: use cpu") from error
        return cls(0, 1, device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def from_main(self, value: Any) -> Any:
        """The main process's value, plain data, in every process."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def leave(self) -> None:
        """End the meeting, so that no process group outlives its run."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
