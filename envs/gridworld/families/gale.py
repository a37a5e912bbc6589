"""A gale: a rare mode whose risk no training can remove.

## Description
As ``slip``: a room of 5x5 cells with 2-5 red lava tiles, steps in four directions or none, and a slip level that the
agent sees.

## Rare mode
In a fraction ``rare_probability`` (0.5 %) of tasks log10 of the slip level is uniform on ``log10_gale``, [-0.8, -0.4]
by default: every third move or so goes astray, an order of magnitude beyond common tasks. Whatever the policy does, a
large part of the risk stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.gridworld.families.slip import COMMON_LOG10_SLIP, log_uniform_slip
from envs.gridworld.rules import GridRules, cardinal_rules
from envs.gridworld.world import GridWorld


@dataclass(frozen=True, kw_only=True)
class GaleWorld(GridWorld):
    """Settings of the world, beside those of :class:`envs.gridworld.world.GridWorld`.

    :param log10_gale: ends of the range of log10 of the slip level in the rare mode
    """

    family: ClassVar[str] = "gale"
    rare_mode: ClassVar[str] = "moves slip ten times as often"

    log10_gale: tuple[float, float] = (-0.8, -0.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.log10_gale
        if not -4.0 <= low <= high <= 0.0:
            raise ValueError(f"log10_gale must be a rising pair within [-4, 0], it is {self.log10_gale}")

    def _make_rules(self) -> GridRules:
        return cardinal_rules(self.size)

    def _slip(self, task_id: NDArray[np.int64], rare: NDArray[np.bool_]) -> NDArray[np.float64]:
        common, gale = (log_uniform_slip(task_id, r) for r in (COMMON_LOG10_SLIP, self.log10_gale))
        return np.where(rare, gale, common)
