"""Callbacks for Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from rl_forecast.backtest import held_out_errors
from rl_forecast.scores import log_p_from_psi

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import BasePolicy

    from rl_forecast.forecasters import Forecaster

__all__ = ["ForecastEvalCallback"]


class ForecastEvalCallback(BaseCallback):
    """Logs how well the agent's failures can be forecast on validation tasks while it trains.

    Scoring draws no random number of the agent, so training is the same with and without the callback.

    :param score: the policy to the psi scores of the validation tasks: shape (n_eval_sets, n_eval) for the forecasts
        and (n_deploy_sets, n_deploy) for the realised worst
    :param forecaster: method of the forecast
    :param every: environment steps between two evaluations; one more happens at the end of training
    """

    def __init__(
        self,
        score: Callable[[BasePolicy], tuple[NDArray[np.float64], NDArray[np.float64]]],
        forecaster: Forecaster,
        every: int,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, it is {every}")
        self._score = score
        self._forecaster = forecaster
        self._every = every
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps

    def _on_rollout_start(self) -> None:
        # Between an update and the next rollout: the policy is the one the rollout will follow.
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps + self._every
            self._evaluate()

    def _on_training_end(self) -> None:
        self._evaluate()
        self.logger.dump(step=self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def _evaluate(self) -> None:
        evaluation, deployment = self._score(self.model.policy)
        errors = held_out_errors(evaluation, deployment, self._forecaster)
        if errors.n_failed_fits == len(errors.forecast):
            return
        psi = errors.in_space("psi")
        self.logger.record("forecast/predicted_worst_psi", float(np.nanmean(errors.forecast)))
        self.logger.record("forecast/realised_worst_psi", float(errors.realised.mean()))
        self.logger.record("forecast/error", psi.bias)
        self.logger.record("forecast/absolute_error", psi.mean_absolute)
        self.logger.record("forecast/tail_scale", float(np.nanmean(errors.tail_scale)))
        self.logger.record("forecast/under_prediction_rate", errors.under_prediction_rate)
        self.logger.record("forecast/mean_risk", float(np.exp(log_p_from_psi(deployment)).mean()))
