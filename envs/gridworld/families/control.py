"""The control: ordinary lava and nothing else.

## Description
As ``recolor``: a room of 5x5 cells with 2-5 red lava tiles and MiniGrid's moves. An evaluation and a deployment draw
tasks of one kind, so what a forecast gets wrong here is its own error and not a missed mode.

## Rare mode
None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from envs.gridworld.world import GridWorld


@dataclass(frozen=True, kw_only=True)
class ControlWorld(GridWorld):
    """Settings of the world: those of :class:`GridWorld`, without a rare mode.

    :param rare_probability: 0, nothing else
    """

    family: ClassVar[str] = "control"

    rare_probability: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rare_probability:
            raise ValueError(f"rare_probability must be 0 in the control world, it is {self.rare_probability}")
