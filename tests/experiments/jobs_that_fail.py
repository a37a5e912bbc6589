"""Jobs for the tests of workers: they fail, or kill the process that runs them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Literal

from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.sweep.config import SweepConfig


@dataclass(frozen=True)
class Trouble:
    """Writes a file, then fails or writes another with the content of its inputs."""

    name: str
    does: Literal["", "raise", "kill"] = ""
    inputs: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """File that is written last."""
        return f"out/{self.name}.txt"

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Do it."""
        read = "".join(path.read_text() for name in self.inputs for path in (folder.path / name).iterdir())
        folder.write_text(f"out/{self.name}-half.txt", read)
        time.sleep(self.seconds)
        if self.does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "raise":
            raise ValueError(f"{self.name} went\nwrong")
        folder.write_text(self.key, read)
