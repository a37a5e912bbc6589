"""The numbers of a report against enumeration, simulation and hand-made degenerate agents."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rl_forecast.experiments.metrics import METRICS
from rl_forecast.experiments.report.numbers import interval_quality, summaries, warnings_of
from rl_forecast.experiments.report.reading import Setting, Unit, sample_rows
from rl_forecast.experiments.settings import Config, EvaluationConfig
from rl_forecast.experiments.statistics import bootstrap_interval, estimate, interquartile_mean, sign_flip_p
from rl_forecast.scores import log_p_from_psi, psi_from_p


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
    from scipy.stats import norm

    assert sign_flip_p(difference) == pytest.approx(2 * norm.sf(z), abs=0.01)


def _unit(agent: str, seed: int, metrics: dict[str, Any], scores: pl.DataFrame | None = None) -> Unit:
    evaluation = EvaluationConfig(n_eval=200, n_deploy=1000, n_eval_sets=50, n_deploy_sets=20)
    config = replace(Config(seed=seed), evaluation=evaluation)
    return Unit(agent, seed, metrics, pl.DataFrame() if scores is None else scores, Path("x"), config)


def test_coverage_on_an_exponential_tail_is_what_was_promised() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(8):
        psi = rng.exponential(0.7, 200 * 50 + 1000 * 20) - 3
        part = ["evaluation"] * 10_000 + ["deployment"] * 20_000
        scores = pl.DataFrame({"part": part, "psi": psi, "log_p": log_p_from_psi(psi)})
        quality = interval_quality(_unit("a", 0, {}, scores), "gumbel_tail")
        assert quality is not None
        inside.append(quality[0])
    # Pairs that share a set are not independent; over eight agents the mean is within a few points.
    assert np.mean(inside) == pytest.approx(0.90, abs=0.03)


def test_scores_without_a_tail_have_no_coverage() -> None:
    psi = np.full(30_000, -4.0)
    scores = pl.DataFrame({"part": ["evaluation"] * 10_000 + ["deployment"] * 20_000, "psi": psi, "log_p": psi})
    assert interval_quality(_unit("a", 0, {}, scores), "gumbel_tail") is None


_SOUND = {
    "abs_error_log_odds": 1.0,
    "both_at_lower_clip_log_odds": 0.0,
    "both_at_upper_clip_log_odds": 0.0,
    "failed_fits": 0,
    "realised_worst_psi": 0.0,
    "success": 0.98,
    "mean_risk": 1e-3,
    "share_riskier_than_base": 0.0,
}


def _setting(*units: Unit) -> Setting:
    return Setting("slip", "gridworld", units)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"success": 0.90}, "success 0.9000 against 0.9800"),
        ({"realised_worst_psi": float(psi_from_p(1e-20))}, "about 1e-20"),
        ({"share_riskier_than_base": 0.06}, "6.0% of all tasks"),
        ({"failed_fits": 3}, "3 evaluation sets"),
    ],
)
def test_each_degenerate_agent_is_named(change: dict[str, Any], words: str) -> None:
    units = [_unit("base", seed, _SOUND) for seed in (0, 1)]
    units += [_unit("ppo", seed, _SOUND | (change if seed == 1 else {})) for seed in (0, 1)]
    (warned,) = warnings_of(_setting(*units))
    assert words in warned.finding.sentence
    assert (warned.agent, warned.seeds, warned.n_seeds) == ("ppo", (1,), 2)


def test_a_metric_that_is_clipped_for_one_seed_is_not_averaged_over_the_others() -> None:
    clipped = _SOUND | {"both_at_lower_clip_log_odds": 0.7}
    units = [_unit("ppo", seed, clipped if seed == 2 else _SOUND) for seed in range(3)]
    error, *_ = summaries([_setting(*units)], "slip")
    assert error.metric.name == "abs_error_log_odds"
    assert error.estimate is None
    assert error.n_undefined == 1


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


def test_the_page_of_log_keys_says_what_the_list_of_metrics_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "log_keys.md").read_text(encoding="utf-8")
    written = [line for line in page.splitlines() if line.startswith("| `final/")]
    bar = "\\|"
    assert written == [f"| `final/{m.name}` | {m.unit} | {m.meaning.replace('|', bar)} |" for m in METRICS.values()]
