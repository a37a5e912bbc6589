"""Outputs drawn from a language model, and the probability that a keyword is emitted anywhere in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.language_model.prompts import EncodedTask, without_implied
from agents.language_model.scorer import ContinuationScorer

# Below exp(-30) a sum of hazards equals one minus the product of their complements to float64 rounding.
_FIRST_ORDER = -30.0


@torch.no_grad()
def sample_outputs(
    scorer: ContinuationScorer,
    prompt: list[int],
    n_samples: int,
    max_new_tokens: int,
    *,
    seed: int,
    temperature: float = 1.0,
    never: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """Sampled continuations of one prompt, as tokens up to and with the end token, at least one.

    Drawn from the whole distribution: a model's own defaults (top-k, top-p, repetition penalty) are not applied,
    because they set the probability of what they cut off to zero, and with it that of a failure.

    :param seed: of this prompt's draws; torch's global generator is used and restored
    :param temperature: 1 is the model's own distribution
    :param never: token sequences that are kept from being completed (their last token gets probability zero where the
        others stand before it)
    """
    from transformers import GenerationConfig

    inner, device = scorer.inner, scorer.device
    defaults: Any = inner.generation_config
    end = defaults.eos_token_id
    end = scorer.tokenizer.eos_token_id if end is None else end
    end = [] if end is None else [end] if isinstance(end, int) else list(end)
    settings = GenerationConfig(
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
    )  # type: ignore[no-untyped-call]
    ids = torch.tensor([prompt], device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), scorer.evaluation_mode():
        torch.manual_seed(seed)
        # generate fills whatever a configuration leaves open with the model's own
        inner.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        try:
            drawn = scorer.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            ).tolist()
        finally:
            inner.generation_config = defaults
    outputs = [row[len(prompt) :] for row in drawn]
    stops = [next((i + 1 for i, token in enumerate(row) if token in end), len(row)) for row in outputs]
    return [row[:stop] for row, stop in zip(outputs, stops, strict=True)]


@torch.no_grad()
def keyword_log_hazards(
    scorer: ContinuationScorer,
    prompt: list[int],
    continuations: Sequence[list[int]],
    keywords: Sequence[list[int]],
) -> list[NDArray[np.float64]]:
    """Log probability that a keyword begins at each position of some continuations.

    ``h_t = P(some keyword is spelled from position t on | prompt, first t tokens of the continuation)``, exact by the
    chain rule over the keyword's tokens.

    :param continuations: tokens of each, at least one
    :return: of each continuation log h, shape (n_positions,), as many as it has tokens
    """
    keywords = without_implied(list(keywords))
    if all(len(tokens) == 1 for tokens in keywords):  # one forward pass tells every position
        first = [tokens[0] for tokens in keywords]
        found = []
        for path in continuations:
            log_p = scorer.logits(prompt + path[:-1], len(path)).double().log_softmax(dim=-1)
            found.append(log_p[:, first].logsumexp(dim=-1).clamp(max=0.0).cpu().numpy())
        return found
    heads = [prompt + path[:t] for path in continuations for t in range(len(path))]
    log_h = scorer.score([EncodedTask(i, head, keywords) for i, head in enumerate(heads)]).double().cpu().numpy()
    return np.split(log_h, np.cumsum([len(path) for path in continuations])[:-1])


def keyword_log_p(log_hazards: Sequence[NDArray[np.float64]]) -> float:
    """Log probability that a keyword is emitted at any position; the mean over continuations is of p, not of log p.

    ``p = mean_j (1 - prod_t (1 - h_jt))`` (our reading of the keyword score of arXiv 2502.16797). For keywords of one
    token and continuations sampled with the keyword kept out, this is an unbiased estimate of the probability that a
    sampled output holds the keyword. For longer keywords the starts at different positions are counted as if
    independent, which is wrong only in second order of the hazards.

    :param log_hazards: of each continuation, shape (n_positions,)
    """
    each = [_any_position(h) for h in log_hazards]
    return min(0.0, float(np.logaddexp.reduce(each)) - math.log(len(each)))


def _any_position(log_hazard: NDArray[np.float64]) -> float:
    if log_hazard.max() < _FIRST_ORDER:
        return float(np.logaddexp.reduce(log_hazard))
    with np.errstate(divide="ignore"):
        log_survival = np.log1p(-np.exp(log_hazard)).sum()
        return float(np.log(-np.expm1(log_survival)))
