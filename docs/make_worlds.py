"""Writes the page and the picture of each world: ``python docs/make_worlds.py``.

A page is the docstring of the family's file, which is where the world is described, with its settings and ids. A test
holds the pages against this script.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import numpy as np

import envs
from envs import FAMILIES, GridWorld
from rl_forecast.experiments.gridworld.task_pictures import TaskPicture, task_picture, task_sheet
from rl_forecast.tasks import SPLITS

HERE = Path(__file__).parent


def page(family: str) -> str:
    """Markdown of one world."""
    world = FAMILIES[family]
    description = inspect.cleandoc(inspect.getmodule(world).__doc__ or "")  # type: ignore[union-attr]
    title, rest = description.split("\n\n", 1)
    ids = [
        f"`{name}`" + _arguments(name) for name, arguments in envs.REGISTERED.items() if arguments["family"] == family
    ]
    settings = [f"| `{f.name}` | {f.default} |" for f in fields(world)]
    picture = "a common task" + (" and a rare one" if world.rare_mode else "")
    lines = [
        f"# {title}",
        "",
        f"![{picture} of the family {family}]({family}.png)",
        "",
        rest,
        *_END,
        *([] if "## Reward" in rest else _REWARD),
        "",
        "## Observation",
        *_OBSERVATION[world().rules.turning],
        "",
        "## Exact risk",
        "`exact_risk(world, tasks, log_policy)` gives failure and success probability of any stochastic policy in each",
        "task, by dynamic programming.",
        "",
        "## Registered ids",
        *(f"* {line}" for line in ids),
        "",
        f"`envs.{world.__name__}` is the same for the batched engine and the exact risk; on the command line it is",
        f"`--world.family {family}`. Settings and their defaults:",
        "",
        "| setting | default |",
        "|---|---|",
        *settings,
    ]
    return "\n".join(lines) + "\n"


_END = (
    "",
    "## Failure, success, end",
    "Entering lava is failure and ends the episode; entering the goal is success and ends it. So does the horizon,",
    "which is part of the task and counts as neither.",
)
_REWARD = ("", "## Reward", "1 at the goal, `-failure_cost` in lava, 0 otherwise.")
_OBSERVATION = {
    True: (
        "118 numbers in a room of 5x5: the 5x5 tiles ahead as MiniGrid's agent sees them, far row first, with the",
        "channels *hazard*, *red*, *green*, *wall*; then one-hot offsets of the goal ahead and to the right.",
    ),
    False: (
        "119 numbers in a room of 5x5: the 5x5 tiles around the agent, north first, with the channels *hazard*, *red*,",
        "*green*, *wall*; one-hot offsets of the goal to the north and to the east; the logarithm of the slip level.",
    ),
}


def _arguments(env_id: str) -> str:
    others = {key: value for key, value in envs.REGISTERED[env_id].items() if key != "family"}
    return ": " + ", ".join(f"{key} {value}" for key, value in others.items()) if others else ""


def picture(family: str) -> list[TaskPicture]:
    """A common task and a rare one, the first of each among held-out tasks."""
    world: GridWorld = FAMILIES[family]()
    ids = SPLITS["held_out"].task_ids(5000, seed=0)
    rare = world.tasks(ids).rare
    chosen = [int(ids[np.argmin(rare)])] + ([int(ids[np.argmax(rare)])] if rare.any() else [])
    return [task_picture(world, task_id)[0] for task_id in chosen]


def main() -> None:
    """Write all of them."""
    for family in FAMILIES:
        (HERE / "worlds" / f"{family}.md").write_text(page(family), encoding="utf-8")
        task_sheet(picture(family), "").savefig(HERE / "worlds" / f"{family}.png", dpi=80)


if __name__ == "__main__":
    main()
