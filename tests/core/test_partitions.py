"""Partitions: both samplers follow the law of simple random sampling, with and without unused tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from rl_forecast.loss import partitions
from rl_forecast.loss.partitions import Partitions, draw_partitions

SAMPLERS = ("exact", "sobol")


@contextmanager
def sampler(name: str) -> Iterator[None]:
    """Use one sampler whatever the sizes are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "_SOBOL_MIN_TASKS", 0 if name == "sobol" else 2**62)
        patch.setattr(partitions, "_SOBOL_MIN_PART", 0)
        yield


def chi2_p(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Upper tail of Pearson's statistic; a cell that cannot occur must not."""
    assert set(counts) <= set(expected)
    total = sum(counts.values())
    statistic = sum((counts[cell] - total * p) ** 2 / (total * p) for cell, p in expected.items())
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def three_way_law(n_tasks: int, n_eval: int, n_deploy: int) -> dict[tuple[int, ...], float]:
    """Probability of (ranks of the evaluation part, rank of the deployment maximum), by enumeration."""
    law: Counter[tuple[int, ...]] = Counter()
    for evaluation in combinations(range(n_tasks), n_eval):
        others = [rank for rank in range(n_tasks) if rank not in evaluation]
        for deployment in combinations(others, n_deploy):
            law[(*evaluation, deployment[0])] += 1
    total = sum(law.values())
    return {cell: count / total for cell, count in law.items()}


@pytest.mark.parametrize(("n_eval", "n_deploy"), [(5, 4), (3, 4), (4, 1), (6, 2), (2, 1)])
def test_exact_sampler_follows_the_enumerated_law(n_eval: int, n_deploy: int) -> None:
    parts = draw_partitions(9, n_eval, n_deploy, np.random.default_rng(1), tail_k=n_eval, n_partitions=100_000)
    rows = np.column_stack([parts.eval_rank, parts.deploy_rank]).tolist()
    assert chi2_p(Counter(map(tuple, rows)), three_way_law(9, n_eval, n_deploy)) > 1e-3


@pytest.mark.parametrize("tail_k", [1, 2, 3])
def test_exact_sampler_draws_the_deployment_maximum_below_the_window(tail_k: int) -> None:
    """A short tail sends many deployment maxima below the k-th evaluation rank: the joint law must not notice."""
    law: Counter[tuple[int, ...]] = Counter()
    for cell, p in three_way_law(10, 6, 2).items():
        law[(*cell[:tail_k], cell[-1])] += p  # type: ignore[assignment]
    parts = draw_partitions(10, 6, 2, np.random.default_rng(2), tail_k=tail_k, n_partitions=100_000)
    rows = np.column_stack([parts.eval_rank, parts.deploy_rank]).tolist()
    assert chi2_p(Counter(map(tuple, rows)), dict(law)) > 1e-3


def sobol_batches(n_eval: int, n_deploy: int, tail_k: int) -> NDArray[np.int64]:
    """Rows of many independently scrambled sequences over 90 000 tasks: (evaluation ranks, deployment rank)."""
    generator = np.random.default_rng(3)
    batches = [
        draw_partitions(90_000, n_eval, n_deploy, generator, tail_k=tail_k, n_partitions=4096) for _ in range(100)
    ]
    return np.concatenate([np.column_stack([b.eval_rank, b.deploy_rank]) for b in batches])


def test_sobol_sampler_is_uniform_over_all_subsets() -> None:
    """Among the first 9 ranks, given that 5 are evaluation, each of the 126 subsets is equally likely."""
    rows = sobol_batches(50_000, 40_000, tail_k=6)
    rows = rows[(rows[:, 4] < 9) & (rows[:, 5] >= 9)]
    expected: dict[tuple[int, ...], float] = dict.fromkeys(combinations(range(9), 5), 1 / comb(9, 5))
    assert len(rows) > 50_000
    assert chi2_p(Counter(map(tuple, rows[:, :5].tolist())), expected) > 1e-3


@pytest.mark.parametrize(("n_eval", "n_deploy"), [(30_000, 40_000), (45_000, 9_000)])
def test_sobol_sampler_with_unused_tasks_follows_the_law_of_independent_labels(n_eval: int, n_deploy: int) -> None:
    """Joint law of the two first evaluation ranks and the deployment maximum within the first 8 ranks."""
    q, d = n_eval / 90_000, n_deploy / 90_000
    law: dict[tuple[int, ...], float] = {}
    for first, second in combinations(range(8), 2):
        for deploy in set(range(8)) - {first, second}:
            # ranks above the deployment maximum are evaluation or unused; ranks between the two are not evaluation
            p = 1.0
            for rank in range(8):
                if rank in (first, second):
                    p *= q
                elif rank == deploy:
                    p *= d
                elif rank < deploy:
                    p *= (1 - q - d) if rank < second else (1 - d)
                else:
                    p *= (1 - q) if rank < second else 1.0
            law[(first, second, deploy)] = p
    rows = sobol_batches(n_eval, n_deploy, tail_k=2)
    inside = rows[(rows < 8).all(axis=1)]
    law[(-1,)] = 1.0 - sum(law.values())
    counts = Counter(map(tuple, inside.tolist()))
    counts[(-1,)] = len(rows) - len(inside)
    assert chi2_p(counts, law) > 1e-3


@pytest.mark.parametrize(
    ("n_tasks", "n_eval", "n_deploy"), [(4000, 200, 800), (4000, 2000, 2000), (4000, 2000, 20), (4000, 364, 3636)]
)
def test_samplers_agree_on_many_tasks(n_tasks: int, n_eval: int, n_deploy: int) -> None:
    """Mean ranks are known exactly; both samplers meet them, the Sobol one up to its documented bias."""
    k = 10
    deploy_mean = (n_tasks - n_deploy) / (n_deploy + 1)
    eval_mean = (np.arange(k) + 1) * (n_tasks + 1) / (n_eval + 1) - 1
    for name in SAMPLERS:
        with sampler(name):
            parts = draw_partitions(n_tasks, n_eval, n_deploy, np.random.default_rng(4), tail_k=k, n_partitions=2**15)
        assert parts.ok.all()
        np.testing.assert_allclose(parts.eval_rank.mean(axis=0) + 1, eval_mean + 1, rtol=0.03)
        assert parts.deploy_rank.mean() + 1 == pytest.approx(deploy_mean + 1, rel=0.06 if n_deploy == 20 else 0.03)


@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40)),
    tail_k=st.integers(1, 50),
    n_partitions=st.integers(1, 33),
    name=st.sampled_from(SAMPLERS),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_row_that_is_ok_is_a_partition(
    sizes: tuple[int, int, int], tail_k: int, n_partitions: int, name: str, seed: int
) -> None:
    n_eval, n_deploy, n_unused = sizes
    n_tasks = sum(sizes)
    generator = np.random.default_rng(seed)
    with sampler(name):
        parts = draw_partitions(n_tasks, n_eval, n_deploy, generator, tail_k=tail_k, n_partitions=n_partitions)
    assert parts.eval_rank.shape == (n_partitions, min(tail_k, n_eval))
    assert parts.deploy_rank.shape == parts.ok.shape == (n_partitions,)
    assert parts.tail_k == min(tail_k, n_eval)
    assert name == "sobol" or parts.ok.all()
    assert parts.window <= max(n_tasks, parts.tail_k)
    assert max(parts.eval_rank.max(), parts.deploy_rank.max()) == parts.window - 1
    for row, deploy in zip(parts.eval_rank[parts.ok], parts.deploy_rank[parts.ok], strict=True):
        assert row[0] >= 0
        assert (np.diff(row) > 0).all()
        assert deploy not in row
        assert max(row[-1], deploy) < n_tasks
        if n_unused == 0 and name == "exact" and deploy > 0:
            # nothing but evaluation tasks above the deployment maximum
            assert (row[:deploy] == np.arange(deploy)[: len(row)]).all()
        if name == "exact":
            # enough ranks are left below for the rest of each part
            assert n_tasks - 1 - row[-1] >= n_eval - parts.tail_k
            assert n_tasks - 1 - deploy >= n_deploy - 1


def test_overrun_rows_are_flagged_and_stay_indexable() -> None:
    with sampler("sobol"):
        parts = draw_partitions(40, 12, 28, np.random.default_rng(5), tail_k=10, n_partitions=1024)
    assert 0.1 < (~parts.ok).mean() < 0.5
    assert parts.eval_rank.max() < 40
    assert parts.deploy_rank.max() < 40


@pytest.mark.parametrize(
    ("n_tasks", "n_eval", "n_deploy", "expected"),
    [(999, 400, 599, "exact"), (1000, 400, 600, "sobol"), (4000, 200, 800, "sobol"), (4000, 49, 800, "exact")],
)
def test_choice_of_the_sampler(n_tasks: int, n_eval: int, n_deploy: int, expected: str) -> None:
    chosen = draw_partitions(n_tasks, n_eval, n_deploy, np.random.default_rng(0))
    with sampler(expected):
        assert same(chosen, draw_partitions(n_tasks, n_eval, n_deploy, np.random.default_rng(0)))


def same(a: Partitions, b: Partitions) -> bool:
    return np.array_equal(a.eval_rank, b.eval_rank) and np.array_equal(a.deploy_rank, b.deploy_rank)


@pytest.mark.parametrize("n_eval", [20, 200])
def test_generator_is_the_only_source_of_randomness_and_advances(n_eval: int) -> None:
    one, two = np.random.default_rng(6), np.random.default_rng(6)
    np.random.seed(0)  # noqa: NPY002 -- the global state must not matter
    first = draw_partitions(4000, n_eval, 800, one)
    np.random.seed(1)  # noqa: NPY002
    assert same(first, draw_partitions(4000, n_eval, 800, two))
    assert not same(first, draw_partitions(4000, n_eval, 800, one))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_eval": 60}, "do not fit"),
        ({"n_eval": 0}, "at least 1"),
        ({"n_deploy": 0}, "at least 1"),
        ({"tail_k": 0}, "at least 1"),
        ({"n_partitions": 0}, "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"n_tasks": 100, "n_eval": 50, "n_deploy": 50, **arguments}
    with pytest.raises(ValueError, match=message):
        draw_partitions(generator=np.random.default_rng(0), **settings)  # type: ignore[arg-type]
