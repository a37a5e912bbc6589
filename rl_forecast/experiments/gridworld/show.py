"""What ``rl-forecast show`` does: pictures of tasks, of agents in them, and of an agent's riskiest tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import polars as pl

import envs
from rl_forecast.commands.shared import writing
from rl_forecast.errors import InputError, unknown_name
from rl_forecast.experiments.command_line import parse_config
from rl_forecast.experiments.gridworld.agent_files import load_policy
from rl_forecast.experiments.gridworld.task_pictures import (
    TaskPicture,
    agent_picture,
    task_picture,
    task_sheet,
    worst_tasks_sheet,
)
from rl_forecast.experiments.gridworld.worlds import make_world
from rl_forecast.experiments.metrics import TITLES
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show_agents", "show_environment", "show_worst"]

# Kinds of picture that matplotlib writes without more packages.
_SUFFIXES = (".png", ".svg", ".pdf")


def show_environment(env_id: str, task_id: int, out: str | None) -> list[str]:
    """Picture of a task of any environment.

    :param env_id: registered id; outside ``RiskGrid/`` the task is the seed of the reset
    :param task_id: the task
    :param out: file to write, None for a name made of id and task
    :return: lines to print
    :raises InputError: unknown environment, or one that cannot be drawn
    """
    out = out or f"{env_id.replace('/', '-').removesuffix('-v0')}-{task_id}.png"
    if env_id in envs.REGISTERED:
        picture, text = task_picture(gymnasium.make(env_id).unwrapped.world, task_id)  # type: ignore[attr-defined]
    else:
        picture, text = _foreign(env_id, task_id)
    return [text, _one_line(picture.title), _save(task_sheet([picture], ""), out)]


def _foreign(env_id: str, task_id: int) -> tuple[TaskPicture, str]:
    try:
        env = gymnasium.make(env_id, render_mode="rgb_array")
    except gymnasium.error.Error as error:
        risk_grids = [name for name in gymnasium.registry if name.startswith("RiskGrid/")]
        raise InputError(unknown_name("environment", env_id, risk_grids)) from error
    env.reset(seed=task_id)
    frame: Any = env.render()
    if getattr(frame, "ndim", 0) != 3:
        raise InputError(f"{env_id} gives no picture: it does not support render_mode='rgb_array'")
    title = f"seed {task_id} of {env_id}"
    drawn = env.unwrapped.pprint_grid() if hasattr(env.unwrapped, "pprint_grid") else ""
    env.close()
    return TaskPicture(title, frame), drawn


def show_agents(run: str, name: str | None, task_id: int, out: str | None) -> list[str]:
    """What the agents of a run do in a task.

    :param run: run folder
    :param name: one agent, None for all
    :param task_id: the task
    :param out: file to write, None for one in the run folder
    :return: lines to print
    :raises InputError: no such run or agent
    """
    folder, config, agents = _open(run)
    world = make_world(config.world)
    names = agents if name is None else [_known(name, agents)]
    drawn, text = task_picture(world, task_id)
    pictures = [
        agent_picture(world, task_id, load_policy(folder, agent, config.base), TITLES.get(agent, agent))
        for agent in names
    ]
    out = out or str(folder.path / f"task-{task_id}.png")
    numbers = [_one_line(picture.title) for picture in pictures]
    title = _one_line(drawn.title)
    return [text, title, *numbers, _save(task_sheet(pictures, title), out)]


def show_worst(run: str, name: str | None, n: int, out: str | None) -> list[str]:
    """The riskiest held-out tasks of an agent.

    :param run: run folder
    :param name: the agent, None for ForecastPPO or else the last one of the run
    :param n: number of tasks
    :param out: file to write, None for one in the run folder
    :return: lines to print
    :raises InputError: no such run or agent, or the run has no scores
    """
    folder, config, agents = _open(run)
    name = ("forecast_ppo" if "forecast_ppo" in agents else agents[-1]) if name is None else _known(name, agents)
    path = folder.path / "scores.parquet"
    try:
        scores = pl.read_parquet(path).filter(pl.col("agent") == name)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read, so the run is not finished or damaged: run it again") from error
    world, policy = make_world(config.world), load_policy(folder, name, config.base)
    figure = worst_tasks_sheet(
        world, scores["task_id"].to_numpy(), scores["psi"].to_numpy(), policy, TITLES.get(name, name), n
    )
    worst = scores.sort("psi", descending=True).head(n).with_columns(p=pl.col("log_p").exp())
    lines = [
        f"#{rank}: task {row['task_id']}, {'rare' if row['rare'] else 'common'}, P(failure) {row['p']:.2g}, "
        f"P(success) {row['success']:.3f}"
        for rank, row in enumerate(worst.iter_rows(named=True), 1)
    ]
    return [*lines, _save(figure, out or str(folder.path / f"worst-{name}.png"))]


def _one_line(title: str) -> str:
    return title.replace("\n", ", ")


def _open(run: str) -> tuple[RunFolder, Config, list[str]]:
    folder = RunFolder.open(run)
    config = parse_config(Config, ["--config", str(folder.path / "config.yaml")], "rl-forecast show", "")
    agents: list[str] = [
        name for name in config.agents if (folder.path / "agents" / name / "policy.safetensors").is_file()
    ]
    if not agents:
        raise InputError(f"{run!r} has no finished agent yet")
    return folder, config, agents


def _known(name: str, agents: list[str]) -> str:
    if name not in agents:
        raise InputError(unknown_name("agent", name, agents))
    return name


def _save(figure: Figure, out: str) -> str:
    if not out.endswith(_SUFFIXES):
        raise InputError(f"a picture ends in {', '.join(_SUFFIXES)}, not as {out!r}")
    with writing(out):
        figure.savefig(out, dpi=150)
    return f"saved {out}"
