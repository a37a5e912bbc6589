"""Failure probabilities in words: readable where they underflow and where they come close to 1."""

from __future__ import annotations

import numpy as np

from rl_forecast.scores import log_p_from_psi

__all__ = ["format_count", "format_probability"]


def format_probability(psi: float) -> str:
    """Failure probability of a score, to two or three digits.

    :param psi: psi score; ``nan`` gives a dash
    :return: for example ``"0.0123"``, ``"3.1e-06"``, ``"1e-523"`` or ``"1 - 2.2e-05"``
    """
    if np.isnan(psi):
        return "-"
    log_p = float(log_p_from_psi(psi))
    if log_p == 0.0:
        return "1"
    if log_p == -np.inf:
        return "0"
    if log_p > np.log1p(-0.0095):
        return f"1 - {-np.expm1(log_p):.2g}"
    if log_p < -690.0:  # below the smallest double
        log10 = log_p / np.log(10.0)
        exponent = np.floor(log10 + np.log10(20.0 / 19.9))  # 9.97 reads 10.0, the next power
        return f"{10.0 ** (log10 - exponent):.1f}e{exponent:.0f}"
    return f"{np.exp(log_p):.3g}"


def format_count(n: float) -> str:
    """Number of queries: exact below 100 000, scientific above."""
    return f"{n:.0f}" if n < 100_000 else f"{n:.3g}".replace("e+0", "e").replace("e+", "e")
