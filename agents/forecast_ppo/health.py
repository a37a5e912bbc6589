"""Signs that a low loss is being bought: saturation, risen failures, collapse, divergence.

The forecastability loss can be lowered without any failure becoming more forecastable. Each way leaves a sign in what
an update knows anyway; thresholds are on the side of speaking up late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TermHealth", "symptoms"]

# Share of partitions whose forecast and realised worst are both certain failures.
_SATURATED = 0.5
# Share of known tasks that may be riskier than the anchor finds them.
_RISEN = 0.05
# Mean risk, as a multiple of the first update's, and the least increase that counts.
_RISK_FACTOR, _RISK_STEP = 2.0, 1e-3
# Success probability lost since the first update.
_SUCCESS_LOST = 0.02


@dataclass(frozen=True)
class TermHealth:
    """What one update knows about the side effects of the term.

    :param mean_risk: mean failure probability of the known tasks
    :param success: share of the rollout's episodes that succeeded, ``None`` if the environment does not say
    :param share_saturated: share of partitions whose forecast and realised worst both lie at the upper end
    :param share_risen: share of known tasks whose score lies above the anchor's, ``None`` without an anchor
    :param grad_norm: norm of the added gradient before its limit
    """

    mean_risk: float
    success: float | None = None
    share_saturated: float = 0.0
    share_risen: float | None = None
    grad_norm: float = 0.0


def symptoms(now: TermHealth, first: TermHealth) -> dict[str, str]:
    """What is wrong, in words.

    :param now: the latest update
    :param first: the first update of the run
    :return: name of the symptom to a sentence; empty if all is well

    >>> symptoms(TermHealth(mean_risk=0.02), first=TermHealth(mean_risk=0.001))
    {'riskier': 'the mean risk rose from 0.001 to 0.02'}
    """
    found = {}
    if not math.isfinite(now.grad_norm):
        found["divergence"] = "the gradient of the term is not finite"
    if now.share_saturated > _SATURATED:
        found["saturation"] = (
            f"forecast and realised worst are both certain failure in {now.share_saturated:.0%} of the partitions: "
            "the loss sees no error there, and the worst tasks fail"
        )
    if now.share_risen is not None and now.share_risen > _RISEN:
        found["risen"] = (
            f"{now.share_risen:.0%} of the tasks are riskier than under the anchor: ordinary failures are raised to "
            "meet the worst ones; a larger anchor_coef holds them"
        )
    if now.mean_risk > _RISK_FACTOR * first.mean_risk and now.mean_risk > first.mean_risk + _RISK_STEP:
        found["riskier"] = f"the mean risk rose from {first.mean_risk:.2g} to {now.mean_risk:.2g}"
    if now.success is not None and first.success is not None and now.success < first.success - _SUCCESS_LOST:
        found["collapse"] = f"success fell from {first.success:.3f} to {now.success:.3f}"
    return found
