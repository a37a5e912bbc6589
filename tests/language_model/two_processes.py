"""A training loop as a user would write it, run by one process or by several: see test_distributed.py."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator

from agents.language_model import ContinuationScorer, ForecastObjective
from rl_forecast.loss.forecastability import ForecastabilityLoss
from rl_forecast.loss.objectives import anchor, forecast_loss
from tests.language_model.models import tiny_llama, word_tokenizer
from tests.language_model.test_scorer import word_tasks


def main(folder: Path) -> None:
    """Four steps; every process writes what it saw, and the first one the weights."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    rank, n_processes = accelerator.process_index, accelerator.num_processes
    tokenizer = word_tokenizer()
    model = tiny_llama(len(tokenizer))
    base = ContinuationScorer(tiny_llama(len(tokenizer), seed=1), tokenizer)
    scorer = ContinuationScorer(model, tokenizer)
    loss = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16)
    objective = ForecastObjective(scorer, forecast_loss(0.5, loss) + anchor(5.0), base=base, rescore_every=2)
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    encoded = scorer.encode(word_tasks(200))
    batch = torch.randint(2, len(tokenizer), (8, 12), generator=torch.Generator().manual_seed(0))
    reports = []
    for step in range(4):
        optimizer.zero_grad()
        before = step % 2 == 0  # the objective may come before or after the task's loss
        if before:
            report = objective.backward(encoded)
        own = batch[rank::n_processes]
        accelerator.backward(prepared(input_ids=own, labels=own).loss)
        if not before:
            report = objective.backward(encoded)
        optimizer.step()
        reports.append([report.loss, report.n_scored, *report.logs.values()])
    (folder / f"{n_processes}-{rank}.json").write_text(json.dumps(reports))
    if rank == 0:
        model.save_pretrained(folder / f"model-{n_processes}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
