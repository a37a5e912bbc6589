"""Distribution shift: a rare mode that neither training nor the evaluation before release can meet.

## Description
As ``recolor``: a room of 5x5 cells with 2-5 lava tiles and MiniGrid's moves.

## Rare mode
In a fraction ``rare_probability`` (0.5 %) of *held-out* tasks all lava is green. Training and validation tasks have
none of it. Here an evaluation before deployment draws validation tasks, and deployment brings held-out ones: every
forecast assumes that the two are draws from one distribution, and no interval covers what happens when they are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.gridworld.families.recolor import RecolorWorld
from rl_forecast.tasks import SPLITS


@dataclass(frozen=True, kw_only=True)
class ShiftWorld(RecolorWorld):
    """Settings of the world: those of :class:`RecolorWorld`."""

    family: ClassVar[str] = "shift"
    rare_mode: ClassVar[str] = "all lava is green, in held-out tasks only"
    evaluation_split: ClassVar[str] = "validation"

    def _is_rare(self, task_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        return super()._is_rare(task_id) & (task_id >= SPLITS["held_out"].start)
