"""Slippery ground: irreducible risk that differs from task to task, and a rare mode that training can repair.

## Description
A room of 5x5 cells with 2-5 lava tiles. The agent steps east, south, west or north, or stays. Each task has a slip
level s with log10 s uniform on [-4, -1.5], which the agent sees: with probability s a uniformly random direction is
executed instead of the chosen action, staying included. So passing or waiting beside lava always costs risk, and a
detour costs time.

## Rare mode
In a fraction ``rare_probability`` (0.5 %) of tasks all lava is green instead of red, as in ``recolor``. Training can
bring its risk down to that of common tasks, not to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.gridworld.families.recolor import RecolorWorld
from envs.gridworld.rules import GridRules, cardinal_rules
from envs.gridworld.world import FAMILY_STREAM
from envs.hashing import hash_draws, uniform

#: Range of log10 of the slip level in common tasks.
COMMON_LOG10_SLIP = (-4.0, -1.5)

_SLIP_STREAM = FAMILY_STREAM + 1


def log_uniform_slip(task_id: NDArray[np.int64], log10_range: tuple[float, float]) -> NDArray[np.float64]:
    """Slip level of each task, its log10 uniform on the range."""
    low, high = log10_range
    level: NDArray[np.float64] = 10.0 ** (low + (high - low) * uniform(hash_draws(task_id, _SLIP_STREAM, 1)[:, 0]))
    return level


@dataclass(frozen=True, kw_only=True)
class SlipWorld(RecolorWorld):
    """Settings of the world: those of :class:`RecolorWorld`."""

    family: ClassVar[str] = "slip"
    rare_mode: ClassVar[str] = "all lava is green"

    def _make_rules(self) -> GridRules:
        return cardinal_rules(self.size)

    def _slip(self, task_id: NDArray[np.int64], rare: NDArray[np.bool_]) -> NDArray[np.float64]:
        return log_uniform_slip(task_id, COMMON_LOG10_SLIP)
