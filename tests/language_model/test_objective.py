"""The two-pass objective against full backpropagation through every prompt."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agents.language_model import ContinuationScorer, EncodedTask, ForecastObjective, psi_from_model_log_p
from rl_forecast.loss.forecastability import ForecastabilityLoss, one_sided_anchor
from rl_forecast.loss.objectives import Objective, anchor, forecast_loss
from tests.language_model.models import assert_close, tiny_gpt2, tiny_llama, word_scorer
from tests.language_model.test_scorer import word_tasks

LOSS = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16, penalty="huber")
FORECAST = forecast_loss(1.0, LOSS)
N = 200


def setup(make: Any = tiny_llama, **kwargs: Any) -> tuple[ContinuationScorer, list[EncodedTask]]:
    scorer = word_scorer(make, **kwargs)
    return scorer, scorer.encode(word_tasks(N))


def frozen_base(scorer: ContinuationScorer, shift: float = 0.02) -> ContinuationScorer:
    """Another model not far away, so that some scores are above it and some below."""
    base = copy.deepcopy(scorer.model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in base.parameters():
            p += shift * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return ContinuationScorer(base, scorer.tokenizer)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    """All of them in one vector, and cleared."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad.clone()).flatten() for p in parameters])
    model.zero_grad()
    return found


@pytest.mark.parametrize(("make", "dtype"), [(tiny_llama, torch.float32), (tiny_gpt2, torch.float64)])
def test_equals_full_backpropagation(make: Any, dtype: torch.dtype) -> None:
    scorer, encoded = setup(make)
    scorer.model.to(dtype)
    base = frozen_base(scorer)
    # anchored are all prompts: what was drawn needs no guessing
    objective = ForecastObjective(scorer, forecast_loss(2.0, LOSS) + anchor(20.0), base=base, anchor_tasks=N, seed=3)
    report = objective.backward(encoded)
    two_pass = gradients(scorer.model)
    psi = psi_from_model_log_p(scorer.log_p(encoded))
    loss = LOSS(psi, np.random.default_rng(3)).loss
    rise = one_sided_anchor(psi, psi_from_model_log_p(base.score(encoded)))
    (2.0 * loss + 20.0 * rise).backward()
    full = gradients(scorer.model)
    # sums over N prompts
    assert float((two_pass - full).abs().max()) <= N * torch.finfo(dtype).eps * float(full.abs().max())
    assert report.logs["forecast_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert report.logs["anchor_loss"] == pytest.approx(rise.item(), rel=1e-3)
    assert report.loss == pytest.approx(2.0 * loss.item() + 20.0 * rise.item(), rel=1e-3)
    assert report.grad_norm == pytest.approx(float(full.norm()), rel=1e-4)
    assert rise.item() > 0


def test_the_anchor_is_the_mean_over_the_prompts_it_compares() -> None:
    scorer, encoded = setup()
    base = frozen_base(scorer)
    report = ForecastObjective(scorer, anchor(1.0), base=base, anchor_tasks=30, seed=3).backward(encoded)
    drawn = np.sort(np.random.default_rng(3).choice(N, 30, replace=False))
    rise = (report.psi - psi_from_model_log_p(base.score(encoded)))[drawn].clamp(min=0)
    assert report.loss == pytest.approx(float(rise.square().mean()), rel=1e-4)
    assert report.n_backward == int((rise > 0).sum())


def test_only_prompts_with_a_derivative_are_run_and_gradients_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, encoded = setup()
    ran: list[int] = []
    backward = scorer.backward
    monkeypatch.setattr(scorer, "backward", lambda tasks, weight: ran.append(len(tasks)) or backward(tasks, weight))
    report = ForecastObjective(scorer, FORECAST).backward(encoded)
    assert ran == [report.n_backward]
    assert report.n_backward < N / 2
    once = gradients(scorer.model)

    def add_task_gradient() -> None:
        ids = torch.tensor([[3, 4, 5]])
        scorer.model(input_ids=ids, labels=ids).loss.backward()

    add_task_gradient()
    task = gradients(scorer.model)
    add_task_gradient()
    ForecastObjective(scorer, forecast_loss(0.5, LOSS)).backward(encoded)
    assert_close(gradients(scorer.model), task + 0.5 * once)


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    scorer, encoded = setup(tiny_llama, attention_dropout=0.5)
    scorer.model.train()
    plain = ForecastObjective(scorer, FORECAST).backward(encoded)
    expected = gradients(scorer.model)
    scorer.model.gradient_checkpointing_enable()
    layer = scorer.model.model.layers[0]
    calls: list[bool] = []
    attention_calls: list[bool] = []
    layer.register_forward_hook(lambda *_: calls.append(layer.training))
    layer.self_attn.register_forward_hook(lambda *_: attention_calls.append(layer.self_attn.training))
    report = ForecastObjective(scorer, FORECAST).backward(encoded)
    assert report.loss == plain.loss
    # attention ran once more in the backward pass: the layers really were recomputed; dropout stayed off
    assert len(attention_calls) > len(calls)
    assert not any(attention_calls)
    assert_close(gradients(scorer.model), expected)


def lora(scorer: ContinuationScorer) -> ContinuationScorer:
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(scorer.model, config)
        for name, p in model.named_parameters():
            if "lora_B" in name:  # starts at zero: the adapter would not change anything yet
                torch.nn.init.normal_(p, std=0.1)
    return ContinuationScorer(model, scorer.tokenizer)


def test_lora_anchors_to_the_model_without_its_adapter() -> None:
    plain, encoded = setup()
    frozen = ContinuationScorer(copy.deepcopy(plain.model), plain.tokenizer)
    adapted = lora(plain)
    assert (adapted.score(encoded) - frozen.score(encoded)).abs().max() > 0.1
    report = ForecastObjective(adapted, FORECAST + anchor(10.0), seed=1).backward(encoded)
    own = gradients(adapted.model)
    copied = ForecastObjective(adapted, FORECAST + anchor(10.0), seed=1, base=frozen).backward(encoded)
    assert report.logs["anchor_loss"] == pytest.approx(copied.logs["anchor_loss"], rel=1e-4)
    assert report.logs["anchor_loss"] > 0
    assert_close(own, gradients(adapted.model))


def test_what_cannot_work_is_refused() -> None:
    scorer, encoded = setup()
    with pytest.raises(ValueError, match="the anchor needs base scores"):
        ForecastObjective(scorer, FORECAST + anchor(1.0))
    for setting in ({"anchor_tasks": -1}, {"rescore_every": 0}):
        with pytest.raises(ValueError, match="anchor_tasks must not be negative and rescore_every at least 1"):
            ForecastObjective(scorer, FORECAST, **setting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="20 prompts are too few"):
        ForecastObjective(scorer, FORECAST).backward(encoded[:20])
    with pytest.raises(ValueError, match=r"weight must have shape \(200,\), it has \(3,\)"):
        scorer.backward(encoded, torch.ones(3))
    before = torch.ones_like(scorer.model.lm_head.weight)
    scorer.model.lm_head.weight.grad = before
    infinite = Objective(((1.0, lambda psi, anchor_psi, rng: (psi.sum() * float("inf"), {})),))
    with pytest.raises(ValueError, match="weight must be finite"):
        ForecastObjective(scorer, infinite).backward(encoded)
    assert scorer.model.lm_head.weight.grad is before  # a failed backward leaves the gradients alone


def step(scorer: ContinuationScorer) -> None:
    with torch.no_grad():
        for p in scorer.model.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    scorer.model.zero_grad()


def test_a_pool_that_comes_again_is_scored_when_it_is_due() -> None:
    """In between, the prompts that were run have the scores of that run, and the others stale ones."""
    scorer, encoded = setup()
    objective = ForecastObjective(scorer, FORECAST, rescore_every=3)
    reports, fresh = [], []
    for _ in range(7):
        fresh.append(psi_from_model_log_p(scorer.score(encoded)))
        reports.append(objective.backward(encoded))
        step(scorer)
    assert [r.n_scored for r in reports] == [N, 0, 0, N, 0, 0, N]
    # on the second call the scores are those from before the first update
    assert_close(reports[1].psi, reports[0].psi)
    assert (reports[1].psi - fresh[1]).abs().max() > 1e-3
    moved = (reports[2].psi != reports[1].psi).numpy()
    assert 0 < moved.sum() <= reports[1].n_backward
    assert_close(reports[2].psi[moved], fresh[1][moved])
    # a new pool is scored whole
    assert objective.backward(encoded[::-1]).n_scored == N
