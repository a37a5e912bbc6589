"""Splits are disjoint, scattered and extendable; misspelt names are recognised."""

from __future__ import annotations

import numpy as np
import pytest

from rl_forecast.errors import closest, unknown_name
from rl_forecast.tasks import SPLITS, Split


def test_splits_are_the_published_ranges_and_disjoint() -> None:
    ranges = sorted((split.start, split.stop) for split in SPLITS.values())
    assert ranges == [(0, 2**30), (2**30, 2**31), (2**31, 2**32)]


@pytest.mark.parametrize("name", list(SPLITS))
def test_ids_are_distinct_inside_the_split_and_extendable(name: str) -> None:
    split = SPLITS[name]
    ids = split.task_ids(50_000, seed=3)
    assert len(np.unique(ids)) == 50_000
    assert all(int(i) in split for i in (ids.min(), ids.max()))
    np.testing.assert_array_equal(split.task_ids(1000, seed=3), ids[:1000])
    np.testing.assert_array_equal(split.task_ids(1000, seed=3, first=500), ids[500:1500])


def test_seeds_overlap_no_more_than_chance() -> None:
    split = SPLITS["held_out"]
    a, b = (set(split.task_ids(52_000, seed=s).tolist()) for s in (0, 1))
    assert len(a & b) <= 10  # independent draws would share about 1.3


def test_a_small_split_is_enumerated_exactly() -> None:
    split = Split("train", 64, 128)
    assert sorted(split.task_ids(64, seed=9).tolist()) == list(range(64, 128))
    with pytest.raises(ValueError, match="holds 64 tasks"):
        split.task_ids(65, seed=9)
    with pytest.raises(ValueError, match="holds 64 tasks"):
        split.task_ids(10, seed=9, first=60)


def test_a_split_must_have_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        Split("train", 0, 100)


def test_closest_names() -> None:
    assert closest("Gumbel_Tial", ["gumbel_tail", "log_normal"]) == "gumbel_tail"
    assert closest("zzz", ["gumbel_tail"]) == ""
    assert (
        unknown_name("column", "logp", ["log_p", "id"])
        == "unknown column 'logp': did you mean 'log_p'? choose from: log_p, id"
    )
    assert "and 8 more" in unknown_name("column", "zzz", [f"a{i}" for i in range(20)])
