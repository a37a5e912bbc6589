"""Supervised losses, penalties and the fine-tuner against direct computations."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from agents.language_model import ContinuationScorer, ForecastObjective, PromptTask
from agents.language_model.fine_tune import (
    FineTuner,
    FineTuneSettings,
    correct_answers,
    encode_examples,
    supervised_loss,
)
from envs.password_game import Example, PasswordGame, make_model, make_tokenizer
from rl_forecast.experiments.metrics import bernoulli_kl
from rl_forecast.loss.objectives import mean_log_risk
from rl_forecast.tasks import SPLITS
from tests.language_model.test_objective import gradients


@pytest.fixture(scope="module")
def scorer() -> ContinuationScorer:
    tokenizer = make_tokenizer(8)
    model = make_model(tokenizer, seed=0, hidden_size=16, n_layers=1, n_heads=2)
    return ContinuationScorer(model.eval(), tokenizer)


def _examples(count: int) -> list[Example]:
    game = PasswordGame("tension", n_words=8, password_length=2, rare_probability=0.1)
    return game.traffic(SPLITS["train"].task_ids(count, 0))


def _token_log_p(scorer: ContinuationScorer, prompt: str, answer: str) -> torch.Tensor:
    """One prompt at a time, without padding."""
    tokenizer = scorer.tokenizer
    first, ids = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"] + [tokenizer.eos_token_id]
    logits = scorer.model(input_ids=torch.tensor([first + ids])).logits[0].log_softmax(-1)
    return logits[torch.arange(len(first) - 1, len(first) + len(ids) - 1), torch.tensor(ids)]


def test_supervised_loss_is_the_expectation_under_both_answers(scorer: ContinuationScorer) -> None:
    examples = _examples(30)
    assert any(e.alternative for e in examples)
    total, n = torch.zeros(()), 0
    for e in examples:
        log_p = _token_log_p(scorer, e.prompt, e.answer)
        n += len(log_p)
        total = total - log_p[1:].sum() - e.weight * log_p[0]
        if e.alternative is not None:
            total = total - (1 - e.weight) * _token_log_p(scorer, e.prompt, e.alternative)[0]
    batch = encode_examples(scorer, examples)
    assert batch.n_targets == n
    assert supervised_loss(scorer.model, batch).item() == pytest.approx((total / n).item(), rel=1e-4)
    # Two halves of a batch, divided by what all of it has, add up to the whole.
    halves = [batch[range(len(batch))[i::2]] for i in range(2)]
    parts = sum(supervised_loss(scorer.model, half, n).item() for half in halves)
    assert parts == pytest.approx((total / n).item(), rel=1e-4)


def test_log_odds_error_is_zero_at_the_right_probabilities_only(scorer: ContinuationScorer) -> None:
    game = PasswordGame("tension", n_words=8, password_length=2)
    requests = game.attacks(SPLITS["train"].task_ids(4, 0))
    pairs = list(zip(requests.prompt, requests.forbidden, strict=True))
    with torch.no_grad():
        odds = [_token_log_p(scorer, p, f)[0] - _token_log_p(scorer, p, " sorry no")[0] for p, f in pairs]
    for off in (0.0, 0.5, -3.0):
        q = [float(torch.sigmoid(o + off)) for o in odds]
        examples = [Example(*pair, " sorry no", weight) for pair, weight in zip(pairs, q, strict=True)]
        batch = encode_examples(scorer, examples)
        plain, more = (supervised_loss(scorer.model, batch, 1, log_odds_weight=w).item() for w in (0.0, 1.0))
        huber = off**2 / 2 if abs(off) <= 1 else abs(off) - 0.5
        assert more - plain == pytest.approx(4 * huber, abs=2e-3)


def test_correct_answers_are_what_greedy_decoding_gives(scorer: ContinuationScorer) -> None:
    tokenizer = scorer.tokenizer
    examples, wanted = [], []
    for i, example in enumerate(_examples(12)):
        ids = torch.tensor([tokenizer(example.prompt)["input_ids"]])
        output = scorer.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, pad_token_id=0
        )
        said = tokenizer.decode(output[0, ids.shape[1] :]).split()
        other = "apple" if said[1] != "apple" else "river"
        examples.append(Example(example.prompt, f" {said[0]} {said[1] if i % 2 else other}"))
        wanted.append(bool(i % 2))
    assert correct_answers(scorer.model, encode_examples(scorer, examples, end=False)).tolist() == wanted


def test_learning_rate_rises_then_falls_to_its_share() -> None:
    settings = FineTuneSettings(steps=40, learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    rates = [settings.rate(i) for i in range(41)]
    assert rates[:2] == [0.1, 0.2]
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[40] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_a_step_is_adamw_on_the_sum_of_the_clipped_gradients() -> None:
    """Two weighted batches and an objective, by hand; a step of AdamW from rest moves by the rate, against the sign."""
    tokenizer = make_tokenizer(8)
    scorer = ContinuationScorer(make_model(tokenizer, 0, 16, 1, 2), tokenizer)
    attacks = PasswordGame("tension", n_words=8, password_length=2).attacks(SPLITS["train"].task_ids(40, 0))
    texts = zip(attacks.prompt, attacks.forbidden, strict=True)
    pool = [PromptTask(prompt, (forbidden,), task_id=i) for i, (prompt, forbidden) in enumerate(texts)]
    batches = {"a": (1.0, lambda step: _examples(20)), "b": (0.5, lambda step: _examples(40)[20:])}
    by_hand = ContinuationScorer(copy.deepcopy(scorer.model), tokenizer)
    for weight, batch in batches.values():
        (weight * supervised_loss(by_hand.model, encode_examples(by_hand, batch(0)))).backward()
    ForecastObjective(by_hand, mean_log_risk(0.1)).backward(by_hand.encode(pool))
    gradient = gradients(by_hand.model)
    before = torch.cat([p.detach().clone().flatten() for p in scorer.model.parameters()])
    objective = ForecastObjective(scorer, mean_log_risk(0.1))
    log = FineTuner(scorer, FineTuneSettings(warmup_steps=1), batches, objective, lambda number: pool).update()
    after = torch.cat([p.detach().flatten() for p in scorer.model.parameters()])
    assert log["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
    assert {"a", "b", "mean_log_risk", "forecast_grad_norm", "worst_psi"} <= set(log)
    clear = gradient.abs() > 1e-5 * gradient.abs().max()  # epsilon of AdamW plays no part
    torch.testing.assert_close((before - after)[clear], 5e-4 * gradient.sign()[clear], atol=1e-6, rtol=0.01)


def test_kl_is_the_sum_over_both_outcomes() -> None:
    q, p = np.array([0.3, 1e-4, 0.9]), np.array([0.5, 1e-3, 0.2])
    wanted = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    np.testing.assert_allclose(bernoulli_kl(np.log(q / (1 - q)), np.log(p)), wanted)
    assert bernoulli_kl(np.log(q / (1 - q)), np.log(q)) == pytest.approx(0, abs=1e-12)
