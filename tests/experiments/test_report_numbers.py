"""The numbers of a report against enumeration, simulation and hand-made degenerate agents."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from rl_forecast.experiments.report.numbers import interval_quality, summaries, warnings_of
from rl_forecast.experiments.report.reading import Setting, Unit, sample_rows
from rl_forecast.experiments.settings import Config, EvaluationConfig
from rl_forecast.experiments.statistics import bootstrap_interval, estimate, interquartile_mean, sign_flip_p
from rl_forecast.scores import log_p_from_psi


def test_the_interquartile_mean_cuts_off_a_quarter_at_each_end() -> None:
    values = np.array([100.0, 1, 2, 3, 4, -50, 5, 6])
    assert interquartile_mean(values) == np.mean([2, 3, 4, 5])
    assert interquartile_mean(np.array([1.0, 2, 9])) == 4, "three values have no quarter to cut off"
    assert interquartile_mean(np.array([1.0, 2, 3, 4, 99])) == 3


def test_the_bootstrap_is_that_of_all_resamples() -> None:
    first, second = np.array([0.0, 1.3, 5.1]), np.array([10.0, 12.2, 11.1, 10.7])
    pairs = product(product(first, repeat=3), product(second, repeat=4))
    means = interquartile_mean(np.array([[*a, *b] for a, b in pairs]), axis=1)
    assert len(means) == 3**3 * 4**4
    low, high = bootstrap_interval([first, second], level=0.8, n_resamples=20_000)
    assert low == pytest.approx(np.quantile(means, 0.1), abs=0.08)
    assert high == pytest.approx(np.quantile(means, 0.9), abs=0.08)
    # Seeds of one world never stand in for those of another: unstratified resamples would spread far wider.
    assert high - low < 4


def test_one_seed_has_no_interval() -> None:
    value, low, high, n = estimate([np.array([2.0])])
    assert (value, n) == (2.0, 1)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("n", [1, 2, 5, 9, 13])
def test_the_sign_flip_test_is_that_of_all_patterns(n: int) -> None:
    difference = np.random.default_rng(n).normal(0.7, 1.0, n)
    signs = np.array(list(product((-1.0, 1.0), repeat=n)))
    sums = np.abs(signs @ difference)
    assert sign_flip_p(difference) == pytest.approx(np.mean(sums >= sums[-1] * (1 - 1e-12)))


def test_beyond_fourteen_pairs_random_patterns_come_close() -> None:
    difference = np.random.default_rng(0).normal(0.4, 1.0, 24)
    # The sum of random signs is close to normal.
    z = abs(difference.sum()) / np.sqrt((difference**2).sum())
    assert sign_flip_p(difference) == pytest.approx(2 * norm.sf(z), abs=0.01)


def _unit(agent: str, seed: int, metrics: dict[str, Any], scores: pl.DataFrame | None = None) -> Unit:
    evaluation = EvaluationConfig(n_eval=200, n_deploy=1000, n_eval_sets=50, n_deploy_sets=20)
    config = replace(Config(seed=seed), evaluation=evaluation)
    return Unit(agent, seed, metrics, pl.DataFrame() if scores is None else scores, Path("x"), config)


def _scores(psi: np.ndarray) -> pl.DataFrame:
    part = ["evaluation"] * 10_000 + ["deployment"] * 20_000
    return pl.DataFrame({"part": part, "psi": psi, "log_p": log_p_from_psi(psi)})


def test_coverage_on_an_exponential_tail_is_what_was_promised() -> None:
    rng = np.random.default_rng(3)
    scores = [_scores(rng.exponential(0.7, 200 * 50 + 1000 * 20) - 3) for _ in range(8)]
    inside = [interval_quality(_unit("a", 0, {}, one), "gumbel_tail")[0] for one in scores]
    # Pairs that share a set are not independent; over eight agents the mean is within a few points.
    assert np.mean(inside) == pytest.approx(0.90, abs=0.03)
    assert interval_quality(_unit("a", 0, {}, _scores(np.full(30_000, -4.0))), "gumbel_tail") is None, "no tail"


_SOUND = {"abs_error_log_odds": 1.0, "both_at_lower_clip_log_odds": 0.0, "success": 0.98, "mean_risk": 1e-3}


def _setting(*units: Unit) -> Setting:
    return Setting("slip", "gridworld", units)


def test_a_warning_names_the_seeds_that_show_it() -> None:
    units = [_unit("base", seed, _SOUND) for seed in (0, 1, 2)]
    units += [_unit("ppo", seed, _SOUND | {"success": success}) for seed, success in enumerate((0.98, 0.95, 0.9))]
    (warned,) = warnings_of(_setting(*units))
    assert warned.finding.values["lost"] == pytest.approx(0.08), "of the seed that shows it most"
    assert (warned.agent, warned.seeds, warned.n_seeds) == ("ppo", (1, 2), 3)


def test_a_metric_that_is_clipped_for_one_seed_is_not_averaged_over_the_others() -> None:
    clipped = _SOUND | {"both_at_lower_clip_log_odds": 0.7}
    units = [_unit("ppo", seed, clipped if seed == 2 else _SOUND) for seed in range(3)]
    error, *_ = summaries([_setting(*units)], "slip")
    assert (error.metric.name, error.estimate, error.n_undefined) == ("abs_error_log_odds", None, 1)


def test_differences_are_paired_by_seed() -> None:
    units = [_unit("task_only", seed, _SOUND | {"success": 0.9 + seed / 100}) for seed in range(5)]
    # One seed is missing and the order is another: pairs must still be of one seed.
    units += [_unit("b", seed, _SOUND | {"success": 0.91 + seed / 100}) for seed in (0, 1, 2, 4)]
    rows = {(row.agent, row.metric.name): row for row in summaries([_setting(*units)], "slip")}
    row = rows["b", "success"]
    assert row.difference == pytest.approx(0.01)
    assert row.p_value == 2 / 16
    assert rows["task_only", "success"].p_value is None


def test_samples_survive_the_bars_in_them() -> None:
    text = "| p(forbidden) | prompt | greedy answer |\n|---:|---|---|\n| 0.96 | `a \\| b` | `c` |"
    assert sample_rows(text) == [("0.96", "a | b", "c")]
