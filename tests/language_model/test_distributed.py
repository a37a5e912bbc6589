"""Two processes give the losses, the gradients and the weights of one."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from agents.language_model import ForecastObjective
from rl_forecast.loss.forecastability import ForecastabilityLoss
from rl_forecast.loss.objectives import anchor, forecast_loss
from tests.language_model.models import assert_close, word_scorer
from tests.language_model.test_scorer import word_tasks


def _train(folder: Path) -> None:
    """Four steps; every process writes what it saw, and the first one the weights."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    rank, n_processes = accelerator.process_index, accelerator.num_processes
    scorer, base = word_scorer(), word_scorer(seed=1)
    model = scorer.model
    loss = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16)
    objective = ForecastObjective(scorer, forecast_loss(0.5, loss) + anchor(5.0), base=base, rescore_every=2)
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    encoded = scorer.encode(word_tasks(200))
    batch = torch.randint(2, scorer.vocabulary, (8, 12), generator=torch.Generator().manual_seed(0))
    reports = []
    own = batch[rank::n_processes]
    for step in range(4):
        optimizer.zero_grad()
        if step % 2:  # the objective may come before or after the task's loss
            accelerator.backward(prepared(input_ids=own, labels=own).loss)
        report = objective.backward(encoded)
        if step % 2 == 0:
            accelerator.backward(prepared(input_ids=own, labels=own).loss)
        optimizer.step()
        reports.append([report.loss, report.n_scored, *report.logs.values()])
    (folder / f"{n_processes}-{rank}.json").write_text(json.dumps(reports))
    if rank == 0:
        model.save_pretrained(folder / f"model-{n_processes}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _run_two(folder: Path) -> None:
    """Two processes that find each other by the environment variables that every launcher sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # forked from a process that has imported torch: see tests/conftest.py
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_run, args=(folder, rank, where)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def _run(folder: Path, rank: int, where: dict[str, str]) -> None:
    os.environ.update(where | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    _train(folder)
    os._exit(0)  # gloo's threads may outlive the interpreter's end


def test_two_processes_equal_one(tmp_path: Path) -> None:
    _train(tmp_path)
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
