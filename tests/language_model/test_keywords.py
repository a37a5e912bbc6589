"""Keyword scores against enumeration of every output, and sampled outputs against the model's distribution."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from agents.language_model import ContinuationScorer
from agents.language_model.sampling import keyword_log_hazards, keyword_log_p, sample_outputs
from tests.language_model.models import assert_close, bpe_tokenizer, tiny_gpt2, tiny_llama

VOCABULARY, END = 6, 1


@pytest.fixture(scope="module")
def scorer() -> ContinuationScorer:
    """A vocabulary so small that all outputs of three tokens can be listed; token 1 ends an output."""
    model = tiny_gpt2(VOCABULARY, seed=2, initializer_range=0.4)
    model.generation_config.eos_token_id = END
    model.generation_config.top_k = 2  # a default that must not be applied
    return ContinuationScorer(model, bpe_tokenizer())


def next_p(scorer: ContinuationScorer, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return scorer.model.eval()(torch.tensor([tokens])).logits[0, -1].double().softmax(-1).numpy()


def outputs(scorer: ContinuationScorer, prompt: list[int], length: int) -> dict[tuple[int, ...], float]:
    """Every output up to a length, with its probability."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for output, p in found.items():
            if output and output[-1] == END:
                longer[output] = p
                continue
            for token, q in enumerate(next_p(scorer, [*prompt, *output])):
                longer[(*output, token)] = p * q
        found = longer
    assert math.fsum(found.values()) == pytest.approx(1.0)
    return found


def test_hazards_follow_the_chain_rule(scorer: ContinuationScorer) -> None:
    prompt, path, keywords = [0, 2], [3, 4, 2, 5], [[4, 2], [5], [5, 3], [2, 2, 3]]
    short, log_h = keyword_log_hazards(scorer, prompt, [path[:2], path], keywords)
    assert_close(short, log_h[:2])
    for t in range(4):
        head = [*prompt, *path[:t]]
        expected = 0.0
        for keyword in ([4, 2], [5], [2, 2, 3]):  # [5, 3] is implied by [5]
            p = 1.0
            for i, token in enumerate(keyword):
                p *= next_p(scorer, [*head, *keyword[:i]])[token]
            expected += p
        assert math.exp(log_h[t]) == pytest.approx(expected, rel=1e-4)
    # keywords of one token: one pass tells every position
    (single,) = keyword_log_hazards(scorer, prompt, [path], [[4], [3]])
    for t in range(4):
        p_next = next_p(scorer, [*prompt, *path[:t]])
        assert math.exp(single[t]) == pytest.approx(p_next[4] + p_next[3], rel=1e-4)


def test_samples_follow_the_whole_distribution_and_temperature_sharpens_it(scorer: ContinuationScorer) -> None:
    prompt = [0, 3]
    sharp = next_p(scorer, prompt) ** 2
    first = [output[0] for output in sample_outputs(scorer, prompt, 4_000, 1, seed=2, temperature=0.5)]
    shares = np.bincount(first, minlength=VOCABULARY) / len(first)
    assert np.abs(shares - sharp / sharp.sum()).max() < 4.5 * math.sqrt(0.25 / len(first))
    expected = outputs(scorer, prompt, 2)
    drawn = [tuple(output) for output in sample_outputs(scorer, prompt, 6_000, 2, seed=1)]
    assert all(output.index(END) == len(output) - 1 for output in drawn if END in output)
    for output, p in expected.items():
        share = drawn.count(output) / len(drawn)
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / len(drawn)) + 1e-9
    # more than the two tokens that the model's own top-k would leave
    assert len({output[0] for output in drawn}) == VOCABULARY


def test_samples_are_reproducible_and_leave_no_trace(scorer: ContinuationScorer) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    before = scorer.model.generation_config
    first = sample_outputs(scorer, [0, 2], 20, 4, seed=5)
    assert torch.equal(torch.rand(3), expected)
    assert scorer.model.generation_config is before
    assert sample_outputs(scorer, [0, 2], 20, 4, seed=5) == first
    assert sample_outputs(scorer, [0, 2], 20, 4, seed=6) != first
    assert any(4 in output for output in first)
    assert not any(4 in output for output in sample_outputs(scorer, [0, 2], 200, 4, seed=5, never=[[4]]))


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-40, 1e-200])
def test_small_hazards_keep_their_digits(scale: float) -> None:
    h = [np.array([0.3, 0.2]) * scale, np.array([0.1]) * scale]
    with np.errstate(all="raise"):
        log_p = keyword_log_p([np.log(x) for x in h])
    exact = ((1 - 0.7 * 0.8) + 0.1) / 2 if scale == 1.0 else (0.5 + 0.1) / 2 * scale
    assert log_p == pytest.approx(math.log(exact), rel=1e-12)
    assert keyword_log_p([np.array([0.0, -5.0])]) == 0.0


def test_multi_token_keywords_are_right_to_first_order() -> None:
    """A keyword whose second token is rare: the estimate is within the square of the hazards of enumeration."""
    model: Any = tiny_llama(VOCABULARY, seed=3, tie_word_embeddings=False, initializer_range=0.2)
    model.generation_config.eos_token_id = END
    scorer = ContinuationScorer(model, bpe_tokenizer())
    prompt, length, keyword = [0, 2], 3, (4, 5)
    listed = outputs(scorer, prompt, length)
    # a keyword that begins at the last position is completed beyond it: list one token more
    beyond = outputs(scorer, prompt, length + 1)
    exact = sum(p for output, p in beyond.items() if keyword in itertools.pairwise(output))
    hazards = keyword_log_hazards(scorer, prompt, [list(output) for output in listed], [list(keyword)])
    estimate = sum(p * math.exp(keyword_log_p([h])) for p, h in zip(listed.values(), hazards, strict=True))
    largest = max(float(np.exp(h).sum()) for h in hazards)
    assert abs(estimate - exact) < largest**2
    assert largest**2 < exact / 2


def test_single_token_keywords_are_exact_in_expectation(scorer: ContinuationScorer) -> None:
    """The expectation over paths that avoid the keyword, all listed, is the probability of outputs that hold it."""
    prompt, length, keyword = [0, 2], 3, 4
    exact = sum(p for output, p in outputs(scorer, prompt, length).items() if keyword in output)
    allowed = [token for token in range(VOCABULARY) if token != keyword]
    paths = itertools.product(allowed, repeat=length)
    total = 0.0
    for path in {path[: path.index(END) + 1] if END in path else path for path in paths}:
        q = 1.0
        for t, token in enumerate(path):
            p = next_p(scorer, [*prompt, *path[:t]])
            q *= p[token] / (1 - p[keyword])
        total += q * math.exp(keyword_log_p(keyword_log_hazards(scorer, prompt, [list(path)], [[keyword]])))
    assert total == pytest.approx(exact, rel=1e-4)
