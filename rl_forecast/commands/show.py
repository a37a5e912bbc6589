"""``rl-forecast show``: a task as a picture, where an agent goes in it and where it dies."""

from __future__ import annotations

import argparse

from rl_forecast.commands.shared import Parser, count
from rl_forecast.errors import InputError

_EPILOG = """\
examples:
  rl-forecast show RiskGrid/Slip-v0 --task 17                   the task as MiniGrid draws it
  rl-forecast show --agent runs/default-0 --task 17             what each agent of a run does in it
  rl-forecast show --agent runs/default-0 --worst 9             the nine riskiest held-out tasks of ForecastPPO
  rl-forecast show --agent runs/default-0 --worst 9 --name ppo  those of another agent
  rl-forecast show MiniGrid-LavaGapS7-v0 --task 3               any environment: the task is the reset seed
"""


def main(argv: list[str]) -> int:
    parser = Parser(
        "show",
        "[ENV] [--task ID] [--agent RUN_FOLDER [--name AGENT] [--worst N]] [-o FILE]",
        "Print and save a picture of a task, or of an agent's riskiest held-out tasks.",
        _EPILOG,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("env", nargs="?", metavar="ENV", help="environment id")
    where.add_argument("--agent", metavar="RUN_FOLDER", help="run folder, whose agents play the task")
    parser.add_argument("--name", metavar="AGENT", help="one agent of the run: base, ppo, forecast_ppo, ...")
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument("--task", type=_task_id, metavar="ID", help="task id (default: 0)")
    tasks.add_argument("--worst", type=count, metavar="N", help="the N riskiest held-out tasks of an agent instead")
    parser.add_argument("-o", "--out", metavar="FILE", help="picture to write (.png, .svg or .pdf)")
    args = parser.parse_args(argv)
    if args.agent is None and (args.worst, args.name) != (None, None):
        raise InputError("--worst and --name are of an agent: add --agent RUN_FOLDER")

    from rl_forecast.experiments.gridworld.show import show_agents, show_environment, show_worst

    if args.agent is None:
        lines = show_environment(args.env, args.task or 0, args.out)
    elif args.worst is None:
        lines = show_agents(args.agent, args.name, args.task or 0, args.out)
    else:
        lines = show_worst(args.agent, args.name, args.worst, args.out)
    print("\n".join(lines))
    return 0


def _task_id(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a task id is a whole number of at least 0, it is {text!r}")
    return int(text)
