"""One recoloured hazard among ordinary ones: a rare mode that is harder to notice and to repair than ``recolor``'s.

## Description
As ``recolor``: a room of 5x5 cells with 2-5 lava tiles and MiniGrid's moves.

## Rare mode
In a fraction ``rare_probability`` (0.5 %) of tasks *one* lava tile is green and the others stay red. Most of what the
agent sees is ordinary, the danger comes from one tile, and a task's risk depends on whether that tile lies in the way:
the rare mode is graded from harmless to certain failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.gridworld.families.recolor import RecolorWorld
from envs.gridworld.rules import EMPTY, LAVA, RECOLORED_LAVA
from envs.gridworld.world import FAMILY_STREAM
from envs.hashing import hash_draws


@dataclass(frozen=True, kw_only=True)
class MixedWorld(RecolorWorld):
    """Settings of the world: those of :class:`RecolorWorld`."""

    family: ClassVar[str] = "mixed"
    rare_mode: ClassVar[str] = "one lava tile is green, the others are red"

    def _tiles(
        self, task_id: NDArray[np.int64], rare: NDArray[np.bool_], hazard: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        tile = np.where(hazard, LAVA, EMPTY).astype(np.uint8)
        draws = hash_draws(task_id, FAMILY_STREAM, hazard.shape[1])
        chosen = np.where(hazard, draws >> np.uint64(1), np.uint64(2**63)).argmin(axis=1)
        rows = np.flatnonzero(rare)
        tile[rows, chosen[rows]] = RECOLORED_LAVA
        return tile
