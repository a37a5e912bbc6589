"""``transformers.Trainer`` with a failure-score objective: the only change is a gradient added before each update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from agents.language_model.encoding import EncodedTasks

if TYPE_CHECKING:
    import torch

    from agents.language_model.objective import ForecastObjective, ObjectiveReport
    from agents.language_model.prompts import PromptTask

__all__ = ["ForecastTrainer", "PromptPool"]

#: The prompts of every step, or a function of the step that gives them: fresh prompts matter more than anything else.
PromptPool = EncodedTasks | Sequence["PromptTask"] | Callable[[int], "EncodedTasks | Sequence[PromptTask]"]


class _ObjectiveState(TrainerCallback, ExportableState):
    """Keeps the objective's generator and cache in the checkpoints' ``trainer_state.json``."""

    def __init__(self, objective: ForecastObjective) -> None:
        self._objective = objective

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"args": {}, "attributes": self._objective.state_dict()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on where the checkpoint was written."""
        saved: Any = state.stateful_callbacks
        if state.global_step and type(self).__name__ in saved:
            self._objective.load_state_dict(saved[type(self).__name__]["attributes"])


class ForecastTrainer(Trainer):
    """A ``Trainer`` that adds the objective's gradient once per optimizer step, before clipping.

    Gradient accumulation, clipping, schedules, checkpoints, peft models, bf16 and ``accelerate launch`` work as in
    ``Trainer``. Logs ``forecast/loss``, ``forecast/anchor``, ``forecast/grad_norm``, ``forecast/n_backward`` and
    ``forecast/worst_psi``: means since the last log.

    :param args: positional arguments of ``Trainer``
    :param objective: built on a scorer of the same model
    :param prompts: pool of every step, or a function from the step to a pool
    :param forecast_coef: weight of the objective beside the task's loss; 0 trains as ``Trainer`` does
    :param kwargs: keyword arguments of ``Trainer``
    :raises ValueError: another model in the objective, fp16 (its gradient scaler would not scale the term: use bf16),
        or sharded parameters (FSDP, DeepSpeed)
    """

    def __init__(
        self,
        *args: Any,
        objective: ForecastObjective,
        prompts: PromptPool,
        forecast_coef: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if objective.scorer.model is not self.model:
            raise ValueError("the objective scores another model than the one that is trained: build it on this one")
        if self.args.fp16:
            raise ValueError("fp16 is not supported: its gradient scaler would not scale the term; use bf16")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("FSDP and DeepSpeed are not supported: the gradients must be whole on each process")
        self.objective: ForecastObjective = objective
        self.forecast_coef = forecast_coef
        if not (callable(prompts) or isinstance(prompts, EncodedTasks)):
            prompts = objective.scorer.encode(prompts)
        self._prompts = prompts
        self._reports: list[ObjectiveReport] = []
        self.add_callback(_ObjectiveState(objective))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trainer's step, and the objective's gradient after the last micro-batch of an update."""
        loss = super().training_step(*args, **kwargs)
        if self.forecast_coef and self.accelerator.sync_gradients:
            prompts = self._prompts(self.state.global_step) if callable(self._prompts) else self._prompts
            with self.compute_loss_context_manager():
                self._reports.append(self.objective.backward(prompts, self.forecast_coef))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's log with the objective's values."""
        if self._reports and "loss" in logs:
            n = len(self._reports)
            logs["forecast/loss"] = sum(r.loss for r in self._reports) / n
            logs["forecast/anchor"] = sum(r.anchor for r in self._reports) / n
            logs["forecast/grad_norm"] = sum(r.grad_norm for r in self._reports) / n
            logs["forecast/n_backward"] = sum(r.n_backward for r in self._reports) / n
            logs["forecast/worst_psi"] = sum(float(r.psi.max()) for r in self._reports) / n
            self._reports.clear()
        super().log(logs, *args, **kwargs)
