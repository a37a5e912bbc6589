"""Outputs drawn from a language model's own distribution, reproducible prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from agents.language_model.scorer import ContinuationScorer

__all__ = ["sample_outputs"]


@torch.no_grad()
def sample_outputs(
    scorer: ContinuationScorer,
    prompt: Sequence[int],
    n_samples: int,
    max_new_tokens: int,
    *,
    seed: int,
    temperature: float = 1.0,
    never: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """Sampled continuations of one prompt, as tokens.

    Drawn from the whole distribution: a model's own defaults (top-k, top-p, repetition penalty) are not applied,
    because they set the probability of what they cut off to zero, and with it that of a failure.

    :param scorer: holds model and tokenizer
    :param prompt: tokens of the prompt
    :param n_samples: number of continuations
    :param max_new_tokens: longest continuation
    :param seed: of this prompt's draws; torch's global generator is used and restored
    :param temperature: 1 is the model's own distribution
    :param never: token sequences that are kept from being completed (their last token gets probability zero where the
        others stand before it)
    :return: for each sample its tokens up to and with the end token, at least one
    """
    model, device = scorer.model, scorer.device
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    end = _end_tokens(inner, scorer.tokenizer)
    ids = torch.tensor([list(prompt)], device=device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), scorer.evaluation_mode(), _plain_defaults(inner) as settings:
        torch.manual_seed(seed)
        settings.update(
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=temperature,
            num_return_sequences=n_samples,
            max_new_tokens=max_new_tokens,
            eos_token_id=end or None,
            # finished samples are filled up with it; they are cut at their first end token below
            pad_token_id=end[0] if end else 0,
            bad_words_ids=[list(tokens) for tokens in never] or None,
        )
        drawn = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [_until(row[len(prompt) :], end) for row in drawn.tolist()]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    end = getattr(model.generation_config, "eos_token_id", None)
    end = tokenizer.eos_token_id if end is None else end
    return [] if end is None else [end] if isinstance(end, int) else list(end)


def _until(tokens: list[int], end: list[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in end), len(tokens) - 1)
    return tokens[: stop + 1]


@contextmanager
def _plain_defaults(model: Any) -> Iterator[Any]:
    """``generate`` fills whatever a configuration leaves open with the model's own: take these away meanwhile."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield GenerationConfig()  # type: ignore[no-untyped-call]
    finally:
        model.generation_config = own
