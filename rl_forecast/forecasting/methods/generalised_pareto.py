"""Likelihood of a generalised Pareto tail on a grid of shape and scale, shared by ``shape_prior`` and ``gpd``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["grid_ensemble_weights", "log_likelihood"]


def log_likelihood(
    excesses: NDArray[np.float64], shape: NDArray[np.float64], log_scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-likelihood of excesses over a threshold under generalised Pareto distributions.

    :param excesses: shape (k,), psi, at least 0
    :param shape: shape (J,), xi
    :param log_scale: shape (J,), log of the scale in psi
    :return: shape (J,), ``-inf`` where an excess lies beyond a member's end point
    """
    z = excesses * np.exp(-log_scale)[:, None]
    xi = shape[:, None]
    tiny = np.abs(xi) < 1e-9
    inside = 1.0 + xi * z
    with np.errstate(divide="ignore"):
        bent = (1.0 + 1.0 / np.where(tiny, 1.0, xi)) * np.log(np.maximum(inside, 0.0))
    total: NDArray[np.float64] = -np.where(tiny, z, bent).sum(axis=1) - excesses.size * log_scale
    return np.where((inside <= 0.0).any(axis=1), -np.inf, total)


def grid_ensemble_weights(
    log_posterior: NDArray[np.float64], drop_below: float = 1e-9
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Normalised weights of grid points, and which points weigh enough to keep.

    :param log_posterior: shape (J,), unnormalised
    :param drop_below: relative weight under which a point is dropped
    :return: weights of the kept points, and the mask of shape (J,)
    """
    weight = np.exp(log_posterior - log_posterior.max())
    keep = weight > drop_below
    kept = weight[keep]
    return kept / kept.sum(), keep
