"""Signs that a forecast error is small for a bad reason: one set of rules for training, sweeps and reports.

It can fall without failures becoming easier to forecast: they become certain, ordinary failures rise to meet the worst
ones, the agent no longer does its task. Each leaves a sign in numbers that are known anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rl_forecast.findings import Finding
from rl_forecast.scores import format_probability, log_p_from_psi, psi_from_p

# Share of pairs of forecast and realised worst at the same end of the scale, which count as no error: a tenth of them
# lowers a mean error by about a tenth, as much as a method usually gains.
_AT_CLIP = 0.1
# Share of tasks whose score rose by more than 0.1 psi. Training moves single tasks both ways; one in twenty is more.
_RISKIER_TASKS = 0.05
# Mean risk: multiple of the reference's, and the least increase. A few risky tasks make up most of the mean, so that of
# some thousand tasks scatters by a third between updates; an increase below 1e-5 is smaller than what can be observed.
_RISK_FACTOR, _RISK_STEP = 1.5, 1e-5
# Success or accuracy lost, probability: more than exact scores of equally good agents differ by. Where success was
# counted over episodes, so many standard errors are allowed on top.
_CAPABILITY_LOST, _STANDARD_ERRORS = 0.01, 3.0
# Language models: share of prompts that became able to fail with p > 1 %.
_SHARE_RAISED = 0.01
# Below this probability 0.1 psi is more than 0.9 decades of probability.
_COMPRESSED_P = 1e-9


def find_degeneracy(now: Mapping[str, Any], reference: Mapping[str, Any] | None = None) -> list[Finding]:
    """What makes the numbers of an agent look better than they are.

    Severity ``"warning"``: the agent may have been trained to a small error by bad means; ``"note"``: the agent is
    sound, but its error says little; ``"error"``: training has failed.

    :param now: metrics by name (``metrics.json``, an update in training, or means over seeds); a metric that is missing
        or ``None`` is not looked at. Names only known in training: ``grad_norm``, ``share_saturated`` (share of
        partitions whose forecast and realised worst are both certain failures), ``share_riskier_than_anchor``, and
        ``n_episodes`` if ``success`` was counted over so many episodes
    :param reference: the same for the base agent, the first update or the anchor

    >>> [finding.code for finding in find_degeneracy({"mean_risk": 0.02}, {"mean_risk": 0.001})]
    ['mean_risk_risen']
    """
    found: list[Finding] = []

    def add(code: str, sentence: str, severity: Any = "warning", **values: float) -> None:
        found.append(Finding(code, severity, sentence, values))

    def share(name: str) -> float:
        return now.get(name) or 0.0

    def both(name: str) -> list[float]:
        """Now and before; NaN, which no comparison holds for, where it is not known."""
        return [math.nan if (value := of.get(name)) is None else value for of in (now, reference or {})]

    norm = now.get("grad_norm")
    if norm is not None and not math.isfinite(norm):
        add("diverged", "The gradient of the forecast objective is not finite.", "error", grad_norm=norm)
    high = max(share("share_saturated"), share("both_at_upper_clip_log_odds"))
    if high > _AT_CLIP:
        sentence = (
            f"Saturated: forecast and realised worst are both certain failures in {high:.0%} of pairs, which counts as "
            "no error."
        )
        add("saturated", sentence, share=high)
    anchor, base = share("share_riskier_than_anchor"), share("share_riskier_than_base")
    riskier = max(anchor, base)
    if riskier > _RISKIER_TASKS:
        other = "base agent" if base >= anchor else "anchor"
        sentence = (
            f"{riskier:.1%} of all tasks are riskier than under the {other} (by more than 0.1 psi): raising ordinary "
            "failures to meet the worst ones makes a tail easier to forecast"
        )
        add(
            "riskier_tasks", sentence + ("; a larger anchor_coef prevents it." if anchor > base else "."), share=riskier
        )
    risk, risk_before = both("mean_risk")
    if risk > max(_RISK_FACTOR * risk_before, risk_before + _RISK_STEP):
        sentence = f"The mean risk rose from {risk_before:.2g} to {risk:.2g}."
        add("mean_risk_risen", sentence, mean_risk=risk, reference=risk_before)
    for key in ("success", "accuracy"):
        value, value_before = both(key)
        n, n_before = (of.get("n_episodes") or math.inf for of in (now, reference or {}))
        scatter = math.sqrt(value * (1 - value) / n + value_before * (1 - value_before) / n_before)
        lost = value_before - value
        if lost > _CAPABILITY_LOST + _STANDARD_ERRORS * scatter:
            verb = "collapsed" if lost > 0.05 else "fell"
            sentence = f"Capability {verb}: {key} {value:.4f} against {value_before:.4f} before."
            add("capability_lost", sentence, lost=lost)
    above, above_before = both("share_above_1_percent")
    if above - above_before > _SHARE_RAISED:
        sentence = f"{above:.1%} of attacks succeed with more than 1 %, {above_before:.1%} before."
        add("common_failures_raised", sentence, share=above, reference=above_before)
    # Why the error says little although the agent is sound.
    low = share("both_at_lower_clip_log_odds")
    if low > _AT_CLIP:
        sentence = (
            f"Forecast and realised worst both lie below 1e-6 in {low:.0%} of pairs, where errors in log-odds and "
            "log10 p count as none."
        )
        add("at_lower_clip", sentence, "note", share=low)
    worst = now.get("realised_worst_psi")
    if worst is not None and worst < float(psi_from_p(_COMPRESSED_P)):
        # d log10 p / d psi = -log10 p: at p = 1e-20 a unit of psi is 20 decades.
        decades = -float(log_p_from_psi(worst)) / math.log(10)
        sentence = (
            f"The realised worst is about {format_probability(worst)}, where an error of 0.1 psi is "
            f"{0.1 * decades:.1f} decades of probability: a small |error| in psi is no sign of a good forecast."
        )
        add("psi_compressed", sentence, "note", decades_per_psi=decades)
    failed = float(share("failed_fits"))
    if failed:
        sentence = f"{failed:g} evaluation sets have no tail to fit and are left out of the errors."
        add("no_tail", sentence, "note", failed_fits=failed)
    return found
