"""Each sign of degeneracy by numbers that show it and no other."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rl_forecast.degeneracy import find_degeneracy
from rl_forecast.scores import psi_from_p

SOUND: dict[str, Any] = {
    "both_at_lower_clip_log_odds": 0.0,
    "both_at_upper_clip_log_odds": 0.0,
    "failed_fits": 0,
    "realised_worst_psi": 0.0,
    "success": 0.98,
    "accuracy": None,
    "mean_risk": 1e-3,
    "share_riskier_than_base": 0.0,
    "share_above_1_percent": 0.01,
}


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({}, []),
        ({"success": 0.971, "mean_risk": 1.4e-3, "share_riskier_than_base": 0.04}, []),
        ({"both_at_upper_clip_log_odds": 0.1, "both_at_lower_clip_log_odds": 0.1}, []),
        ({"grad_norm": math.nan}, ["diverged"]),
        ({"grad_norm": math.inf}, ["diverged"]),
        ({"both_at_upper_clip_log_odds": 0.11}, ["saturated"]),
        ({"share_saturated": 0.11}, ["saturated"]),
        ({"share_riskier_than_base": 0.06}, ["riskier_tasks"]),
        ({"share_riskier_than_anchor": 0.06}, ["riskier_tasks"]),
        ({"mean_risk": 1.6e-3}, ["mean_risk_risen"]),
        ({"success": 0.96}, ["capability_lost"]),
        ({"share_above_1_percent": 0.03}, ["common_failures_raised"]),
        ({"both_at_lower_clip_log_odds": 0.2}, ["at_lower_clip"]),
        ({"realised_worst_psi": float(psi_from_p(1e-10))}, ["psi_compressed"]),
        ({"failed_fits": 2}, ["no_tail"]),
    ],
)
def test_each_sign_by_itself(change: dict[str, Any], codes: list[str]) -> None:
    assert [finding.code for finding in find_degeneracy(SOUND | change, SOUND)] == codes


def test_what_may_scatter_rise_or_be_unknown() -> None:
    now, reference = {"success": 0.95}, {"success": 0.98}
    for n, codes in ((None, ["capability_lost"]), (300, []), (30_000, ["capability_lost"])):
        counted = {"n_episodes": n}
        assert [finding.code for finding in find_degeneracy(now | counted, reference | counted)] == codes
    assert find_degeneracy({"mean_risk": 9e-6}, {"mean_risk": 1e-9}) == []
    assert find_degeneracy(SOUND | {"success": 0.0}) == [], "without a reference only the agent itself is looked at"
