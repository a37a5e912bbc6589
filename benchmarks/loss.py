"""Time of the forecastability loss, forward and backward, against the naive loop.

    python benchmarks/loss.py

Naive: for each partition a random permutation, the top k of its first part, the maximum of its second part, the
written-out least-squares forecast; one backward pass at the end. Times are medians of wall time on one torch thread,
float32 scores, k = 10, squared error in psi. ``fresh`` draws new partitions within the timed call, ``cached`` uses one
set again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from rl_forecast.loss.forecastability import ForecastabilityLoss

TAIL_K = 10


def naive_loss(psi: torch.Tensor, n_eval: int, n_partitions: int, generator: torch.Generator) -> torch.Tensor:
    """The loss as one would first write it."""
    y = torch.log(torch.arange(1, TAIL_K + 1, dtype=psi.dtype) / n_eval)
    n_deploy = psi.shape[0] - n_eval
    total = torch.zeros((), dtype=psi.dtype)
    for _ in range(n_partitions):
        order = torch.randperm(psi.shape[0], generator=generator)
        x = psi[order[:n_eval]].topk(TAIL_K).values
        dx, dy = x - x.mean(), y - y.mean()
        slope = (dx * dy).sum() / (dx * dx).sum()
        forecast = x.mean() - (math.log(n_deploy) + y.mean()) / slope
        total = total + (forecast - psi[order[n_eval:]].max()) ** 2
    return total / n_partitions


def median_ms(call: Callable[[], object], n_repeats: int) -> float:
    """Median wall time after one call to warm up, milliseconds."""
    call()
    times = []
    for _ in range(n_repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def naive_ms(psi: torch.Tensor, n_eval: int, n_partitions: int, n_repeats: int) -> float:
    """Median time of the naive loss, forward and backward, milliseconds."""
    generator = torch.Generator().manual_seed(0)
    leaf = psi.clone().requires_grad_()
    return median_ms(lambda: torch.autograd.grad(naive_loss(leaf, n_eval, n_partitions, generator), leaf), n_repeats)


def fast_ms(psi: torch.Tensor, n_eval: int, n_partitions: int, n_repeats: int) -> tuple[float, float]:
    """Median time of the loss with fresh and with cached partitions, milliseconds."""
    loss = ForecastabilityLoss(n_eval, psi.shape[0] - n_eval, tail_k=TAIL_K, n_partitions=n_partitions)
    generator = np.random.default_rng(0)
    cached = loss.partitions(psi.shape[0], generator)
    leaf = psi.clone().requires_grad_()
    return (
        median_ms(lambda: torch.autograd.grad(loss(leaf, generator).loss, leaf), n_repeats),
        median_ms(lambda: torch.autograd.grad(loss(leaf, cached).loss, leaf), n_repeats),
    )


def headline(n_tasks: int, n_partitions: int, naive_partitions: int) -> None:
    """Print the comparison with the naive loop, deployment as large as evaluation."""
    psi = torch.from_numpy(np.random.default_rng(0).standard_exponential(n_tasks)).float()
    n_eval = n_tasks // 2
    # time per partition of fewer and of twice as many: the naive loop is linear in R if they agree
    half, few = (naive_ms(psi, n_eval, r, 5) / r for r in (naive_partitions // 2, naive_partitions))
    fresh, cached = fast_ms(psi, n_eval, n_partitions, 101)
    if naive_partitions < n_partitions:
        how = (
            f"extrapolated linearly from R = {naive_partitions}: {few:.2f} ms per partition "
            f"({half:.2f} at R = {naive_partitions // 2})"
        )
    else:
        how = "measured"
    slow = few * n_partitions
    print(f"N = {n_tasks}, R = {n_partitions}, m = n, forward + backward")
    print(f"  naive loop         {slow:10.1f} ms  ({how})")
    print(f"  fresh partitions   {fresh:10.2f} ms  {slow / fresh:8.0f}x")
    print(f"  cached partitions  {cached:10.2f} ms  {slow / cached:8.0f}x")


def table(n_repeats: int) -> None:
    """Print times over N, R and n / m."""
    print(f"\n{'N':>8} {'R':>5} {'n/m':>4} {'fresh ms':>9} {'cached ms':>9}")
    for n_tasks in (1_000, 100_000, 1_000_000):
        psi = torch.from_numpy(np.random.default_rng(0).standard_exponential(n_tasks)).float()
        for n_partitions in (16, 256, 1024):
            for ratio in (1, 10):
                n_eval = n_tasks // (1 + ratio)
                fresh, cached = fast_ms(psi, n_eval, n_partitions, n_repeats)
                print(f"{n_tasks:8d} {n_partitions:5d} {ratio:4d} {fresh:9.2f} {cached:9.2f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-tasks", type=int, default=100_000, help="tasks N of the comparison with the naive loop")
    parser.add_argument("--n-partitions", type=int, default=1024, help="partitions R of that comparison")
    parser.add_argument(
        "--naive-partitions", type=int, default=64, help="partitions the naive loop is timed on, at least 2"
    )
    parser.add_argument("--repeats", type=int, default=31, help="timed calls per cell of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, numpy {np.__version__}, one thread, float32, k = {TAIL_K}")
    headline(args.n_tasks, args.n_partitions, min(args.naive_partitions, args.n_partitions))
    table(args.repeats)


if __name__ == "__main__":
    main()
