"""Failure scores: ``psi = -log(-log p)``, always computed from ``log p``.

In this score a Gumbel (exponential) tail is a straight line (Jones et al. 2025, arXiv 2502.16797). Near ``p = 0`` a
probability underflows long before its logarithm does; near ``p = 1`` the logarithm loses all digits, so where
``q = P(no failure)`` is known, ``log p = log1p(-q)`` is used.

Functions of ``Any`` take what ``numpy.asarray`` takes, or torch tensors, and return the same kind; torch results are
differentiable.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    ArrayT = TypeVar("ArrayT", NDArray[np.float64], torch.Tensor)


def is_tensor(x: object) -> bool:
    """Whether ``x`` is a torch tensor, answered without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _namespace(x: Any) -> tuple[Any, Any]:
    if is_tensor(x):
        return sys.modules["torch"], x
    return np, np.asarray(x, dtype=np.float64)


def psi_from_log_p(log_p: Any) -> Any:
    """Failure score of a log-probability.

    :param log_p: natural log of failure probabilities, any shape, in ``[-inf, 0]``
    :return: psi score ``-log(-log_p)``, same shape; ``-inf`` at ``p = 0``, ``+inf`` at ``p = 1``
    :raises ValueError: a value above 0 or NaN (numpy input only: on tensors the check would synchronise a GPU)

    >>> psi_from_log_p([-2000.0, -0.1]).round(1)  # exp(-2000) is 0 in floating point
    array([-7.6,  2.3])
    """
    xp, log_p = _namespace(log_p)
    if xp is np:
        if np.isnan(log_p).any() or (log_p > 0).any():
            bad = float(log_p[np.isnan(log_p) | (log_p > 0)].flat[0])
            raise ValueError(f"log_p must be at most 0, found {bad!r}")
        with np.errstate(divide="ignore"):
            return -np.log(-log_p)
    return -xp.log(-log_p)


def psi_from_p(p: ArrayLike) -> NDArray[np.float64]:
    """Failure score of a probability, for users whose scores exist only as ``p``.

    :param p: failure probabilities in ``[0, 1]``, any shape; the scores have the same
    :raises ValueError: a value outside ``[0, 1]`` or NaN

    >>> psi_from_p([0.0, 1e-6, 1e-3, 0.5, 1.0]).round(2)
    array([ -inf, -2.63, -1.93,  0.37,   inf])
    """
    p = np.asarray(p, dtype=np.float64)
    bad = ~((p >= 0) & (p <= 1))
    if bad.any():
        raise ValueError(f"p must lie in [0, 1], found {float(p[bad].flat[0])!r}")
    with np.errstate(divide="ignore"):
        result: NDArray[np.float64] = psi_from_log_p(np.log(p))
    return result


def psi_from_counts(failures: ArrayLike, samples: ArrayLike) -> NDArray[np.float64]:
    """Failure score of Jeffreys' estimate ``(f + 1/2) / (J + 1)`` from ``f`` failures in ``J`` samples.

    The plain share ``f / J`` is 0 or 1 for the very queries a tail is made of, and its score infinite; Jeffreys' is
    finite and less biased at small ``J``.

    :param failures: failures of each query, whole numbers, any shape; the scores have the same
    :param samples: samples of each query, whole numbers, same shape or a scalar
    :raises ValueError: a count that is negative or not whole, no samples, or more failures than samples

    >>> psi_from_counts([0, 1, 5], samples=10).round(2)  # (f + 1/2) / 11: p = 0.045, 0.136, 0.5
    array([-1.13, -0.69,  0.37])
    """
    if np.shape(samples) not in ((), np.shape(failures)):
        raise ValueError(f"failures have shape {np.shape(failures)}, samples have shape {np.shape(samples)}")
    f, j = np.broadcast_arrays(np.asarray(failures, dtype=np.float64), np.asarray(samples, dtype=np.float64))
    for name, x, least in (("failures", f, 0), ("samples", j, 1)):
        bad = ~((x >= least) & (x == np.floor(x)) & np.isfinite(x))
        if bad.any():
            raise ValueError(f"{name} must be whole numbers of at least {least}, found {float(x[bad].flat[0])!r}")
    if (f > j).any():
        i = int(np.argmax(f > j))
        raise ValueError(f"more failures than samples: {f.flat[i]:.0f} of {j.flat[i]:.0f}")
    return psi_from_p((f + 0.5) / (j + 1.0))


def log_p_from_psi(psi: Any) -> Any:
    """Log-probability ``-exp(-psi)`` of psi scores, same shape."""
    xp, psi = _namespace(psi)
    if xp is np:
        with np.errstate(over="ignore"):
            return -np.exp(-psi)
    return -xp.exp(-psi)


def log_p_two_sided(p: ArrayT, q: ArrayT) -> ArrayT:
    """Log failure probability that keeps its digits at both ends: ``log p`` up to 1/2, beyond it ``log1p(-q)``.

    :param p: failure probability, shape (...)
    :param q: probability of no failure, same shape, computed on its own (not as ``1 - p``)
    :return: log-probability, same shape; in torch both branches carry gradients, and neither is NaN

    >>> log_p_two_sided(np.array([0.25, 1.0]), q=np.array([0.75, 1e-20]))  # 1 - 1e-20 is 1 in floating point
    array([-1.38629436e+00, -1.00000000e-20])
    """
    xp, p = _namespace(p)
    xp, q = _namespace(q)
    low = p <= 0.5
    # double-where: the branch not taken is evaluated at a harmless point, so its gradient is finite
    safe_p = xp.where(low, p, xp.full_like(p, 0.5))
    safe_q = xp.where(low, xp.full_like(q, 0.5), q)
    with np.errstate(divide="ignore"):
        result: ArrayT = xp.where(low, xp.log(safe_p), xp.log1p(-safe_q))
    return result


def log_odds_from_psi(psi: Any) -> Any:
    """Log-odds ``log(p / (1 - p))`` of psi scores, nats, same shape.

    >>> log_odds_from_psi(psi_from_p([0.5, 0.9, 1e-12])).round(2)
    array([  0.  ,   2.2 , -27.63])
    """
    xp, psi = _namespace(psi)
    log_p = log_p_from_psi(psi)
    # log(1 - p) = log(-expm1(log p)) keeps its digits for every p that is not 1
    with np.errstate(divide="ignore"):
        return log_p - xp.log(-xp.expm1(log_p))


def log_survival_from_psi(psi: ArrayLike) -> NDArray[np.float64]:
    """``log(1 - p)`` of psi scores of any shape, accurate at both ends; ``-inf`` at ``p = 1``."""
    # with x = exp(-psi) = -log p: p = exp(-x), 1 - p = -expm1(-x)
    psi = np.asarray(psi, dtype=np.float64)
    x = -np.asarray(log_p_from_psi(psi))
    near = ~(x > 1.0)  # few scores, where the difference from 1 needs care
    near_psi, near_x = psi[near], x[near]
    with np.errstate(divide="ignore"):
        result: NDArray[np.float64] = np.asarray(np.log1p(-np.exp(-x)))
        # far above, log(-expm1(-x)) = log x - x / 2, and log x = -psi even where x itself has underflowed to 0
        result[near] = np.where(near_psi > 30.0, -near_psi - 0.5 * near_x, np.log(-np.expm1(-near_x)))
    return result


def format_probability(psi: float) -> str:
    """Failure probability of a psi score to two or three digits: ``"0.0123"``, ``"1e-523"``, ``"1 - 2.2e-05"``; NaN
    gives a dash.
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
