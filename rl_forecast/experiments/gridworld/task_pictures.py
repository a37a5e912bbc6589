"""Pictures of tasks: the room as MiniGrid draws it, where an agent goes and where it dies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.risk.base import log_action_probability
from envs.gridworld.exact_risk import Occupancy, occupancy
from envs.gridworld.minigrid_env import RiskGridEnv

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from envs.gridworld.world import GridWorld, TaskBatch

# Range of the colours of failure probabilities, log10.
_LOG10_RANGE = (-8.0, 0.0)
# Pixels of a tile.
_TILE = 48


@dataclass(frozen=True, eq=False)
class TaskPicture:
    """One panel.

    :param title: text above it
    :param image: shape (height, width, 3), the room
    :param goal_cell: cell of the goal, which is named because recoloured lava is green too; None names nothing
    :param mass: what an agent does in it, of one task; None draws the room only
    """

    title: str
    image: NDArray[np.uint8]
    goal_cell: int | None = None
    mass: Occupancy | None = None


def _frame(world: GridWorld, task_id: int) -> tuple[RiskGridEnv, NDArray[np.uint8]]:
    env = RiskGridEnv(world, render_mode="rgb_array")
    env.reset(options={"task_id": task_id})
    frame: NDArray[np.uint8] = env.get_frame(highlight=False, tile_size=_TILE)
    return env, frame


def task_picture(world: GridWorld, task_id: int) -> tuple[TaskPicture, str]:
    """A task as a picture, titled with what does not show, and as text."""
    env, frame = _frame(world, task_id)
    tasks = world.tasks(np.array([task_id]))
    title = f"task {task_id} of {world.family}\n{', '.join(_facts(world, tasks))}"
    text: str = env.pprint_grid()  # type: ignore[no-untyped-call]
    return TaskPicture(title, frame, int(tasks.goal_cell[0])), text


def _facts(world: GridWorld, tasks: TaskBatch) -> list[str]:
    """What a picture of the room does not show, of the first task of a batch."""
    facts = ["rare" if tasks.rare[0] else "common"]
    if world.rules.slip_move is not None:
        facts.append(f"slip level {tasks.slip[0]:.2g}")
    if tasks.goal_reward[0] != 1.0:
        facts.append(f"goal worth {tasks.goal_reward[0]:.3g}")
    return facts


def agent_picture(world: GridWorld, task_id: int, policy: ActorCriticPolicy, title: str) -> TaskPicture:
    """A task with an agent's visits and deaths; the title stands above the probabilities of failure and success."""
    tasks = world.tasks(np.array([task_id]))
    policy.set_training_mode(False)
    mass = occupancy(world, tasks, lambda observation: log_action_probability(policy, observation))
    title += f"\nP(failure) {_probability(mass.failure.sum())}, P(success) {mass.success[0]:.3f}"
    return TaskPicture(title, _frame(world, task_id)[1], int(tasks.goal_cell[0]), mass)


def worst_tasks_sheet(world: GridWorld, scores: pl.DataFrame, policy: ActorCriticPolicy, name: str, n: int) -> Figure:
    """The ``n`` riskiest tasks of an agent on one sheet, the worst first; ``scores`` has ``task_id`` and ``psi``."""
    order = np.argsort(scores["psi"].to_numpy(), kind="stable")[::-1][:n]
    pictures = []
    for rank, task_id in enumerate(scores["task_id"].to_numpy()[order].tolist(), 1):
        facts = ", ".join(_facts(world, world.tasks(np.array([task_id]))))
        pictures.append(agent_picture(world, task_id, policy, f"#{rank}: task {task_id}\n{facts}"))
    return task_sheet(pictures, f"{world.family}: the {len(order)} riskiest of {len(scores)} held-out tasks of {name}")


def task_sheet(pictures: list[TaskPicture], title: str) -> Figure:
    """Panels in rows of at most three, under a title and with one legend."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    columns = min(len(pictures), 4 if len(pictures) == 4 else 3)
    rows = -(-len(pictures) // columns)
    with_mass = any(picture.mass is not None for picture in pictures)
    lines = max(picture.title.count("\n") + 1 for picture in pictures)
    height = (3.0 + 0.2 * lines) * rows + (1.2 if with_mass else 0.0) + (0.3 if title else 0.0)
    figure = Figure(figsize=(max(3.1 * columns + 0.4, 4.5), height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    colours = ScalarMappable(Normalize(*_LOG10_RANGE), "inferno")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture.image)
        axis.set_title(picture.title, fontsize=9)
        _overlay(axis, picture, colours)
    if title:
        figure.suptitle(title, fontsize=11)
    if with_mass:
        bar = figure.colorbar(colours, ax=axes, orientation="horizontal", shrink=0.7, aspect=40, pad=0.02)
        bar.set_ticks([-8, -6, -4, -2, 0], labels=["$\\leq 10^{-8}$", "$10^{-6}$", "$10^{-4}$", "0.01", "1"])
        bar.set_label(
            "square on a lava tile: probability that the episode ends in it\n"
            "white disc: expected steps in the cell (a full cell: 2 or more)",
            fontsize=9,
        )
    return figure


def _overlay(axis: Axes, picture: TaskPicture, colours: Any) -> None:
    """Discs where the agent goes, coloured squares where it dies, and the goal's name."""
    from matplotlib.patches import Circle, Rectangle

    if picture.goal_cell is None:
        return
    size = picture.image.shape[0] // _TILE - 2

    def middle(cell: int) -> tuple[float, float]:
        return (cell % size + 1.5) * _TILE, (cell // size + 1.5) * _TILE

    axis.text(*middle(picture.goal_cell), "goal", ha="center", va="center", fontsize=7)
    if picture.mass is None:
        return
    visits, failure = picture.mass.visits[0], picture.mass.failure[0]
    for cell in range(size * size):
        x, y = middle(cell)
        if visits[cell] > 1e-3:
            radius = 0.5 * _TILE * np.sqrt(min(visits[cell] / 2.0, 1.0))
            axis.add_patch(Circle((x, y), radius, color="white", alpha=0.55, lw=0))
        if failure[cell] > 0:
            colour = colours.to_rgba(np.clip(np.log10(failure[cell]), *_LOG10_RANGE))
            dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5
            corner, side = (x - 0.36 * _TILE, y - 0.36 * _TILE), 0.72 * _TILE
            axis.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor="white", lw=0.8))
            text = _probability(failure[cell])
            axis.text(x, y, text, ha="center", va="center", fontsize=6, color="w" if dark else "k")


def _probability(p: float) -> str:
    return "<1e-99" if 0 < p < 1e-99 else f"{p:.2g}"
