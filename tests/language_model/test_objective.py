"""The two-pass objective against full backpropagation through every prompt."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agents.language_model import (
    ContinuationScorer,
    EncodedTasks,
    ForecastObjective,
    RefreshPolicy,
    psi_from_model_log_p,
)
from rl_forecast.loss.forecastability import ForecastabilityLoss, one_sided_anchor
from tests.language_model.models import assert_close, tiny_gpt2, tiny_llama, word_tokenizer
from tests.language_model.test_scorer import word_tasks

LOSS = ForecastabilityLoss(n_eval=40, n_deploy=160, tail_k=5, n_partitions=16, penalty="huber")
N = 200


def setup(make: Any = tiny_llama, n: int = N, **kwargs: Any) -> tuple[ContinuationScorer, EncodedTasks]:
    tokenizer = word_tokenizer()
    scorer = ContinuationScorer(make(len(tokenizer), **kwargs), tokenizer)
    return scorer, scorer.encode(word_tasks(n))


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


def full_backpropagation(
    scorer: ContinuationScorer, encoded: EncodedTasks, base: ContinuationScorer, anchored: list[int], seed: int
) -> tuple[torch.Tensor, float, float]:
    """Loss and anchor of all prompts in one graph."""
    psi = psi_from_model_log_p(scorer.log_p(encoded))
    loss = LOSS(psi, np.random.default_rng(seed)).loss
    psi_base = psi_from_model_log_p(base.score(encoded))
    anchor = one_sided_anchor(psi[anchored], psi_base[anchored], worst=len(anchored))
    (2.0 * (loss + 10.0 * anchor)).backward()
    return gradients(scorer.model), float(loss.detach()), float(anchor.detach())


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_full_backpropagation(make: Any, dtype: torch.dtype) -> None:
    scorer, encoded = setup(make)
    scorer.model.to(dtype)
    base = frozen_base(scorer)
    objective = ForecastObjective(scorer, LOSS, base=base, anchor_tasks=N, seed=3)
    report = objective.backward(encoded, weight=2.0)
    two_pass = gradients(scorer.model)
    # anchored are all prompts: what was drawn needs no guessing
    full, loss, anchor = full_backpropagation(scorer, encoded, base, list(range(N)), seed=3)
    # sums over N prompts
    assert float((two_pass - full).abs().max()) <= N * torch.finfo(dtype).eps * float(full.abs().max())
    assert report.loss == pytest.approx(loss, rel=1e-4)
    assert report.anchor == pytest.approx(anchor, rel=1e-3)
    assert report.grad_norm == pytest.approx(float(full.norm()), rel=1e-4)
    assert report.anchor > 0
    assert report.n_scored == N


def test_only_prompts_with_weight_are_run_and_gradients_are_added() -> None:
    scorer, encoded = setup()
    ran: list[int] = []
    backward = scorer.backward

    def spy(tasks: EncodedTasks, weight: torch.Tensor) -> Any:
        ran.append(int((weight != 0).sum()))
        return backward(tasks, weight)

    scorer.backward = spy  # type: ignore[method-assign]
    objective = ForecastObjective(scorer, LOSS, anchor_weight=0)
    report = objective.backward(encoded)
    assert ran == [report.n_backward]
    assert report.n_backward < N / 2
    once = gradients(scorer.model)
    scorer.model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    task = gradients(scorer.model)
    scorer.model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    ForecastObjective(scorer, LOSS, anchor_weight=0).backward(encoded, weight=0.5)
    assert_close(gradients(scorer.model), task + 0.5 * once)


def test_any_penalty_goes_the_same_way() -> None:
    scorer, encoded = setup()

    def mean_log_p_of_the_worst(psi: torch.Tensor) -> torch.Tensor:
        return -torch.exp(-psi.topk(20).values).mean()

    report = ForecastObjective(scorer, mean_log_p_of_the_worst, anchor_weight=0).backward(encoded)
    assert report.n_backward == 20
    assert report.terms is None
    two_pass = gradients(scorer.model)
    value = scorer.log_p(encoded).topk(20).values.mean()
    value.backward()
    assert report.loss == pytest.approx(float(value.detach()), rel=1e-4)
    assert_close(two_pass, gradients(scorer.model))


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    scorer, encoded = setup(tiny_llama, attention_dropout=0.5)
    scorer.model.train()
    plain = ForecastObjective(scorer, LOSS, anchor_weight=0).backward(encoded)
    expected = gradients(scorer.model)
    scorer.model.gradient_checkpointing_enable()
    layer = scorer.model.model.layers[0]
    calls: list[bool] = []
    layer.register_forward_hook(lambda *_: calls.append(layer.training))
    attention_modes: list[bool] = []
    layer.self_attn.register_forward_hook(lambda *_: attention_modes.append(layer.self_attn.training))
    report = ForecastObjective(scorer, LOSS, anchor_weight=0).backward(encoded)
    assert report.loss == plain.loss
    # attention ran once more in the backward pass: the layers really were recomputed; dropout stayed off
    assert len(attention_modes) > len(calls)
    assert not any(attention_modes)
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
    report = ForecastObjective(adapted, LOSS, seed=1).backward(encoded)
    own = gradients(adapted.model)
    copied = ForecastObjective(adapted, LOSS, seed=1, base=frozen).backward(encoded)
    assert report.anchor == pytest.approx(copied.anchor, rel=1e-4)
    assert report.anchor > 0
    assert_close(own, gradients(adapted.model))
    known = ForecastObjective(adapted, LOSS, seed=1).backward(encoded, base_log_p=frozen.score(encoded))
    assert known.anchor == pytest.approx(copied.anchor, rel=1e-4)


def test_an_anchor_needs_a_base() -> None:
    scorer, encoded = setup()
    with pytest.raises(ValueError, match="the anchor needs base scores"):
        ForecastObjective(scorer, LOSS).backward(encoded)
    with pytest.raises(ValueError, match="must not be negative"):
        ForecastObjective(scorer, LOSS, anchor_weight=-1)


def test_a_failed_backward_leaves_the_gradients_alone() -> None:
    scorer, encoded = setup()
    before = torch.ones_like(scorer.model.lm_head.weight)
    scorer.model.lm_head.weight.grad = before
    with pytest.raises(ValueError, match="weight must be finite"):
        ForecastObjective(scorer, lambda psi: psi.sum() * float("inf"), anchor_weight=0).backward(encoded)
    assert scorer.model.lm_head.weight.grad is before


def step(scorer: ContinuationScorer) -> None:
    with torch.no_grad():
        for p in scorer.model.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    scorer.model.zero_grad()


def test_stale_scores_are_refreshed_by_policy() -> None:
    scorer, encoded = setup()
    objective = ForecastObjective(scorer, LOSS, anchor_weight=0, refresh=RefreshPolicy(every=3, fraction=0.5))
    reports = []
    for _ in range(7):
        fresh = psi_from_model_log_p(scorer.score(encoded))
        reports.append(objective.backward(encoded))
        if len(reports) in (1, 2):
            last_fresh = fresh
        step(scorer)
    assert [r.n_scored for r in reports] == [N, 0, 0, N // 2, 0, 0, N // 2]
    # on the second call the scores are those from before the first update
    assert_close(reports[1].psi, reports[0].psi)
    assert (reports[1].psi - last_fresh).abs().max() > 1e-3
    # a new pool is scored whole
    assert objective.backward(encoded[np.arange(N)]).n_scored == N


def test_prompts_that_were_run_are_refreshed_for_nothing() -> None:
    scorer, encoded = setup()
    objective = ForecastObjective(scorer, LOSS, anchor_weight=0, refresh=RefreshPolicy(every=100))
    objective.backward(encoded)
    step(scorer)
    second = objective.backward(encoded)
    at_second = psi_from_model_log_p(scorer.score(encoded))
    third = objective.backward(encoded)
    moved = (third.psi != second.psi).numpy()
    assert 0 < moved.sum() <= second.n_backward
    assert_close(third.psi[moved], at_second[moved])


def test_a_resumed_objective_goes_on_bit_for_bit() -> None:
    scorer, encoded = setup()
    base = frozen_base(scorer)
    settings: dict[str, Any] = {"base": base, "refresh": RefreshPolicy(every=2, fraction=0.3)}
    objective = ForecastObjective(scorer, LOSS, **settings)
    for _ in range(3):
        objective.backward(encoded)
        step(scorer)
    state, weights = json.loads(json.dumps(objective.state_dict())), copy.deepcopy(scorer.model.state_dict())
    straight = []
    for _ in range(3):
        straight.append(objective.backward(encoded))
        step(scorer)
    scorer.model.load_state_dict(weights)
    resumed = ForecastObjective(scorer, LOSS, seed=99, **settings)
    resumed.load_state_dict(state)
    for expected in straight:
        report = resumed.backward(encoded)
        step(scorer)
        assert (report.loss, report.anchor, report.grad_norm) == (expected.loss, expected.anchor, expected.grad_norm)
        assert torch.equal(report.psi, expected.psi)
    # another pool of the same size is not taken for the saved one
    resumed.load_state_dict(state)
    assert resumed.backward(scorer.encode(word_tasks(N, seed=8))).n_scored == N


def test_the_anchor_holds_middling_scores_down() -> None:
    """15 steps of the loss alone and with the anchor: without it more prompts rise above the base."""
    risen = {}
    for anchor_weight in (0.0, 10.0):
        scorer, encoded = setup(initializer_range=0.05)
        base = ContinuationScorer(copy.deepcopy(scorer.model), scorer.tokenizer)
        start = base.score(encoded)
        objective = ForecastObjective(scorer, LOSS, base=base, anchor_weight=anchor_weight)
        optimizer = torch.optim.AdamW(scorer.model.parameters(), lr=2e-3, weight_decay=0)
        losses = []
        for _ in range(15):
            optimizer.zero_grad()
            losses.append(objective.backward(encoded).loss)
            optimizer.step()
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
        risen[anchor_weight] = float((scorer.score(encoded) - start).clamp(min=0).mean())
    assert risen[10.0] < 0.5 * risen[0.0]


def test_memory_is_that_of_one_batch() -> None:
    """Bytes that autograd keeps at once: ten times the prompts, the same memory."""
    tokenizer = word_tokenizer()
    scorer = ContinuationScorer(tiny_llama(len(tokenizer)), tokenizer, max_batch_tokens=400)
    most = {}
    for n in (100, 1_000):
        encoded = scorer.encode(word_tasks(n))
        saved: list[int] = [0, 0]

        class Kept:
            def __init__(self, tensor: torch.Tensor) -> None:
                self.tensor = tensor
                saved[0] += tensor.numel()  # noqa: B023
                saved[1] = max(saved)  # noqa: B023

            def __del__(self) -> None:
                saved[0] -= self.tensor.numel()  # noqa: B023

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            scorer.backward(encoded, torch.ones(n))
        most[n] = saved[1]
    assert 0 < most[1_000] < 1.5 * most[100]


def test_no_weight_runs_nothing() -> None:
    scorer, encoded = setup()
    ran, log_p = scorer.backward(encoded, np.zeros(N))
    assert len(ran) == len(log_p) == 0
    assert all(p.grad is None for p in scorer.model.parameters())
    report = ForecastObjective(scorer, lambda psi: 0 * psi.sum(), anchor_weight=0).backward(encoded)
    assert (report.grad_norm, report.n_backward) == (0.0, 0)
    with pytest.raises(ValueError, match=r"weight must have shape \(200,\), it has \(3,\)"):
        scorer.backward(encoded, torch.ones(3))


def test_bad_policies() -> None:
    for policy in ({"every": 0}, {"fraction": 0.0}, {"fraction": 1.5}):
        with pytest.raises(ValueError, match="every must be at least 1"):
            RefreshPolicy(**policy)
