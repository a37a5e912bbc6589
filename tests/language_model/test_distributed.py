"""Two processes give the losses, the gradients and the weights of one."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from tests.language_model import two_processes
from tests.language_model.models import assert_close


def _run_two(folder: Path) -> None:
    """Two processes that find each other by the environment variables that every launcher sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # forked from a process that has imported torch: see tests/conftest.py
    processes = [
        multiprocessing.get_context("forkserver").Process(target=_run, args=(folder, rank, where)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def _run(folder: Path, rank: int, where: dict[str, str]) -> None:
    os.environ.update(where | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    two_processes.main(folder)
    os._exit(0)  # gloo's threads may outlive the interpreter's end


def test_two_processes_equal_one(tmp_path: Path) -> None:
    two_processes.main(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    _run_two(tmp_path)
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    # both see the same partitions and sum the same gradients
    assert first == second
    np.testing.assert_allclose(first, one, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(first[0], one[0], rtol=1e-4)
    weights = [AutoModelForCausalLM.from_pretrained(tmp_path / f"model-{n}") for n in (1, 2)]
    start = weights[0].state_dict()
    for name, p in weights[1].state_dict().items():
        assert_close(p, start[name])
