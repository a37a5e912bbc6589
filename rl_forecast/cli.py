"""``rl-forecast COMMAND ...``: finds the command and hands over.

Every command is a module with ``main(argv) -> exit code``, imported only when it is called, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from rl_forecast.errors import one_line, run_command, stop_output, unknown_name

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("rl_forecast.train", "train agents and check the forecasts of their failures"),
    "evaluate": ("rl_forecast.evaluate", "evaluate a finished run on held-out tasks"),
    "score": ("rl_forecast.commands.score", "failure scores of a language model on a file of prompts"),
    "sweep": ("rl_forecast.sweep", "compare methods over worlds and seeds, weights tuned on validation tasks"),
    "report": ("rl_forecast.commands.report", "one page about runs and sweeps, with its figures and tables"),
    "forecast": ("rl_forecast.commands.forecast", "the worst of the next n queries, from any score file"),
    "backtest": ("rl_forecast.commands.backtest", "how good that forecast would have been on your own data"),
    "compare": ("rl_forecast.commands.compare", "which of several score files finds the worst failure for the money"),
    "show": ("rl_forecast.commands.show", "a task as a picture, and what an agent does in it"),
    "summarize": ("rl_forecast.commands.summarize", "a small mergeable summary of a large score file"),
}

_HELP = """\
usage: rl-forecast COMMAND ...   (or: python -m rl_forecast COMMAND ...)

Forecast, diagnose and train the deployment-scale tail of failures.

commands:
{}

rl-forecast COMMAND --help tells more.
Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 a gate that was asked for did not hold,
130 Ctrl-C, 143 SIGTERM."""


def main(argv: list[str] | None = None) -> int:
    """Run one command with its arguments, by default those of the process; its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:  # closed by the caller, as >&- does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it is closed with the process
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(_HELP.format("\n".join(f"  {command:<{width}}  {text}" for command, (_, text) in COMMANDS.items())))
        return 0 if argv else 2
    if name == "--version":
        from rl_forecast import __version__

        print(f"rl-forecast {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"rl-forecast: {one_line(unknown_name('command', name, COMMANDS))}", file=sys.stderr)
        return 2

    def command() -> int:
        try:
            code: int = import_module(COMMANDS[name][0]).main(argv[1:])
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # as it should be: rl-forecast forecast ... | head
            stop_output()
            return 0

    return run_command(command, f"rl-forecast {name}")
