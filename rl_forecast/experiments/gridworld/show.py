"""What ``rl-forecast show`` does: pictures of tasks, of agents in them, and of an agent's riskiest tasks.

Each function writes a picture and returns the lines to print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import polars as pl

import envs
from rl_forecast.commands.shared import writing
from rl_forecast.errors import InputError, unknown_name
from rl_forecast.experiments.command_line import RUNS, read_config
from rl_forecast.experiments.gridworld.agent_files import has_agent, load_policy
from rl_forecast.experiments.gridworld.task_pictures import (
    TaskPicture,
    agent_picture,
    task_picture,
    task_sheet,
    worst_tasks_sheet,
)
from rl_forecast.experiments.gridworld.worlds import make_world
from rl_forecast.experiments.metrics import title_of
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Kinds of picture that matplotlib writes without more packages.
_SUFFIXES = (".png", ".svg", ".pdf")


def show_environment(env_id: str, task_id: int, out: str | None) -> list[str]:
    """A task of any environment; outside ``RiskGrid/`` the task is the seed of the reset.

    :raises InputError: unknown environment, or one that cannot be drawn
    """
    out = out or f"{env_id.replace('/', '-').removesuffix('-v0')}-{task_id}.png"
    if env_id in envs.REGISTERED:
        picture, text = task_picture(gymnasium.make(env_id).unwrapped.world, task_id)  # type: ignore[attr-defined]
        return [text, _one_line(picture.title), _save(task_sheet([picture], ""), out)]
    try:
        env = gymnasium.make(env_id, render_mode="rgb_array")
    except gymnasium.error.Error as error:
        risk_grids = [name for name in gymnasium.registry if name.startswith("RiskGrid/")]
        raise InputError(unknown_name("environment", env_id, risk_grids)) from error
    env.reset(seed=task_id)
    frame: Any = env.render()
    if getattr(frame, "ndim", 0) != 3:
        raise InputError(f"{env_id} gives no picture: it does not support render_mode='rgb_array'")
    text = env.unwrapped.pprint_grid() if hasattr(env.unwrapped, "pprint_grid") else ""
    env.close()
    title = f"seed {task_id} of {env_id}"
    return [text, title, _save(task_sheet([TaskPicture(title, frame)], ""), out)]


def show_agents(run: str, name: str | None, task_id: int, out: str | None) -> list[str]:
    """What the agents of a run, or the one of a name, do in a task.

    :raises InputError: no such run or agent
    """
    folder, config, agents = _open(run, name)
    world = make_world(config.world)
    drawn, text = task_picture(world, task_id)
    pictures = [
        agent_picture(world, task_id, load_policy(folder, agent, config.base), title_of(agent)) for agent in agents
    ]
    title = _one_line(drawn.title)
    saved = _save(task_sheet(pictures, title), out or str(folder.path / f"task-{task_id}.png"))
    return [text, title, *(_one_line(picture.title) for picture in pictures), saved]


def show_worst(run: str, name: str | None, n: int, out: str | None) -> list[str]:
    """The riskiest held-out tasks of an agent: the named one, ForecastPPO, or else the last one of the run.

    :raises InputError: no such run or agent, or the run has no scores
    """
    folder, config, agents = _open(run, name)
    name = "forecast_ppo" if "forecast_ppo" in agents else agents[-1]
    scores = folder.read_table("scores.parquet", "the run is not finished or damaged: run it again")
    scores = scores.filter(pl.col("agent") == name)
    policy = load_policy(folder, name, config.base)
    figure = worst_tasks_sheet(make_world(config.world), scores, policy, title_of(name), n)
    worst = scores.sort("psi", descending=True).head(n).with_columns(p=pl.col("log_p").exp())
    lines = [
        f"#{rank}: task {row['task_id']}, {'rare' if row['rare'] else 'common'}, P(failure) {row['p']:.2g}, "
        f"P(success) {row['success']:.3f}"
        for rank, row in enumerate(worst.iter_rows(named=True), 1)
    ]
    return [*lines, _save(figure, out or str(folder.path / f"worst-{name}.png"))]


def _one_line(title: str) -> str:
    return title.replace("\n", ", ")


def _open(run: str, name: str | None) -> tuple[RunFolder, Config, list[str]]:
    """A run and its finished agents, or the named one."""
    folder = RunFolder.open(run)
    config = read_config(folder.path / "config.yaml", RUNS)
    if not isinstance(config, Config):
        raise InputError(f"{run!r} is a run of language models, whose prompts have no pictures")
    agents: list[str] = [agent for agent in config.agents if has_agent(folder, agent)]
    if not agents:
        raise InputError(f"{run!r} has no finished agent yet")
    if name is not None and name not in agents:
        raise InputError(unknown_name("agent", name, agents))
    return folder, config, agents if name is None else [name]


def _save(figure: Figure, out: str) -> str:
    if not out.endswith(_SUFFIXES):
        raise InputError(f"a picture ends in {', '.join(_SUFFIXES)}, not as {out!r}")
    with writing(out):
        figure.savefig(out, dpi=150)
    return f"saved {out}"
