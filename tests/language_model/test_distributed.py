"""Two processes give the losses, the gradients and the weights of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from tests.language_model import two_processes

# "--multi_gpu" is accelerate's name for several processes; the script asks for CPUs. "--cpu" would start only one.
_LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --mixed_precision no"
_LAUNCH += " --num_cpu_threads_per_process 1 --dynamo_backend no --main_process_port 0"


def _launch_two(folder: Path) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, *_LAUNCH.split(), two_processes.__file__, str(folder)]
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            # Seen once in twenty runs on a busy machine: all is written, and the processes do not find their end.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = 0 if (folder / "model-2" / "model.safetensors").is_file() else 1
        assert code == 0, (folder / "output.txt").read_text()[-3000:]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    two_processes.main(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    _launch_two(tmp_path)
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    # both see the same partitions and sum the same gradients
    assert first == second
    np.testing.assert_allclose(first, one, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(first[0], one[0], rtol=1e-5)
    weights = [AutoModelForCausalLM.from_pretrained(tmp_path / f"model-{n}") for n in (1, 2)]
    start = weights[0].state_dict()
    for name, p in weights[1].state_dict().items():
        torch.testing.assert_close(p, start[name], atol=2e-5, rtol=1e-4)
