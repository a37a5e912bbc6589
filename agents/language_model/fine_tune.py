"""The fine-tuning loop of the language-model job: supervised losses and one objective of failure scores in each step.

Everything a step uses is a function of its number (batches, pools) or part of :meth:`FineTuner.state`, so a run that is
stopped after any step and resumed equals the uninterrupted one to the bit. ``transformers.Trainer`` pickles its
optimizer, which a run folder must not hold: so the job has this loop, and
:class:`~agents.language_model.trainer.ForecastTrainer` is for other code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from agents.language_model.distributed import added_gradient, shares, sum_over_processes
from agents.language_model.supervised import encode_examples, supervised_loss

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agents.language_model.encoding import EncodedTask
    from agents.language_model.objective import ForecastObjective
    from agents.language_model.prompts import PromptTask
    from agents.language_model.scorer import ContinuationScorer
    from agents.language_model.supervised import SupervisedExample

    Batches = Mapping[str, tuple[float, Callable[[int], Sequence[SupervisedExample]]]]
    Pools = Callable[[int], Sequence[EncodedTask] | Sequence[PromptTask]]

__all__ = ["FineTuneSettings", "FineTuner"]


@dataclass(frozen=True)
class FineTuneSettings:
    """Settings of the optimizer.

    :param steps: updates in all
    :param learning_rate: of AdamW, at its highest
    :param warmup_steps: updates over which it rises linearly from 0
    :param final_fraction: what is left of it at the end, reached linearly
    :param max_grad_norm: norm limit of the whole gradient
    :param bf16: run the model in bfloat16 autocast; scores and losses stay in float32
    """

    steps: int = 40
    learning_rate: float = 5e-4
    warmup_steps: int = 10
    final_fraction: float = 0.1
    max_grad_norm: float = 1.0
    bf16: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (1 - (1 - self.final_fraction) * progress)


class FineTuner:
    """Updates a model step by step.

    With several processes (``torch.distributed`` initialised, as ``accelerate launch`` does) each takes its share of
    every batch and pool, and all make the same update as one process would.

    :param scorer: scorer of the model to train
    :param settings: of the optimizer
    :param batches: log name to weight and supervised batch of a step
    :param objective: adds the gradient of the failure scores of a pool
    :param pools: prompts of a pool, by its number; a pool is kept for ``objective.rescore_every`` steps
    """

    def __init__(
        self,
        scorer: ContinuationScorer,
        settings: FineTuneSettings,
        batches: Batches,
        objective: ForecastObjective | None = None,
        pools: Pools | None = None,
    ) -> None:
        self.scorer = scorer
        self.settings = settings
        self.step = 0
        self._batches = batches
        self._objective = objective
        self._pools = pools
        self._parameters = [p for p in scorer.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=settings.learning_rate, weight_decay=0.0)
        self._pool: tuple[int, Sequence[EncodedTask]] | None = None

    def update(self) -> dict[str, float]:
        """Make one update and return what to log of it.

        :raises ValueError: bad prompts, in one line
        """
        rate = self.settings.rate(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        log = {"learning_rate": rate}
        self.scorer.model.train()
        for name, (weight, batch) in self._batches.items():
            log[name] = self._supervise(batch(self.step), weight)
        if self._objective is not None and self._pools is not None:
            number = self.step // self._objective.rescore_every
            if self._pool is None or self._pool[0] != number:
                self._pool = number, self._objective.encode(self._pools(number))
            with self._precision:
                log |= self._objective.backward(self._pool[1]).logs
        log["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.max_grad_norm))
        self._optimizer.step()
        self.scorer.model.eval()
        self.step += 1
        return log

    def _supervise(self, examples: Sequence[SupervisedExample], weight: float) -> float:
        """Add the gradient of a supervised loss, to which every process contributes its share of the batch."""
        batch = encode_examples(self.scorer, examples)
        own = batch[shares(range(len(batch)))]
        value = torch.zeros((), device=self.scorer.device)
        with added_gradient(self.scorer.model):
            if len(own):
                with self._precision:
                    loss = supervised_loss(self.scorer.model, own, batch.n_targets)
                (weight * loss).backward()  # type: ignore[no-untyped-call]
                value = loss.detach()
        return float(sum_over_processes(value))

    @property
    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.scorer.device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Everything a resumed run needs, fit for one safetensors file: tensors, and text for its metadata.

        Trainable weights, the optimizer's moments, the objective's state, torch's generators.
        """
        tensors = {f"weight.{i}": p.detach().cpu().clone() for i, p in enumerate(self._parameters)}
        for i, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value.cpu().clone() for name, value in moments.items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.scorer.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.scorer.device)
        objective = self._objective.state_dict() if self._objective else None
        return tensors, {"step": str(self.step), "objective": json.dumps(objective)}

    def load_state(self, tensors: dict[str, torch.Tensor], text: dict[str, str]) -> None:
        """Resume from what :meth:`state` gave.

        :raises ValueError: it belongs to another model
        """
        weights = [tensors[f"weight.{i}"] for i in range(sum(name.startswith("weight.") for name in tensors))]
        if [w.shape for w in weights] != [p.shape for p in self._parameters]:
            raise ValueError("the checkpoint belongs to another model")
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, position, key = name.split(".", 2)
                moments.setdefault(int(position), {})[key] = value
        with torch.no_grad():
            for p, weight in zip(self._parameters, weights, strict=True):
                p.copy_(weight)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.scorer.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.scorer.device)
        if self._objective:
            self._objective.load_state_dict(json.loads(text["objective"]))
        self.step = int(text["step"])
