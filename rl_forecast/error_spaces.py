"""Scales on which a forecast is compared with the worst score that came, each with its clips; numpy and torch alike."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from rl_forecast.scores import log_odds_from_psi, log_p_from_psi

ErrorSpace = Literal["psi", "log10_p", "log_odds"]
ERROR_SPACES: tuple[ErrorSpace, ...] = get_args(ErrorSpace)


def _psi(p: float) -> float:
    return -math.log(-math.log(p))


_BOUNDS: dict[str, tuple[float, float]] = {
    "psi": (-math.inf, math.inf),
    "log10_p": (_psi(1e-6), math.inf),
    "log_odds": (_psi(1e-6), _psi(1 - 1e-3)),
}


def error_space_bounds(space: str) -> tuple[float, float]:
    """Scores below and above which an error space no longer tells probabilities apart.

    :param space: ``"psi"`` has none, ``"log10_p"`` floors p at 1e-6, ``"log_odds"`` clips p to [1e-6, 1 - 1e-3]
    :return: lower and upper bound, psi; infinite where there is none
    :raises ValueError: unknown space
    """
    if space not in _BOUNDS:
        raise ValueError(f"unknown error space {space!r}: choose one of {', '.join(ERROR_SPACES)}")
    return _BOUNDS[space]


def to_error_space(psi: Any, space: str) -> Any:
    """Scores on the scale in which forecast and realised worst are compared.

    :param psi: scores, array or tensor of any shape, not NaN
    :param space: ``"psi"`` as it is; ``"log10_p"``; ``"log_odds"`` in nats
    :return: same kind and shape; beyond the bounds of :func:`error_space_bounds` constant, with zero gradient
    :raises ValueError: unknown space

    >>> import numpy as np
    >>> to_error_space(np.array([-np.inf, 0.3665]), "log10_p").round(2)  # p = 0 and p = 1/2
    array([-6. , -0.3])
    """
    low, high = error_space_bounds(space)
    if space == "psi":
        return psi
    # clip the score, not its image: exp(-psi) overflows long before the clip would act on it, and 0 * inf is NaN
    psi = psi.clip(low, high)
    return log_p_from_psi(psi) / math.log(10.0) if space == "log10_p" else log_odds_from_psi(psi)
