"""The rules of motion, written once: a table from which the batched engine, the exact risk and observations derive.

A state is ``cell * 4 + direction`` with ``cell = y * size + x`` in the interior of the room (walls are not cells) and
MiniGrid's directions 0 right, 1 down, 2 left, 3 up. Actions are MiniGrid's 0 left, 1 right, 2 forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DIRECTION_VECTORS", "GridRules", "turning_rules"]

#: Shape (4, 2): (dx, dy) of MiniGrid's directions, y pointing down.
DIRECTION_VECTORS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


@dataclass(frozen=True, eq=False)
class GridRules:
    """Motion in an empty room; what entering a cell means (hazard, goal) belongs to the task.

    :param size: width and height of the interior
    :param move: shape (n_states, n_actions), next state
    :param cell: shape (n_states,), cell of a state
    """

    size: int
    move: NDArray[np.intp]
    cell: NDArray[np.intp]

    @property
    def n_states(self) -> int:
        """Number of states."""
        return int(self.move.shape[0])

    @property
    def n_actions(self) -> int:
        """Number of actions."""
        return int(self.move.shape[1])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.size * self.size

    @property
    def entered_cell(self) -> NDArray[np.intp]:
        """Shape (n_states, n_actions): the cell an action leads to."""
        entered: NDArray[np.intp] = self.cell[self.move]
        return entered


@lru_cache(maxsize=8)
def turning_rules(size: int) -> GridRules:
    """MiniGrid's dynamics in an empty room: turn left, turn right, step forward; forward into a wall stays.

    :param size: width and height of the interior
    """
    y, x, direction = (a.ravel() for a in np.indices((size, size, 4)))
    ahead_x = x + DIRECTION_VECTORS[direction, 0]
    ahead_y = y + DIRECTION_VECTORS[direction, 1]
    inside = (ahead_x >= 0) & (ahead_x < size) & (ahead_y >= 0) & (ahead_y < size)
    cell = y * size + x
    ahead = np.where(inside, ahead_y * size + ahead_x, cell)
    move = np.stack([cell * 4 + (direction - 1) % 4, cell * 4 + (direction + 1) % 4, ahead * 4 + direction], axis=1)
    return GridRules(size=size, move=move, cell=cell)
