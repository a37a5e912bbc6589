"""Supervised examples for a causal language model: encoded, scored, and checked for correct answers.

An example may have two answers of known probabilities. Its first answer token is then trained towards the mixture, the
exact expectation of the loss under sampled labels, which has none of their noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["EncodedExamples", "SupervisedExample", "correct_answers", "encode_examples", "supervised_loss"]

_IGNORED = -100


class SupervisedExample(Protocol):
    """A prompt with its answer, or with two of known probabilities."""

    @property
    def prompt(self) -> str:
        """Text up to where the answer begins."""

    @property
    def answer(self) -> str:
        """What is to be said."""

    @property
    def alternative(self) -> str | None:
        """What could be said instead; its first token differs from the answer's."""

    @property
    def weight(self) -> float:
        """Probability of the answer; the alternative has the rest."""


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """A batch of examples as tensors, padded on the right.

    :param input_ids: shape (B, L)
    :param attention_mask: shape (B, L)
    :param target: shape (B, L): the next token where it belongs to an answer, -100 elsewhere
    :param first: shape (B,): position whose next token is the answer's first
    :param alternative: shape (B,): first token of the alternative; where there is none, of the answer
    :param weight: shape (B,): probability of the answer
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    target: torch.Tensor
    first: torch.Tensor
    alternative: torch.Tensor
    weight: torch.Tensor

    @property
    def n_targets(self) -> int:
        """Answer tokens in the batch."""
        return int((self.target != _IGNORED).sum())


def encode_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[SupervisedExample],
    device: torch.device | str = "cpu",
    end: bool = True,
) -> EncodedExamples:
    """Tokenize examples; answers end with the tokenizer's end-of-sequence token.

    :param tokenizer: of the model
    :param examples: B examples
    :param device: of the tensors
    :param end: whether the end-of-sequence token belongs to the answer
    :raises ValueError: an answer that tokenizes to nothing
    """
    prompts: list[list[int]] = tokenizer([e.prompt for e in examples])["input_ids"]
    texts = [text for e in examples for text in (e.answer, e.alternative or e.answer)]
    answers: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id if end else None
    rows = []
    for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        answer, other = answers[2 * i], answers[2 * i + 1]
        if not answer or not other:
            raise ValueError(f"answer {example.answer!r} tokenizes to nothing")
        rows.append((prompt, answer + ([eos] if isinstance(eos, int) else []), other[0], example.weight))
    length = max(len(prompt) + len(answer) for prompt, answer, _, _ in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    target = torch.full((len(rows), length), _IGNORED, dtype=torch.long)
    for i, (prompt, answer, _, _) in enumerate(rows):
        n = len(prompt) + len(answer)
        ids[i, :n] = torch.tensor(prompt + answer)
        mask[i, :n] = 1
        target[i, len(prompt) - 1 : n - 1] = torch.tensor(answer)
    return EncodedExamples(
        ids.to(device),
        mask.to(device),
        target.to(device),
        torch.tensor([len(prompt) - 1 for prompt, _, _, _ in rows], device=device),
        torch.tensor([other for _, _, other, _ in rows], device=device),
        torch.tensor([weight for _, _, _, weight in rows], dtype=torch.float32, device=device),
    )


def _answer_logits(model: PreTrainedModel, batch: EncodedExamples) -> tuple[torch.Tensor, int]:
    """Logits in float32 from the first answer of the batch on, and the position at which they begin."""
    start = int(batch.first.min())
    keep = batch.input_ids.shape[1] - start
    output: Any = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=keep)
    return output.logits.float(), start


def supervised_loss(model: PreTrainedModel, batch: EncodedExamples, n_targets: int | None = None) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens.

    :param model: causal language model
    :param batch: encoded examples
    :param n_targets: what the sum is divided by, the batch's own answer tokens by default; processes that share a
        batch pass the number in all of it
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
    return total / (batch.n_targets if n_targets is None else n_targets)


@torch.no_grad()
def correct_answers(model: PreTrainedModel, batch: EncodedExamples) -> torch.Tensor:
    """Whether greedy decoding gives exactly the answer.

    Every answer token is the most probable one after the right tokens before it, which is the same.

    :param model: causal language model
    :param batch: encoded examples
    :return: shape (B,), bool
    """
    logits, start = _answer_logits(model, batch)
    target = batch.target[:, start:]
    right: torch.Tensor = ((logits.argmax(-1) == target) | (target == _IGNORED)).all(dim=1)
    return right
