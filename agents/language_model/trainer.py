"""``transformers.Trainer`` with an objective of failure scores: it adds a gradient before each update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from agents.language_model.objective import ForecastObjective
from agents.language_model.prompts import EncodedTask, PromptTask

Pool = Sequence[EncodedTask] | Sequence[PromptTask]


class _ObjectiveState(TrainerCallback, ExportableState):
    """Keeps the objective's state in the checkpoints' ``trainer_state.json``."""

    def __init__(self, objective: ForecastObjective) -> None:
        self._objective = objective

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self._objective.state_dict()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved: Any = state.stateful_callbacks
        if state.global_step and type(self).__name__ in saved:
            self._objective.load_state_dict(saved[type(self).__name__]["attributes"])


class ForecastTrainer(Trainer):
    """A ``Trainer`` that adds the objective's gradient once per optimizer step, before clipping.

    Gradient accumulation, clipping, schedules, checkpoints, peft models, bf16 and ``accelerate launch`` work as in
    ``Trainer``. Logs the objective's values as ``forecast/...``: means since the last log.

    :param args: positional arguments of ``Trainer``, as ``kwargs`` are its keyword arguments
    :param objective: built on a scorer of the same model; with an empty objective this trains as ``Trainer`` does
    :param prompts: pool of every step, or a function from the step to a pool: fresh prompts matter more than anything
    :raises ValueError: another model in the objective, fp16 (its gradient scaler would not scale the added gradient:
        use bf16), or sharded parameters (FSDP, DeepSpeed)
    """

    def __init__(
        self, *args: Any, objective: ForecastObjective, prompts: Pool | Callable[[int], Pool], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if objective.scorer.model is not self.model:
            raise ValueError("the objective scores another model than the one that is trained: build it on this one")
        if self.args.fp16:
            raise ValueError("fp16 is not supported: its gradient scaler would not scale the gradient; use bf16")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("FSDP and DeepSpeed are not supported: the gradients must be whole on each process")
        self.objective: ForecastObjective = objective
        self._prompts = prompts if callable(prompts) else objective.encode(prompts)
        self._logs: list[dict[str, float]] = []
        self.add_callback(_ObjectiveState(objective))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trainer's step, and the objective's gradient after the last micro-batch of an update."""
        loss = super().training_step(*args, **kwargs)
        if self.objective.objective and self.accelerator.sync_gradients:
            prompts = self._prompts(self.state.global_step) if callable(self._prompts) else self._prompts
            pool = self.objective.encode(prompts)
            with self.compute_loss_context_manager():
                self._logs.append(self.objective.backward(pool).logs)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's log with the objective's values."""
        if self._logs and "loss" in logs:
            for key in self._logs[-1]:
                values = [entry[key] for entry in self._logs]
                logs[f"forecast/{key.removeprefix('forecast_')}"] = sum(values) / len(values)
            self._logs.clear()
        super().log(logs, *args, **kwargs)
