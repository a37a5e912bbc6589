"""A batch of gridworld tasks as arrays: layouts, goals and starts, one row a task."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EMPTY", "LAVA", "RECOLORED_LAVA", "WALL", "TaskBatch", "goal_is_reachable"]

#: Tile codes of :attr:`TaskBatch.tile`. A code above EMPTY and below WALL is a hazard.
EMPTY, LAVA, RECOLORED_LAVA, WALL = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Tasks of one world.

    :param task_id: shape (n,), integer ids
    :param start_state: shape (n,), state in which an episode starts
    :param goal_cell: shape (n,), cell whose entry is success
    :param tile: shape (n, n_cells + 1), tile code of each cell; the last column is WALL, the tile beyond the room
    :param rare: shape (n,), whether the task belongs to the rare mode
    :param slip: shape (n,), probability that a move slips
    :param goal_reward: shape (n,), reward at the goal
    """

    task_id: NDArray[np.int64]
    start_state: NDArray[np.intp]
    goal_cell: NDArray[np.intp]
    tile: NDArray[np.uint8]
    rare: NDArray[np.bool_]
    slip: NDArray[np.float64]
    goal_reward: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.task_id.shape[0])

    def __getitem__(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> TaskBatch:
        return TaskBatch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    @property
    def hazard(self) -> NDArray[np.bool_]:
        """Shape (n, n_cells): whether entering the cell is failure."""
        cells = self.tile[:, :-1]
        hazard: NDArray[np.bool_] = (cells != EMPTY) & (cells != WALL)
        return hazard


def goal_is_reachable(
    hazard: NDArray[np.bool_], start_cell: NDArray[np.intp], goal_cell: NDArray[np.intp], size: int
) -> NDArray[np.bool_]:
    """Flood fill of many rooms at once.

    :param hazard: shape (n, size * size), cells that cannot be crossed
    :param start_cell: shape (n,)
    :param goal_cell: shape (n,)
    :param size: width of the room
    :return: shape (n,), whether a hazard-free path joins start and goal
    """
    n = len(hazard)
    free = ~hazard.reshape(n, size, size)
    start = np.zeros((n, size * size), dtype=np.bool_)
    start[np.arange(n), start_cell] = True
    reached = start.reshape(n, size, size)
    while True:
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= free
        if np.array_equal(grown, reached):
            return reached.reshape(n, -1)[np.arange(n), goal_cell]
        reached = grown
