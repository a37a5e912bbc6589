"""What every world has: settings, rules, observation, and tasks as a function of their id.

A family of tasks is a subclass that overrides what makes it special; see :mod:`envs.gridworld.families`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from envs.gridworld.observation import EgocentricObservation
from envs.gridworld.rules import EMPTY, LAVA, WALL, GridRules, turning_rules
from envs.hashing import below_probability, hash_draws

_RARE_STREAM = 0
_FIRST_LAYOUT_STREAM = 1
#: First of the streams of random numbers that families may use; layouts never get that far.
FAMILY_STREAM = 1 << 20

_MIN_DISTANCE = 3
# Hazards are counted per room of 5x5 cells, larger rooms get more of them.
_REFERENCE_CELLS = 25


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Tasks of one world as arrays, one row per task, shape (n,) where not said.

    :param start_state: state in which an episode starts
    :param goal_cell: cell whose entry is success
    :param tile: shape (n, n_cells + 1), tile code of each cell; the last column is WALL, the tile beyond the room
    :param rare: whether the task belongs to the rare mode
    :param slip: probability that a move slips
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
    def hazard(self) -> NDArray[np.bool_]:
        """Shape (n, n_cells): whether entering the cell is failure."""
        hazard: NDArray[np.bool_] = self.tile[:, :-1] != EMPTY
        return hazard


@dataclass(frozen=True, kw_only=True)
class GridWorld:
    """Settings that all families share; a task is a function of the settings and its id.

    :param rare_probability: probability that a task belongs to the rare mode
    :param failure_cost: subtracted from the reward on failure
    :param size: width and height of the interior, at least 4
    :param horizon: steps after which an episode ends
    """

    #: Name of the family on the command line.
    family: ClassVar[str]
    #: What the rare mode is, in a few words; empty if there is none.
    rare_mode: ClassVar[str] = ""
    #: Split from which an evaluation before deployment draws its tasks.
    evaluation_split: ClassVar[str] = "held_out"

    rare_probability: float = 0.005
    failure_cost: float = 0.0
    size: int = 5
    horizon: int = 20

    def __post_init__(self) -> None:
        if not 0.0 <= self.rare_probability <= 1.0:
            raise ValueError(f"rare_probability must lie in [0, 1], it is {self.rare_probability}")
        if self.size < 4:
            raise ValueError(f"size must be at least 4, it is {self.size}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, it is {self.horizon}")

    @property
    def shown_severity(self) -> float:
        """How much of the recoloured hazard's type the agent sees, see :meth:`EgocentricObservation.build`."""
        return 1.0

    def _make_rules(self) -> GridRules:
        return turning_rules(self.size)

    def _is_rare(self, task_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        return below_probability(hash_draws(task_id, _RARE_STREAM, 1)[:, 0], self.rare_probability)

    def _hazard_range(self, rare: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Fewest and most hazards of each task in a room of 5x5 cells."""
        return np.full(len(rare), 2), np.full(len(rare), 5)

    def _tiles(
        self, task_id: NDArray[np.int64], rare: NDArray[np.bool_], hazard: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Tile code of each cell, shape (n, n_cells)."""
        return np.where(hazard, LAVA, EMPTY).astype(np.uint8)

    def _slip(self, task_id: NDArray[np.int64], rare: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.zeros(len(rare))

    def _goal_reward(self, rare: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.ones(len(rare))

    @cached_property
    def rules(self) -> GridRules:
        return self._make_rules()

    @cached_property
    def observation(self) -> EgocentricObservation:
        return EgocentricObservation.build(self.rules, self.shown_severity)

    def tasks(self, task_id: NDArray[np.int64]) -> TaskBatch:
        """Generate tasks, in the order of their ids, shape (n,).

        A layout whose goal is too close (Manhattan distance below 3) or cut off is drawn again from the task's next
        stream. Whether a task is rare does not depend on its layout, so the frequency of the mode is exact.

        :raises ValueError: a negative id, or ids that are not a vector of integers

        >>> from envs import RecolorWorld
        >>> tasks = RecolorWorld().tasks(np.arange(2_000))  # the same on every machine
        >>> len(tasks), int(tasks.rare.sum())
        (2000, 8)
        """
        task_id = np.asarray(task_id)
        if task_id.ndim != 1 or task_id.dtype.kind not in "iu" or (task_id.size and task_id.min() < 0):
            raise ValueError("task ids must be a vector of non-negative integers")
        ids = task_id.astype(np.int64)
        n = len(ids)
        rare = self._is_rare(ids)
        fewest, most = (
            np.maximum(1, np.rint(count * (self.rules.n_cells / _REFERENCE_CELLS))).astype(np.intp)
            for count in self._hazard_range(rare)
        )
        start, goal = np.zeros(n, dtype=np.intp), np.zeros(n, dtype=np.intp)
        hazard = np.zeros((n, self.rules.n_cells), dtype=np.bool_)
        pending, stream = np.arange(n), _FIRST_LAYOUT_STREAM
        while pending.size:
            start_p, goal_p, hazard_p = self._draw_layout(ids[pending], stream, fewest[pending], most[pending])
            start[pending], goal[pending], hazard[pending] = start_p, goal_p, hazard_p
            cell = self.rules.cell[start_p]
            distance = np.abs(cell % self.size - goal_p % self.size) + np.abs(cell // self.size - goal_p // self.size)
            good = (distance >= _MIN_DISTANCE) & _goal_is_reachable(hazard_p, cell, goal_p, self.size)
            pending, stream = pending[~good], stream + 1
        tile = np.full((n, self.rules.n_cells + 1), WALL, dtype=np.uint8)
        tile[:, :-1] = self._tiles(ids, rare, hazard)
        return TaskBatch(ids, start, goal, tile, rare, self._slip(ids, rare), self._goal_reward(rare))

    def _draw_layout(
        self, ids: NDArray[np.int64], stream: int, fewest: NDArray[np.intp], most: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Start state, goal cell and hazards: a random order of the cells, of which the first ones are taken."""
        n_cells = self.rules.n_cells
        draws = hash_draws(ids, stream, n_cells + 2)
        order = np.argsort(draws[:, :n_cells], axis=1, kind="stable")
        start = order[:, 0] * 4 + (draws[:, n_cells] % np.uint64(4)).astype(np.intp)
        n_hazards = fewest + (draws[:, n_cells + 1] % (most - fewest + 1).astype(np.uint64)).astype(np.intp)
        hazard = np.zeros((len(ids), n_cells), dtype=np.bool_)
        widest = int(most.max())
        taken = np.arange(widest)[None, :] < n_hazards[:, None]
        np.put_along_axis(hazard, order[:, 2 : 2 + widest], taken, axis=1)
        return start if self.rules.turning else order[:, 0], order[:, 1], hazard


def _goal_is_reachable(
    hazard: NDArray[np.bool_], start_cell: NDArray[np.intp], goal_cell: NDArray[np.intp], size: int
) -> NDArray[np.bool_]:
    """Whether a path without hazards, shape (n, size * size), joins start and goal; both are free of hazards."""
    neighbours = np.zeros((3, 3, 3), dtype=np.bool_)
    neighbours[1] = ndimage.generate_binary_structure(2, 1)  # of the same room, none of the rooms before and after
    region = ndimage.label(~hazard.reshape(-1, size, size), structure=neighbours)[0].reshape(hazard.shape)
    rows = np.arange(len(hazard))
    joined: NDArray[np.bool_] = region[rows, start_cell] == region[rows, goal_cell]
    return joined
