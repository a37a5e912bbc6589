"""Jobs for the tests of workers: they fail, or kill the process that runs them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.sweep.config import SweepConfig


@dataclass(frozen=True)
class Trouble:
    """Counts its runs in a file, fails the first ones, then writes two files.

    :param name: of the job
    :param counter: file that gets a letter a run
    :param n_bad: runs that go wrong
    :param kill: go wrong by killing the process, instead of by an error
    :param inputs: files it reads
    :param seconds: that a run takes
    """

    name: str
    counter: str
    n_bad: int = 0
    kill: bool = False
    inputs: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """File that is written last."""
        return f"out/{self.name}.txt"

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Do it."""
        with Path(self.counter).open("a") as file:
            file.write("x")
        time.sleep(self.seconds)
        folder.write_text(f"out/{self.name}-half.txt", "half")
        if len(Path(self.counter).read_text()) <= self.n_bad:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"{self.name} went\nwrong")
        folder.write_text(self.key, "".join((folder.path / name).read_text() for name in self.inputs) + self.name)
