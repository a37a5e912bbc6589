"""The fine-tuning loop of the language-model job: supervised losses and one objective of failure scores in each step.

All that a step uses is a function of its number or part of :meth:`FineTuner.state`, so a resumed run equals the
uninterrupted one to the bit. ``transformers.Trainer`` pickles its optimizer, which a run folder must not hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from agents.language_model.distributed import added_gradient, shares, sum_over_processes
from agents.language_model.objective import ForecastObjective
from agents.language_model.prompts import EncodedTask, Prompt, PromptTask
from agents.language_model.scorer import ContinuationScorer

_IGNORED = -100


class SupervisedExample(Protocol):
    """A prompt with its answer; or with two, whose first tokens differ and of which the first has this weight."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def answer(self) -> str: ...
    @property
    def alternative(self) -> str | None: ...
    @property
    def weight(self) -> float: ...


Batches = Mapping[str, tuple[float, Callable[[int], Sequence[SupervisedExample]]]]
Pools = Callable[[int], Sequence[EncodedTask] | Sequence[PromptTask]]


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """A batch of examples as tensors, padded on the right.

    :param input_ids: shape (B, L); attention is causal, and nothing of the padding is read
    :param target: shape (B, L): the next token where it belongs to an answer, -100 elsewhere
    :param first: shape (B,): position whose next token is the answer's first
    :param alternative: shape (B,): first token of the alternative; where there is none, of the answer
    :param weight: shape (B,): probability of the answer
    """

    input_ids: torch.Tensor
    target: torch.Tensor
    first: torch.Tensor
    alternative: torch.Tensor
    weight: torch.Tensor

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, at: Sequence[int]) -> EncodedExamples:
        return EncodedExamples(**{f.name: getattr(self, f.name)[list(at)] for f in fields(self)})

    @property
    def n_targets(self) -> int:
        """Answer tokens in the batch."""
        return int((self.target != _IGNORED).sum())


def encode_examples(
    scorer: ContinuationScorer, examples: Sequence[SupervisedExample], end: bool = True
) -> EncodedExamples:
    """Tokenize B examples by the scorer's rules, so that an answer and a forbidden text are cut from a prompt alike.

    :param end: whether answers end with the tokenizer's end-of-sequence token, if it has one
    :raises ValueError: an answer that tokenizes to nothing or does not fit, in one line
    """
    encoded = scorer.encode([PromptTask(e.prompt, (e.answer,), task_id=i) for i, e in enumerate(examples)])
    others = scorer.encode(
        [PromptTask(e.prompt, (e.alternative,), task_id=i) for i, e in enumerate(examples) if e.alternative is not None]
    )
    eos = scorer.tokenizer.eos_token_id if end else None
    answers = [task.continuations[0] + ([eos] if isinstance(eos, int) else []) for task in encoded]
    alternative = [answer[0] for answer in answers]
    for other in others:
        alternative[int(other.task_id)] = other.continuations[0][0]
    ids, target = [], []
    for task, answer in zip(encoded, answers, strict=True):
        ids.append(torch.tensor(task.prompt + answer))
        target.append(torch.tensor([_IGNORED] * (len(task.prompt) - 1) + answer + [_IGNORED]))
    tensors = (
        pad_sequence(ids, batch_first=True),
        pad_sequence(target, batch_first=True, padding_value=_IGNORED),
        torch.tensor([len(task.prompt) - 1 for task in encoded]),
        torch.tensor(alternative),
        torch.tensor([e.weight for e in examples], dtype=torch.float32),
    )
    return EncodedExamples(*(tensor.to(scorer.device) for tensor in tensors))


def _answer_logits(model: Any, batch: EncodedExamples) -> tuple[torch.Tensor, int]:
    """Logits in float32 from the first answer of the batch on, and the position at which they begin."""
    start = int(batch.first.min())
    keep = batch.input_ids.shape[1] - start
    output = model(input_ids=batch.input_ids, logits_to_keep=keep, use_cache=False)
    return output.logits[:, -keep:].float(), start


def supervised_loss(
    model: Any, batch: EncodedExamples, n_targets: int | None = None, log_odds_weight: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, nats per token, shape ().

    Of an example with two answers the first token is trained towards their mixture: the exact expectation of the loss
    under sampled labels, without their noise.

    :param n_targets: divides the sum, by default the batch's answer tokens; processes that share a batch pass its total
    :param log_odds_weight: weight of the Huber error of the log-odds between an example's two answers. Cross-entropy
        hardly feels whether a probability is 1e-4 or 1e-5; this term does, and both are least at the same model
    """
    logits, start = _answer_logits(model, batch)
    log_p = logits.log_softmax(-1)
    target = batch.target[:, start:]
    wanted = target != _IGNORED
    token = log_p.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    row = torch.arange(len(token), device=token.device)
    first = batch.first - start
    other = log_p[row, first, batch.alternative]
    mixed = batch.weight * token[row, first] + (1 - batch.weight) * other
    total = -(token * wanted).sum() + (token[row, first] - mixed).sum()
    if log_odds_weight:
        soft = batch.weight < 1
        given, wanted_odds = (token[row, first] - other)[soft], batch.weight[soft].logit()
        total = total + log_odds_weight * functional.huber_loss(given, wanted_odds, reduction="sum")
    return total / (batch.n_targets if n_targets is None else n_targets)


@torch.no_grad()
def correct_answers(model: Any, batch: EncodedExamples) -> torch.Tensor:
    """Whether greedy decoding gives exactly the answer of each example, shape (B,)."""
    logits, start = _answer_logits(model, batch)
    target = batch.target[:, start:]
    return torch.all((logits.argmax(-1) == target) | (target == _IGNORED), dim=1)


@dataclass(frozen=True)
class FineTuneSettings:
    """Settings of AdamW: its rate rises linearly from 0 over ``warmup_steps`` and falls linearly to ``final_fraction``.

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

    With several processes (``torch.distributed`` initialised) each takes its share of every batch and pool, and all
    make the same update as one process would.

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

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Everything a resumed run needs, fit for one safetensors file: tensors, and text for its metadata."""
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
        for name in (name for name in tensors if name.startswith("optimizer.")):
            _, position, key = name.split(".", 2)
            moments.setdefault(int(position), {})[key] = tensors[name]
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
