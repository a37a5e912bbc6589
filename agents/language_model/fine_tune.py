"""The fine-tuning loop: a supervised loss, and one objective on failure scores, in each step.

Everything a step uses is a function of its number (batches, pools) or part of :meth:`FineTuner.state`, so a run that is
stopped after any step and resumed goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from agents.language_model.distributed import Gradients
from agents.language_model.encoding import EncodedTasks
from agents.language_model.supervised import encode_examples, supervised_loss

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agents.language_model.objective import ForecastObjective
    from agents.language_model.prompts import PromptTask
    from agents.language_model.scorer import ContinuationScorer
    from agents.language_model.supervised import SupervisedExample

__all__ = ["FineTuneSettings", "FineTuner", "Term"]

# Score of p = 1 %.
_PSI_1_PERCENT = -math.log(-math.log(0.01))


@dataclass(frozen=True)
class FineTuneSettings:
    """Settings of the optimizer.

    :param steps: updates in all
    :param learning_rate: of AdamW, at its highest
    :param warmup_steps: updates over which it rises linearly from 0
    :param final_fraction: what is left of it at the end, reached linearly
    :param weight_decay: of AdamW
    :param max_grad_norm: norm limit of the whole gradient
    :param bf16: run the model in bfloat16 autocast; scores and losses stay in float32
    """

    steps: int = 40
    learning_rate: float = 5e-4
    warmup_steps: int = 10
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (1 - (1 - self.final_fraction) * progress)


@dataclass(frozen=True)
class Term:
    """The part of the loss that is about failures.

    :param objective: adds the gradient of its loss on a pool of prompts
    :param pool: prompts of a pool, by its number; as tokens where several models use the same ones
    :param weight: of the term beside the supervised loss
    :param pool_steps: steps for which a pool is kept, its scores going stale between two refreshes of the objective
    """

    objective: ForecastObjective
    pool: Callable[[int], EncodedTasks | Sequence[PromptTask]]
    weight: float = 1.0
    pool_steps: int = 1


class FineTuner:
    """Updates a model step by step.

    With several processes (``torch.distributed`` initialised, as ``accelerate launch`` does) each takes its share of
    every batch and pool, and all make the same update as one process would.

    :param scorer: scorer of the model to train
    :param settings: of the optimizer
    :param examples: supervised batch of a step; ``None`` for no supervised loss
    :param extra: another supervised batch with its weight (refusals, say)
    :param term: the objective on failure scores
    """

    def __init__(
        self,
        scorer: ContinuationScorer,
        settings: FineTuneSettings,
        examples: Callable[[int], Sequence[SupervisedExample]] | None = None,
        extra: tuple[float, Callable[[int], Sequence[SupervisedExample]]] | None = None,
        term: Term | None = None,
    ) -> None:
        self.scorer = scorer
        self.settings = settings
        self.step = 0
        self._batches = [(1.0, examples)] if examples else []
        self._batches += [extra] if extra else []
        self._names = ["supervised_loss", "refusal_loss"] if examples else ["refusal_loss"]
        self._term = term
        self._parameters = [p for p in scorer.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._pool: tuple[int, EncodedTasks] | None = None

    def update(self) -> dict[str, float]:
        """Make one update.

        :return: what to log: losses and gradient norms of the step
        :raises ValueError: bad prompts, in one line
        """
        settings = self.settings
        rate = settings.rate(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        log = {"learning_rate": rate}
        self.scorer.model.train()
        for name, (weight, batch) in zip(self._names, self._batches, strict=False):
            log[name] = self._supervise(batch(self.step), weight)
        if self._term is not None:
            log |= self._shape_failures(self._term)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.max_grad_norm)
        log["grad_norm"] = float(norm)
        self._optimizer.step()
        self.scorer.model.eval()
        self.step += 1
        return log

    def _supervise(self, examples: Sequence[SupervisedExample], weight: float) -> float:
        """Gradient of the supervised loss, to which every process contributes its share of the batch."""
        batch = encode_examples(self.scorer, examples)
        gradients = Gradients(self.scorer.model)
        own = batch.rows(gradients.share_of(np.arange(len(batch))))
        value = torch.zeros((), device=self.scorer.device)
        with gradients.apart():
            if len(own):
                with self._precision():
                    loss = supervised_loss(self.scorer.model, own, batch.n_targets)
                (weight * loss).backward()  # type: ignore[no-untyped-call]
                value = loss.detach()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(value)
        return float(value)

    def _shape_failures(self, term: Term) -> dict[str, float]:
        number = self.step // term.pool_steps
        if self._pool is None or self._pool[0] != number:
            pool = term.pool(number)
            self._pool = number, pool if isinstance(pool, EncodedTasks) else self.scorer.encode(pool)
        with self._precision():
            report = term.objective.backward(self._pool[1], term.weight)
        log = {
            "forecast_loss": report.loss,
            "forecast_grad_norm": report.grad_norm,
            "anchor": report.anchor,
            "n_backward": float(report.n_backward),
            "worst_psi": float(report.psi.max()),
            "share_above_1_percent": float((report.psi > _PSI_1_PERCENT).float().mean()),
        }
        if report.terms is not None:
            log["tail_scale"] = float(report.terms.tail_scale.nanmean())
            log["under_prediction_rate"] = float(report.terms.under_prediction_rate)
        return log

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.scorer.device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Everything a resumed run needs, fit for one safetensors file: tensors, and text for its metadata.

        Trainable weights, the optimizer's moments, the objective's generator and cached scores, torch's generators.
        """
        tensors = {f"weight.{i}": p.detach().cpu().clone() for i, p in enumerate(self._parameters)}
        for i, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value.cpu().clone() for name, value in moments.items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.scorer.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.scorer.device)
        objective = self._term.objective.state_dict() if self._term else None
        return tensors, {"step": str(self.step), "objective": json.dumps(objective)}

    def load_state(self, tensors: dict[str, torch.Tensor], text: dict[str, str]) -> None:
        """Go on from a saved state.

        :param tensors: as :meth:`state` gave them
        :param text: as :meth:`state` gave it
        :raises ValueError: the state belongs to another model
        """
        shapes = [tuple(tensors[f"weight.{i}"].shape) for i in range(len(self._parameters)) if f"weight.{i}" in tensors]
        if shapes != [tuple(p.shape) for p in self._parameters]:
            raise ValueError("the checkpoint belongs to another model")
        with torch.no_grad():
            for i, p in enumerate(self._parameters):
                p.copy_(tensors[f"weight.{i}"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, position, key = name.split(".", 2)
                moments.setdefault(int(position), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.scorer.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.scorer.device)
        objective = json.loads(text["objective"])
        if self._term and objective is not None:
            self._term.objective.load_state_dict(objective)
        self.step = int(text["step"])
