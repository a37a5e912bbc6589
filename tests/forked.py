"""Modules run as a user runs them, in separate processes, but without the seconds in which they import torch."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PRELOADED", "run_module", "start_module"]

#: What the process from which all are forked imports, once, at the first of them: tests/conftest.py names it before.
PRELOADED = [
    "rl_forecast.experiments.gridworld.gridworld_experiment",
    "rl_forecast.experiments.language_model.language_experiment",
    "accelerate",
    "jsonargparse",
    "matplotlib.pyplot",
    "peft",
    "tests.kill_and_resume",
    "torch._dynamo",
]
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run_module(module: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments``: its exit code and output."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start_module(module, arguments, out, err, cwd=cwd)
        process.join()
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out.read_text(), err.read_text())


def start_module(
    module: str,
    arguments: Sequence[str],
    out: Path,
    err: Path,
    cwd: Path | None = None,
    prepare: Callable[[], None] | None = None,
) -> Any:
    """Start ``python -m module arguments``, with its output in files.

    :param prepare: called in the process first
    :return: the process
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(
        target=_run, args=(module, [*arguments], str(cwd or Path.cwd()), str(out), str(err), prepare)
    )
    process.start()
    return process


def _run(module: str, arguments: list[str], cwd: str, out: str, err: str, prepare: Callable[[], None] | None) -> None:
    os.chdir(cwd)
    os.environ.update(_ENVIRONMENT)
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1 if err == out else os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.path.insert(0, cwd)
    if prepare is not None:
        prepare()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
