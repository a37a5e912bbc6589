"""The riskiest tasks of a setting as pictures, the riskiest prompts as text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.experiments.metrics import title_of
from rl_forecast.experiments.report.figures import Panel, file_stem
from rl_forecast.experiments.settings import Config
from rl_forecast.scores import format_probability

if TYPE_CHECKING:
    from rl_forecast.experiments.report.reading import Setting, Unit

__all__ = ["has_policy", "sample_rows", "worst_task_panels"]

# Pictures of a setting at most, and for each agent whose policy was kept.
_N_PICTURES, _N_WORST = 9, 2


def worst_task_panels(setting: Setting) -> list[Panel]:
    """The riskiest held-out tasks of every agent, of the first seed.

    Where the run kept the policy, the picture shows where the agent goes and dies; a sweep keeps scores only, and its
    pictures show the room, once for all agents whose riskiest task it is.

    :param setting: a gridworld setting
    """
    panels = []
    rooms: dict[int, list[tuple[Unit, float]]] = {}
    n_worst = _N_WORST if _N_WORST * len(setting.agents) <= _N_PICTURES else 1
    for agent in setting.agents:
        unit = setting.of(agent)[0]
        psi, tasks = unit.scores["psi"].to_numpy(), unit.scores["task_id"]
        for rank, row in enumerate(np.argsort(-psi, kind="stable")[:n_worst].tolist(), 1):
            shown = unit, float(psi[row])
            if has_policy(unit):
                panels.append(_picture(setting, [shown], int(tasks[row]), rank))
            elif rank == 1:
                rooms.setdefault(int(tasks[row]), []).append(shown)
    return panels + [_picture(setting, found, task_id, 1) for task_id, found in rooms.items()]


def has_policy(unit: Unit) -> bool:
    """Whether the run kept the agent."""
    return (unit.source / "agents" / unit.agent / "policy.safetensors").is_file()


def _picture(setting: Setting, agents: list[tuple[Unit, float]], task_id: int, rank: int) -> Panel:
    """A task with what one agent does in it, or with the scores of several."""
    # Imported here: pictures need the worlds and, with a policy, Stable-Baselines3.
    from rl_forecast.experiments.gridworld.agent_files import load_policy
    from rl_forecast.experiments.gridworld.task_pictures import agent_picture, task_picture, task_sheet
    from rl_forecast.experiments.gridworld.worlds import make_world
    from rl_forecast.experiments.run_folder import RunFolder

    unit = agents[0][0]
    assert isinstance(unit.config, Config)
    world = make_world(unit.config.world)
    names = ", ".join(title_of(one.agent) for one, _ in agents)
    risks = [f"{title_of(one.agent)}: P(failure) {format_probability(score)}" for one, score in agents]
    picture, _ = task_picture(world, task_id)
    facts = picture.title.replace("\n", ", ")
    if has_policy(unit):
        policy = load_policy(RunFolder(unit.source), unit.agent, unit.config.base)
        picture = agent_picture(world, task_id, policy, f"{names}, seed {unit.seed}, #{rank}\n{facts}")
        caption = f"{names}, #{rank} of its riskiest tasks"
    else:
        picture = replace(picture, title="\n".join([f"seed {unit.seed}: {facts}", *risks]))
        caption = f"Riskiest task of {names}"
    alt = (
        f"Number {rank} of the riskiest held-out tasks of {names} in {setting.name}, seed {unit.seed}: {facts}. "
        f"{'; '.join(risks)}."
    )
    stem = file_stem("worst", setting.name, unit.agent, str(rank))
    return Panel(stem, caption, alt, task_sheet([picture], ""), is_photo=True)


def sample_rows(markdown: str) -> list[tuple[str, str, str]]:
    """Rows of the table of samples that a language-model run writes: the worst prompts first.

    :param markdown: the table
    :return: probability of the forbidden answer, prompt, greedy answer
    """
    rows = []
    for line in markdown.splitlines()[2:]:
        cells = [cell.strip().replace("\\|", "|").strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3:
            rows.append((cells[0], cells[1], cells[2]))
    return rows
