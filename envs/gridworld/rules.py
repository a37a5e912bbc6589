"""The rules of motion, written once, for the engine, the single environment, the exact risk and the pictures.

*Turning*: a state is ``cell * 4 + direction``, actions are MiniGrid's 0 left, 1 right,
2 forward. *Cardinal*: a state is a cell, actions are 0 east, 1 south, 2 west, 3 north (MiniGrid's order of directions)
and 4 stay. A cell is ``y * size + x`` in the interior of the room; walls are not cells, a move into one stays.

Moves may slip. A task has a slip level s: with probability s the executed move is not the chosen one but drawn from a
row of ``slip_move``. Where an executed move leads is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: What stands in a cell. A code above EMPTY and below WALL is a hazard.
EMPTY, LAVA, RECOLORED_LAVA, WALL = 0, 1, 2, 3

#: Shape (4, 2): (dx, dy) of MiniGrid's directions right, down, left, up; y points down.
DIRECTION_VECTORS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])

_STAY = 4


@dataclass(frozen=True, eq=False)
class GridRules:
    """Motion in an empty room.

    :param size: width and height of the interior
    :param move: shape (n_states, n_actions), state that an executed move leads to
    :param slip_move: shape (n_actions, n_actions), distribution of the executed move when a chosen action slips;
        ``None`` if nothing ever slips
    :param cell: shape (n_states,), cell of a state
    :param heading: shape (n_states,), direction in which the agent looks
    """

    size: int
    move: NDArray[np.intp]
    slip_move: NDArray[np.float64] | None
    cell: NDArray[np.intp]
    heading: NDArray[np.intp]

    @property
    def n_states(self) -> int:
        return int(self.move.shape[0])

    @property
    def n_actions(self) -> int:
        return int(self.move.shape[1])

    @property
    def n_cells(self) -> int:
        return self.size * self.size

    @property
    def turning(self) -> bool:
        """Whether the direction in which the agent looks is part of the state."""
        return self.n_states > self.n_cells


def _ahead(size: int, x: NDArray[np.intp], y: NDArray[np.intp], heading: NDArray[np.intp]) -> NDArray[np.intp]:
    """Cell one step ahead, or the same cell in front of a wall."""
    ahead_x, ahead_y = x + DIRECTION_VECTORS[heading, 0], y + DIRECTION_VECTORS[heading, 1]
    inside = (ahead_x >= 0) & (ahead_x < size) & (ahead_y >= 0) & (ahead_y < size)
    return np.where(inside, ahead_y * size + ahead_x, y * size + x)


@lru_cache(maxsize=8)
def turning_rules(size: int) -> GridRules:
    """MiniGrid's moves in an empty room of that width: turn left, turn right, step forward."""
    y, x, heading = (a.ravel() for a in np.indices((size, size, 4)))
    cell = y * size + x
    ahead = _ahead(size, x, y, heading)
    move = np.stack([cell * 4 + (heading - 1) % 4, cell * 4 + (heading + 1) % 4, ahead * 4 + heading], axis=1)
    return GridRules(size, move, None, cell, heading)


@lru_cache(maxsize=8)
def cardinal_rules(size: int, safe_stay: bool = False) -> GridRules:
    """Steps in the four directions, or none. A slip executes one of the four directions, each equally likely; with
    ``safe_stay`` staying never slips.
    """
    y, x = (a.ravel() for a in np.indices((size, size)))
    cell = y * size + x
    steps = [_ahead(size, x, y, np.full_like(x, heading)) for heading in range(4)]
    slip = np.full((5, 5), 0.25)
    slip[:, _STAY] = 0.0
    if safe_stay:
        slip[_STAY] = np.eye(5)[_STAY]
    # The picture of the room has north above: that is where the agent looks.
    return GridRules(size, np.stack([*steps, cell], axis=1), slip, cell, np.full_like(cell, 3))
