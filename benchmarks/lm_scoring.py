"""Scoring against the bare forward pass, and the two-pass objective against full backpropagation.

    python -m benchmarks.lm_scoring

Scoring: a Llama of 10 million parameters from a config, prompts of 20 to 120 tokens with two continuations of three.
The peer runs the same batches through the same model without reading any probability: once as ``model(input_ids)``
does it (logits of every position), once with logits of the last position only, which is the least a forward pass can
do. Times are CPU seconds of the one thread, so that other work on the machine counts for less, and include building the
batches from encoded tasks.

Two-pass: a Llama of two layers and width 64, prompts of 6 to 30 tokens, the forecastability loss with k = 10 and 32
partitions, without anchor. The peer scores all prompts in one graph and backpropagates the same loss through it.
Activations are the bytes that autograd keeps at once (``saved_tensors_hooks``). float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.language_model.objective import ForecastObjective
from agents.language_model.prompts import EncodedTask
from agents.language_model.scorer import ContinuationScorer, psi_from_model_log_p
from rl_forecast.loss.forecastability import ForecastabilityLoss
from rl_forecast.loss.objectives import forecast_loss


def llama(vocabulary: int, width: int, layers: int, heads: int) -> LlamaForCausalLM:
    """A model from a config, its weights from a fixed seed."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def tasks(n: int, shortest: int, longest: int, n_continuations: int, vocabulary: int) -> list[EncodedTask]:
    """Random tokens: speed does not depend on what they say."""
    rng = np.random.default_rng(0)

    def tokens(length: int) -> list[int]:
        return [int(t) for t in rng.integers(0, vocabulary, length)]

    prompts = [tokens(int(rng.integers(shortest, longest + 1))) for _ in range(n)]
    return [EncodedTask(i, prompt, [tokens(3) for _ in range(n_continuations)]) for i, prompt in enumerate(prompts)]


def medians(calls: dict[str, Callable[[], object]], n_repeats: int) -> dict[str, float]:
    """Median CPU seconds of each call, the calls taking turns so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(n_repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if repeat:  # the first round warms up
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def scoring(n_repeats: int) -> None:
    """Tokens per second of scoring and of the bare forward pass."""
    vocabulary = 8_000
    model = llama(vocabulary, width=320, layers=6, heads=5)
    scorer = ContinuationScorer(model, None, max_batch_tokens=2_048)
    encoded = tasks(24, 20, 120, 2, vocabulary)
    batches: list[torch.Tensor] = []

    def record(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        batches.append(kwargs["input_ids"])

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    scorer.score(encoded)
    hook.remove()

    @torch.no_grad()
    def bare(**kwargs: Any) -> None:
        for ids in batches:
            model(input_ids=ids, use_cache=False, **kwargs)

    seconds = medians(
        {"score": lambda: scorer.score(encoded), "bare": bare, "last": lambda: bare(logits_to_keep=1)}, n_repeats
    )
    n_tokens = sum(ids.numel() for ids in batches)
    parameters = sum(p.numel() for p in model.parameters())
    real = sum(len(task.prompt) + len(c) - 1 for task in encoded for c in task.continuations)
    print(f"## Scoring: {parameters / 1e6:.1f}M parameters, {len(batches)} batches, {n_tokens} tokens")
    print(f"({1 - real / n_tokens:.1%} of them padding)\n")
    print("| | tokens per second | scoring runs at |")
    print("|---|---|---|")
    print(f"| ContinuationScorer.score | {n_tokens / seconds['score']:,.0f} | |")
    for name, text in (("bare", "bare forward"), ("last", "bare forward, logits of the last position only")):
        ratio = seconds[name] / seconds["score"]
        print(f"| {text} | {n_tokens / seconds[name]:,.0f} | {ratio:.0%} of it |")


class SavedBytes:
    """Bytes that autograd holds for a backward pass: now, and at most."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is saved inside; each kept tensor is counted until its graph is freed."""

        class Kept:
            def __init__(kept, tensor: torch.Tensor) -> None:
                kept.tensor = tensor
                kept.bytes = tensor.numel() * tensor.element_size()
                self.now += kept.bytes
                self.most = max(self.most, self.now)

            def __del__(kept) -> None:
                self.now -= kept.bytes

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            yield


def two_pass(n_repeats: int) -> None:
    """Seconds and activations of one gradient."""
    print("\n## Two-pass objective: 2 layers, width 64\n")
    print("| prompts N | with weight | full backpropagation | two-pass | faster | activations, full | two-pass |")
    print("|---|---|---|---|---|---|---|")
    vocabulary = 230
    model = llama(vocabulary, width=64, layers=2, heads=4)
    scorer = ContinuationScorer(model, None)
    for n in (1_000, 2_000, 4_000):
        encoded = tasks(n, 6, 30, 1, vocabulary)
        loss = ForecastabilityLoss(n_eval=n // 10, n_deploy=n - n // 10, n_partitions=32)
        weighted: list[int] = []

        def full(encoded: list[EncodedTask] = encoded, loss: ForecastabilityLoss = loss) -> None:
            model.zero_grad()
            psi = psi_from_model_log_p(scorer.log_p(encoded))
            loss(psi, np.random.default_rng(0)).loss.backward()  # type: ignore[no-untyped-call]

        def two(
            encoded: list[EncodedTask] = encoded, loss: ForecastabilityLoss = loss, weighted: list[int] = weighted
        ) -> None:
            model.zero_grad()
            weighted.append(ForecastObjective(scorer, forecast_loss(1.0, loss)).backward(encoded).n_backward)

        seconds = medians({"full": full, "two": two}, n_repeats)
        saved = {}
        for name, call in (("full", full), ("two", two)):
            counter = SavedBytes()
            with counter.counted():
                call()
            saved[name] = counter.most / 2**20
        print(
            f"| {n} | {weighted[-1]} | {seconds['full']:.3f} s | {seconds['two']:.3f} s | "
            f"{seconds['full'] / seconds['two']:.1f}x | {saved['full']:.0f} MiB | {saved['two']:.0f} MiB |"
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (median); default 5")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, CPU seconds, median of {args.repeats}\n")
    scoring(args.repeats)
    two_pass(args.repeats)


if __name__ == "__main__":
    main()
