"""Supervised safety penalties through ForecastPPO's own machinery: equal tasks, equal steps, another objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agents.forecast_ppo import ForecastPPO

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TopRiskPPO"]


class TopRiskPPO(ForecastPPO):
    """PPO with a penalty on the log risk of the riskiest tasks.

    The only change to :class:`ForecastPPO` is the objective: the mean log failure probability of the ``top_fraction``
    of known tasks with the largest scores. It names the dangerous tasks directly and knows nothing of forecasts.

    :param top_fraction: fraction of known tasks that is penalised
    """

    def __init__(self, *args: Any, top_fraction: float = 0.01, **kwargs: Any) -> None:
        self.top_fraction = top_fraction
        super().__init__(*args, **kwargs)

    def _check_settings(self) -> None:
        super()._check_settings()
        if not 0.0 < self.top_fraction <= 1.0:
            raise ValueError(f"top_fraction must lie in (0, 1], it is {self.top_fraction}")

    def _task_weights(self, psi: NDArray[np.float64]) -> NDArray[np.float64] | None:
        n_top = max(1, round(self.top_fraction * len(psi)))
        top = np.argsort(psi, kind="stable")[-n_top:]
        top = top[np.isfinite(psi[top])]
        minus_log_p = np.exp(-psi[top])
        self.logger.record("train/forecast_loss", float(-minus_log_p.mean()) if len(top) else 0.0)
        weight = np.zeros(len(psi))
        # log p = -exp(-psi), so d log p / d psi = exp(-psi) = -log p
        weight[top] = minus_log_p / n_top
        return weight
