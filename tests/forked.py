"""Modules run as a user runs them, in processes of their own, but for the seconds in which they import torch."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["run_module"]

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run_module(module: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments``, forked from a process that has imported what is heavy.

    :param module: name of the module
    :param arguments: its arguments
    :param cwd: working directory
    :return: its exit code and output
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = multiprocessing.get_context("forkserver").Process(  # preloaded by tests/conftest.py
            target=_run, args=(module, arguments, str(cwd or Path.cwd()), str(out), str(err))
        )
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out.read_text(), err.read_text())


def _run(module: str, arguments: tuple[str, ...], cwd: str, out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.update(_ENVIRONMENT)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.path.insert(0, cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
