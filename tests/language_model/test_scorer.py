"""Scores against a direct computation, prompt by prompt and token by token, whatever the batching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, LlamaModel
from transformers.modeling_outputs import CausalLMOutput

from agents.language_model import ContinuationScorer, PromptTask, psi_from_model_log_p
from rl_forecast.scores import psi_from_log_p
from tests.language_model.models import (
    WORDS,
    assert_close,
    bpe_tokenizer,
    tiny_gpt2,
    tiny_llama,
    word_scorer,
    word_tokenizer,
)

MODELS = pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])


def word_tasks(n: int, seed: int = 0) -> list[PromptTask]:
    """Prompts of 1 to 24 words, one to three continuations of 1 to 4 words."""
    rng = np.random.default_rng(seed)

    def text(low: int, high: int) -> str:
        return "".join(f" {word}" for word in rng.choice(WORDS, rng.integers(low, high)))

    return [PromptTask(text(1, 25), tuple(text(1, 5) for _ in range(rng.integers(1, 4))), None, i) for i in range(n)]


def direct(scorer: ContinuationScorer, task: PromptTask) -> float:
    """Log p of a task whose continuations do not begin one another: one forward pass a continuation, no padding."""
    total = []
    for text in task.forbidden:
        prompt, whole = (scorer.tokenizer(t)["input_ids"] for t in (task.prompt, task.prompt + text))
        with torch.no_grad():
            logits = scorer.model.eval()(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        total.append(sum(float(logits[t - 1, whole[t]]) for t in range(len(prompt), len(whole))))
    return float(np.logaddexp.reduce(total))


def row(scorer: ContinuationScorer, prompt: Any, text: str) -> list[int]:
    """Tokens of a prompt and a continuation."""
    (task,) = scorer.encode([PromptTask(prompt, (text,))])
    return task.prompt + task.continuations[0]


@MODELS
def test_equals_the_direct_computation(make: Callable[..., Any]) -> None:
    scorer = word_scorer(make)
    # only tasks none of whose continuations begins another: the direct sum would count those twice
    begins = [sum(b.startswith(a) for a in t.forbidden for b in t.forbidden) for t in word_tasks(60)]
    tasks = [t for t, n in zip(word_tasks(60), begins, strict=True) if n == len(t.forbidden)]
    log_p = scorer.score(scorer.encode(tasks))
    assert log_p.dtype == torch.float32
    assert not log_p.requires_grad
    assert_close(log_p, [direct(scorer, task) for task in tasks])
    assert len(tasks) > 40
    assert np.ptp(log_p.numpy()) > 10


@MODELS
def test_scores_do_not_depend_on_batches(make: Callable[..., Any]) -> None:
    scorer = word_scorer(make)
    encoded = scorer.encode(word_tasks(80, seed=1))
    reference = scorer.score(encoded)
    assert_close(scorer.log_p(encoded), reference)
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(0))
    assert_close(scorer.score([encoded[i] for i in order]), reference[order])
    for limit, value in (("max_batch_tokens", 1), ("max_batch_tokens", 200), ("max_batch_logits", 5_000)):
        setattr(scorer, limit, value)
        assert_close(scorer.score(encoded), reference)


def test_batches_stay_within_their_budgets() -> None:
    tokenizer = word_tokenizer()
    model = tiny_llama(len(tokenizer))
    seen: list[tuple[int, int]] = []
    scorer = ContinuationScorer(model, tokenizer, max_batch_tokens=150, max_batch_logits=4_000)
    encoded = scorer.encode(word_tasks(60))
    model.register_forward_hook(
        lambda _, args, kwargs, out: seen.append((kwargs["input_ids"].numel(), out.logits.numel())), with_kwargs=True
    )
    scorer.score(encoded)
    most_rows = max(len(task.continuations) for task in encoded)
    # a task's own rows are never split: only a batch of one task may exceed a budget
    assert all(tokens <= max(150, most_rows * 28) for tokens, _ in seen)
    assert all(logits <= max(4_000, most_rows * 4 * len(tokenizer)) for _, logits in seen)
    assert len(seen) > 10
    # no logit but those of continuation tokens
    scored = sum(len(c) for task in encoded for c in task.continuations)
    assert sum(logits for _, logits in seen) == scored * len(tokenizer)


def test_models_with_heads_of_their_own_score_the_same() -> None:
    """One does not call its head as a module, one treats logits after it."""
    tokenizer = word_tokenizer()
    model = tiny_llama(len(tokenizer))
    tasks = [task for task in word_tasks(20) if len(task.forbidden) == 1]

    class Uncalled(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
            hidden = self.model(input_ids=input_ids, use_cache=use_cache).last_hidden_state
            return CausalLMOutput(logits=hidden @ self.lm_head.weight.T)

    class Capped(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
            out = super().forward(input_ids=input_ids, use_cache=use_cache)
            return CausalLMOutput(logits=3 * torch.tanh(out.logits / 3))

    for kind in (Uncalled, Capped):
        other = kind(model.config)
        other.load_state_dict(model.state_dict())
        scorer = ContinuationScorer(other, tokenizer, max_batch_tokens=200, max_batch_logits=20_000)
        assert_close(scorer.score(scorer.encode(tasks)), [direct(scorer, task) for task in tasks])


def test_backward_is_the_gradient_of_the_weighted_scores() -> None:
    tokenizer = word_tokenizer()
    model = tiny_gpt2(len(tokenizer)).double().train()  # dropout is on, and must not act
    scorer = ContinuationScorer(model, tokenizer, max_batch_tokens=120)
    encoded = scorer.encode(word_tasks(40))
    weight = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    psi = psi_from_log_p(scorer.log_p(encoded))
    parameters = list(model.parameters())
    expected = torch.autograd.grad((weight * psi).sum(), parameters)
    log_p = scorer.backward(encoded, weight)
    assert model.training
    torch.testing.assert_close(log_p, scorer.score(encoded), atol=1e-12, rtol=0)
    for p, g in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-12, rtol=1e-9)


def test_gradients_survive_certain_failure() -> None:
    log_p = torch.tensor([-1e-9, -0.5, -40.0, 0.0], requires_grad=True)
    psi = psi_from_model_log_p(log_p)
    np.testing.assert_allclose(psi.detach(), -np.log([1e-6, 0.5, 40.0, 1e-6]), rtol=1e-6)
    psi.sum().backward()
    np.testing.assert_allclose(log_p.grad, [1e6, 2.0, 1 / 40, 1e6], rtol=1e-5)


def test_near_certainty_in_float32_equals_float64() -> None:
    """Logits from a head scaled up: p from 1e-30 to 1 - 1e-6."""
    tokenizer = word_tokenizer()
    model = tiny_llama(len(tokenizer), tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight *= 4
    tasks = word_tasks(400)
    single, double = ContinuationScorer(model, tokenizer), ContinuationScorer(model.double(), tokenizer)
    exact = double.score(double.encode(tasks)).clamp(max=-1e-6)
    model.float()
    psi = psi_from_model_log_p(single.score(single.encode(tasks)).double())
    error = (psi - psi_from_log_p(exact)).abs()
    assert exact.max() > -1e-2
    # a rounding of the softmax, 6e-8, is a relative error 6e-8 / -log p of -log p, and so an absolute one of psi
    assert bool((error < 1e-5 + 3e-6 / -exact).all())


def test_chats_follow_the_template() -> None:
    tokenizer = bpe_tokenizer()
    scorer = ContinuationScorer(tiny_llama(len(tokenizer)), tokenizer)
    messages = [{"role": "user", "content": "tell me the password"}]
    rendered = "<|user|>tell me the password<end><|assistant|>hunter2"
    # the template writes its own special tokens: the tokenizer adds none
    assert row(scorer, messages, "hunter2") == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        row(scorer, messages, "hunter2")


def test_the_boundary_rule() -> None:
    tokenizer = bpe_tokenizer()
    scorer = ContinuationScorer(tiny_llama(len(tokenizer)), tokenizer)
    assert row(scorer, "tell me the", " password") == tokenizer("tell me the password")["input_ids"]
    # "the pass" + "word" would be one token "password": the prompt keeps its tokens, "word" gets its own
    merged = row(scorer, "tell me the pass", "word")
    prompt, word = tokenizer("tell me the pass")["input_ids"], tokenizer("word", add_special_tokens=False)["input_ids"]
    assert merged == prompt + word
    assert tokenizer.decode(merged) == "<s>tell me the password"
    with pytest.raises(ValueError, match="'password' has no tokens of its own after this prompt"):
        row(word_scorer(), "tell me the", "password")


def test_probabilities_of_all_continuations_sum_to_one() -> None:
    """A closed form: every first word, and below one of them every second word."""
    scorer = word_scorer(tiny_gpt2)
    tokenizer = scorer.tokenizer
    known = [word for word in tokenizer.get_vocab() if word != "<unk>"]
    split = [f" {word}" for word in known if word != "sorry"] + [f" sorry {word}" for word in known]
    encoded = scorer.encode([PromptTask("tell me", tuple(split), None, 0)])
    prompt = tokenizer("tell me")["input_ids"]
    with torch.no_grad():
        first = scorer.model.eval()(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        sorry = tokenizer("sorry")["input_ids"]
        second = scorer.model(torch.tensor([prompt + sorry])).logits[0, -1].softmax(-1)
    unknown = float(first[0] + first[sorry[0]] * second[0])  # the token <unk> can not be asked for
    assert math.exp(scorer.score(encoded)) == pytest.approx(1 - unknown, rel=1e-4)


def test_an_implied_continuation_is_not_counted_twice() -> None:
    scorer = word_scorer()
    tasks = [PromptTask("w1 w2", (" p1",), None, 0), PromptTask("w1 w2", (" p1 p2", " p1", " p1"), None, 1)]
    encoded = scorer.encode(tasks)
    assert encoded[0].continuations == encoded[1].continuations
    one, both = scorer.score(encoded).tolist()
    assert_close(one, both)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (PromptTask("w1", ("",)), "prompt 0: forbidden text '' tokenizes to nothing"),
        (PromptTask("w1", ()), "no forbidden text"),
        (PromptTask("w1", (" p1",), None, 7), "task id 7 occurs twice"),
        (PromptTask("", (" p1",)), "prompt 0 tokenizes to nothing"),
        (PromptTask("w1", (" nonsense",)), "' nonsense' holds something that this tokenizer does not know"),
        (PromptTask("w1 " * 70, (" p1 p2",), None, "long"), "prompt 'long' has 70 tokens and its continuation 2"),
    ],
)
def test_bad_tasks_are_named(task: PromptTask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        word_scorer().encode([task] if task.task_id != 7 else [task, task])


def test_models_that_cannot_be_scored() -> None:
    tokenizer = word_tokenizer()
    with pytest.raises(ValueError, match="LlamaModel has no language-model head"):
        ContinuationScorer(LlamaModel(tiny_llama(len(tokenizer)).config), tokenizer)
    bert = BertConfig(vocab_size=51, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    with pytest.raises(ValueError, match="BertLMHeadModel is not a causal language model"):
        ContinuationScorer(BertLMHeadModel(bert), tokenizer)
    with pytest.raises(ValueError, match="the model knows 20"):
        row(ContinuationScorer(tiny_llama(20), tokenizer), "w1 w39", " p1")


def test_nan_is_refused_and_named() -> None:
    tokenizer = word_tokenizer()
    model = tiny_llama(len(tokenizer), tie_word_embeddings=False)
    scorer = ContinuationScorer(model, tokenizer)
    encoded = scorer.encode([PromptTask("w1", (" p1",), None, "a"), PromptTask("w2", (" p2",), None, "b")])
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer("w2")["input_ids"][0]] = torch.nan
    with pytest.raises(ValueError, match="NaN for 1 of 2 prompts, the first is 'b'"):
        scorer.score(encoded)
