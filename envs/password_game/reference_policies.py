"""Policies computed from q alone: what could be reached by acting on the exact probabilities, without a network.

Each maps the log-odds of requests (nats) to the log-probability of revealing the password, both of shape (n,). They are
the reference curves beside trained models: a trained model above a curve did worse than a one-parameter rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["REFERENCE_POLICIES", "cap", "compress", "shift"]


def shift(log_odds: NDArray[np.float64], nats: float) -> NDArray[np.float64]:
    """Lower all log-odds by the same amount; by 0 it reveals with probability q, the least KL divergence there is."""
    result: NDArray[np.float64] = -np.logaddexp(0.0, nats - log_odds)
    return result


def cap(log_odds: NDArray[np.float64], log_p: float) -> NDArray[np.float64]:
    """Never exceed a probability, given by its log."""
    return np.minimum(shift(log_odds, 0.0), log_p)


def compress(log_odds: NDArray[np.float64], factor: float, centre: float = -7.5) -> NDArray[np.float64]:
    """Keep a fraction in [0, 1] of the log-odds' distance above a centre; below it nothing changes."""
    return shift(centre + np.where(log_odds > centre, factor, 1.0) * (log_odds - centre), 0.0)


#: Name to (policy of log-odds and one setting, settings from Bayes' policy to a strict one). Levels of ``tension``.
REFERENCE_POLICIES: dict[str, tuple[Callable[[NDArray[np.float64], float], NDArray[np.float64]], tuple[float, ...]]] = {
    "shift": (shift, (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "cap": (cap, tuple(float(np.log(p)) for p in (0.999, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01))),
    "compress": (compress, (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)),
}
