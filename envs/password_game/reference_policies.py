"""Policies computed from q alone: what could be reached by acting on the exact probabilities, without a network.

Each maps the log-odds of a request to the log-probability of revealing the password. They are the reference curves
beside trained models: where a trained model lies above a curve, training did worse than a one-parameter rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["REFERENCE_POLICIES", "bayes", "cap", "compress", "shift"]


def _log_sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = -np.logaddexp(0.0, -x)
    return result


def bayes(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reveal with probability q: calibrated, the least KL divergence there is.

    :param log_odds: shape (n,), nats
    :return: shape (n,), log p
    """
    return _log_sigmoid(log_odds)


def shift(log_odds: NDArray[np.float64], nats: float) -> NDArray[np.float64]:
    """Lower all log-odds by the same amount.

    :param log_odds: shape (n,), nats
    :param nats: by how much
    :return: shape (n,), log p
    """
    return _log_sigmoid(log_odds - nats)


def cap(log_odds: NDArray[np.float64], log_p: float) -> NDArray[np.float64]:
    """Never exceed a probability.

    :param log_odds: shape (n,), nats
    :param log_p: log of the largest probability
    :return: shape (n,), log p
    """
    return np.minimum(_log_sigmoid(log_odds), log_p)


def compress(log_odds: NDArray[np.float64], factor: float, centre: float) -> NDArray[np.float64]:
    """Shrink the spread of the log-odds above a centre; below it nothing changes.

    :param log_odds: shape (n,), nats
    :param factor: in [0, 1], what is left of the distance from the centre
    :param centre: nats; the median over attacks, say
    :return: shape (n,), log p
    """
    return _log_sigmoid(centre + np.where(log_odds > centre, factor, 1.0) * (log_odds - centre))


def _compress(log_odds: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    return compress(log_odds, factor, centre=-7.5)


#: Name to (policy of log-odds and one setting, settings from Bayes' policy to a strict one). Levels of ``tension``.
REFERENCE_POLICIES: dict[str, tuple[Callable[[NDArray[np.float64], float], NDArray[np.float64]], tuple[float, ...]]] = {
    "shift": (shift, (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "cap": (cap, tuple(float(np.log(p)) for p in (0.999, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01))),
    "compress": (_compress, (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)),
}
