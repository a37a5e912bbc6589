"""Forecasters of the worst score: one method to a file, one interface (:mod:`rl_forecast.forecasting.methods.base`)."""

from __future__ import annotations

from typing import Any

from rl_forecast.errors import unknown_name
from rl_forecast.forecasting.methods.base import FittedTail, Forecaster, NoTailError
from rl_forecast.forecasting.methods.binomial_tail import BinomialTail
from rl_forecast.forecasting.methods.exponential_pivot import ExponentialPivot
from rl_forecast.forecasting.methods.gpd import GPD
from rl_forecast.forecasting.methods.gumbel_tail import GumbelTail
from rl_forecast.forecasting.methods.log_normal import LogNormal
from rl_forecast.forecasting.methods.shape_prior import ShapePrior

__all__ = [
    "FORECASTERS",
    "GPD",
    "BinomialTail",
    "ExponentialPivot",
    "FittedTail",
    "Forecaster",
    "GumbelTail",
    "LogNormal",
    "NoTailError",
    "ShapePrior",
    "make_forecaster",
]

FORECASTERS: dict[str, type[Any]] = {
    "shape_prior": ShapePrior,
    "exponential_pivot": ExponentialPivot,
    "gumbel_tail": GumbelTail,
    "log_normal": LogNormal,
    "gpd": GPD,
    "binomial_tail": BinomialTail,
}


def make_forecaster(name: str, tail_k: int | None = None) -> Forecaster:
    """Forecaster by name.

    :param name: a key of :data:`FORECASTERS`
    :param tail_k: number of largest scores used; ``None`` takes the method's own default, and methods that use all
        scores have none
    :raises ValueError: unknown name, or ``tail_k`` below 2

    >>> from rl_forecast import TailSummary
    >>> scores = TailSummary.from_scores(-np.log(np.arange(1, 501) / 500))  # an exponential tail, scale 1, m = 500
    >>> fitted = make_forecaster("gumbel_tail", tail_k=10).fit(scores)  # Jones et al.'s
    >>> round(fitted.tail_scale, 3), round(fitted.point(5_000), 3), round(float(np.log(5_000)), 3)
    (1.0, 8.517, 8.517)
    """
    if name not in FORECASTERS:
        raise ValueError(unknown_name("method", name, FORECASTERS))
    if tail_k is not None and tail_k < 2:
        raise ValueError(f"tail_k must be at least 2, it is {tail_k}")
    cls = FORECASTERS[name]
    forecaster: Forecaster = cls() if tail_k is None or name == "log_normal" else cls(tail_k=tail_k)
    return forecaster
