"""ForecastTrainer: transformers' Trainer plus one gradient."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from agents.language_model import ContinuationScorer, ForecastObjective, ForecastTrainer
from rl_forecast.loss.objectives import Objective, anchor, forecast_loss
from tests.language_model.models import assert_close, word_scorer
from tests.language_model.test_objective import FORECAST, LOSS, frozen_base, gradients, lora
from tests.language_model.test_scorer import word_tasks

N = 200


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random token rows."""

    def __init__(self, vocabulary: int) -> None:
        self.rows = torch.randint(2, vocabulary, (64, 10), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[i], "labels": self.rows[i]}


def arguments(**kwargs: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(settings | kwargs))


def parts(with_lora: bool = False) -> tuple[ContinuationScorer, ContinuationScorer, Rows]:
    plain = word_scorer()
    base = frozen_base(plain)
    return (lora(plain) if with_lora else plain), base, Rows(plain.vocabulary)


def trained(scorer: ContinuationScorer, objective: ForecastObjective, rows: Rows, prompts: Any, **kwargs: Any) -> Any:
    trainer = ForecastTrainer(
        scorer.model, arguments(**kwargs), train_dataset=rows, objective=objective, prompts=prompts
    )
    trainer.train()
    return trainer


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_one_update_is_the_sum_of_both_gradients(tmp_path: Path) -> None:
    """SGD without clipping, two micro-batches: the change of the weights is the gradient, to be had by hand as well."""
    scorer, base, rows = parts()
    start = copy.deepcopy(scorer.model)
    settings: dict[str, Any] = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 1.0, "max_steps": 1}
    settings |= {"max_grad_norm": 0.0, "gradient_accumulation_steps": 2, "output_dir": str(tmp_path)}
    plain = Trainer(copy.deepcopy(start), arguments(**settings), train_dataset=rows)
    plain.train()
    encoded = scorer.encode(word_tasks(N))
    small = forecast_loss(0.01, LOSS) + anchor(0.1)
    trained(scorer, ForecastObjective(scorer, small, base=base, seed=4), rows, encoded, **settings)
    by_hand = ContinuationScorer(start, scorer.tokenizer)
    ForecastObjective(by_hand, small, base=base, seed=4).backward(encoded)
    gradient = gradients(start)
    assert gradient.abs().max() > 1e-3
    assert_close(weights(scorer.model), weights(plain.model) - gradient)


def test_an_empty_objective_is_trainer_bit_for_bit(tmp_path: Path) -> None:
    scorer, _, rows = parts()
    plain = Trainer(copy.deepcopy(scorer.model), arguments(output_dir=str(tmp_path)), train_dataset=rows)
    plain.train()
    trained(scorer, ForecastObjective(scorer, Objective()), rows, word_tasks(N), output_dir=str(tmp_path))
    assert torch.equal(weights(scorer.model), weights(plain.model))


@pytest.mark.parametrize("with_lora", [False, True])
def test_trains_with_checkpointing_and_logs(tmp_path: Path, with_lora: bool) -> None:
    scorer, base, rows = parts(with_lora)
    asked: list[int] = []

    def pool(step: int) -> Any:
        asked.append(step)
        return word_tasks(N, seed=step)

    objective = ForecastObjective(scorer, FORECAST + anchor(10.0), base=None if with_lora else base)
    settings: dict[str, Any] = {"gradient_checkpointing": True, "bf16": not with_lora, "output_dir": str(tmp_path)}
    trainer = trained(scorer, objective, rows, pool, **settings)
    assert asked == [0, 1, 2, 3]
    logs = [entry for entry in trainer.state.log_history if "forecast/loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4]
    for entry in logs:
        assert min(entry[f"forecast/{name}"] for name in ("loss", "grad_norm", "n_backward")) > 0
        assert np.isfinite(entry["forecast/worst_psi"])


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    def train(folder: str, **kwargs: Any) -> ContinuationScorer:
        scorer, base, rows = parts()
        objective = ForecastObjective(scorer, FORECAST + anchor(10.0), base=base, rescore_every=2)
        settings = arguments(output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=3)
        prompts = word_tasks(N)
        trainer = ForecastTrainer(scorer.model, settings, train_dataset=rows, objective=objective, prompts=prompts)
        trainer.train(**kwargs)
        return scorer

    straight = weights(train("a").model)
    resumed = weights(train("b", resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3")).model)
    assert torch.equal(straight, resumed)


def test_another_model_in_the_objective_is_refused(tmp_path: Path) -> None:
    scorer, _, rows = parts()
    objective = ForecastObjective(scorer, FORECAST)
    with pytest.raises(ValueError, match="scores another model"):
        trained(word_scorer(), objective, rows, word_tasks(N), output_dir=str(tmp_path))
