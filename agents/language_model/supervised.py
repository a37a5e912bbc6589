"""Supervised examples for a causal language model: encoded, scored, and checked for correct answers.

An example may have two answers of known probabilities. Its first answer token is then trained towards the mixture, the
exact expectation of the loss under sampled labels, which has none of their noise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from agents.language_model.prompts import PromptTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from agents.language_model.prompts import Prompt
    from agents.language_model.scorer import ContinuationScorer

__all__ = ["EncodedExamples", "SupervisedExample", "correct_answers", "encode_examples", "supervised_loss"]

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
        """Number of examples."""
        return len(self.first)

    def __getitem__(self, at: Sequence[int]) -> EncodedExamples:
        """The examples at some positions."""
        return EncodedExamples(**{f.name: getattr(self, f.name)[list(at)] for f in fields(self)})

    @property
    def n_targets(self) -> int:
        """Answer tokens in the batch."""
        return int((self.target != _IGNORED).sum())


def encode_examples(
    scorer: ContinuationScorer, examples: Sequence[SupervisedExample], end: bool = True
) -> EncodedExamples:
    """Tokenize examples by the scorer's rules, so that an answer and a forbidden text are cut from a prompt alike.

    :param scorer: scorer of the model
    :param examples: B examples
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


def _answer_logits(model: PreTrainedModel, batch: EncodedExamples) -> tuple[torch.Tensor, int]:
    """Logits in float32 from the first answer of the batch on, and the position at which they begin."""
    start = int(batch.first.min())
    keep = batch.input_ids.shape[1] - start
    output: Any = model(input_ids=batch.input_ids, logits_to_keep=keep, use_cache=False)
    return output.logits[:, -keep:].float(), start


def supervised_loss(
    model: PreTrainedModel, batch: EncodedExamples, n_targets: int | None = None, log_odds_weight: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens.

    :param n_targets: what the sum is divided by, the batch's answer tokens by default; processes that share a batch
        pass the number in all of it
    :param log_odds_weight: weight of the Huber error of the log-odds between an example's two answers. Cross-entropy
        hardly feels whether a probability is 1e-4 or 1e-5; this term does, and both are least at the same model
    :return: shape (), nats per token
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
def correct_answers(model: PreTrainedModel, batch: EncodedExamples) -> torch.Tensor:
    """Whether greedy decoding gives exactly the answer of each example, shape (B,)."""
    logits, start = _answer_logits(model, batch)
    target = batch.target[:, start:]
    right: torch.Tensor = ((logits.argmax(-1) == target) | (target == _IGNORED)).all(dim=1)
    return right
