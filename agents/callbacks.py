"""Callbacks for Stable-Baselines3."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from agents.forecastability import Forecastability
from agents.training_state import save_training_state
from rl_forecast.degeneracy import find_degeneracy
from rl_forecast.forecasting.evaluate_forecasts import evaluate_forecasts
from rl_forecast.forecasting.methods import Forecaster
from rl_forecast.scores import log_p_from_psi


class ForecastEvalCallback(BaseCallback):
    """Logs how well the agent's failures can be forecast on validation tasks while it trains.

    Scoring draws no random number of the agent, so training is the same with and without the callback.

    :param score: the policy to the psi scores of the validation tasks: shape (n_eval_sets, n_eval) for the forecasts
        and (n_deploy_sets, n_deploy) for the realised worst
    :param forecaster: method of the forecast
    :param every: environment steps between two evaluations; one more happens at the end of training
    :param start: environment step at which a resumed training began: the evaluations keep their distances from it.
        ``None``: training begins now, with an evaluation

    With exact scores of 2 x 50 evaluation and 1 x 200 deployment tasks:

    >>> from stable_baselines3 import PPO
    >>> from agents.risk.base import log_action_probability
    >>> from envs import GridVecEnv, RecolorWorld, exact_risk
    >>> from rl_forecast import make_forecaster, psi_from_log_p
    >>> world = RecolorWorld()
    >>> tasks = world.tasks(np.arange(5_000, 5_300))
    >>> def score(policy):
    ...     with torch.no_grad():
    ...         risk = exact_risk(world, tasks, lambda seen: log_action_probability(policy, seen))
    ...     psi = psi_from_log_p(risk.log_p.numpy())
    ...     return psi[:100].reshape(2, 50), psi[100:].reshape(1, 200)
    >>> model = PPO("MlpPolicy", GridVecEnv(world, np.arange(4_000), 32), n_steps=32, batch_size=256, device="cpu")
    >>> callback = ForecastEvalCallback(score, make_forecaster("gumbel_tail"), every=1_024)
    >>> model = model.learn(1_024, callback=callback)  # logs forecast/error and its companions (docs/log_keys.md)
    """

    def __init__(
        self,
        score: Callable[[BasePolicy], tuple[NDArray[np.float64], NDArray[np.float64]]],
        forecaster: Forecaster,
        every: int,
        start: int | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, it is {every}")
        self._score = score
        self._forecaster = forecaster
        self._every = every
        self._start = start
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps
        if self._start is not None:
            assert isinstance(self.model, OnPolicyAlgorithm)
            rollout = self.model.n_steps * self.model.n_envs
            distance = -(-self._every // rollout) * rollout
            self._next += (self._start - self.num_timesteps) % distance

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
        errors = evaluate_forecasts(evaluation, deployment, self._forecaster)
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


class TrainingStateCallback(BaseCallback):
    """Keeps a file from which a run resumes to the bit (:func:`agents.training_state.load_training_state`).

    Written between rollouts, and after the last update. SB3's ``CheckpointCallback`` saves an agent for use, in the
    middle of a rollout, and without the state of the run.

    :param path: of the file
    :param every: environment steps between two writes, rounded up to whole rollouts
    :param forecastability: the callback that trains a PPO or A2C; ``ForecastPPO`` brings its own
    """

    def __init__(self, path: str | Path, every: int, forecastability: Forecastability | None = None) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, it is {every}")
        self.path = Path(path)
        self._every = every
        self._forecastability = forecastability
        self._next = 0
        self._under_way = False

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self._every
        self._under_way = False

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps + self._every
            self._save(self.model)

    def _on_rollout_end(self) -> None:
        self._under_way = False

    def _on_training_end(self) -> None:
        # A rollout that another callback stopped cannot be resumed: the state before it is the one to keep.
        if not self._under_way:
            self._save(self.model)

    def _on_step(self) -> bool:
        self._under_way = True
        return True

    def _save(self, model: Any) -> None:
        save_training_state(model, self.path, self._forecastability)


class DegeneracyCallback(BaseCallback):
    """Watches training for ways of lowering the loss that make nothing more forecastable.

    After every update :func:`rl_forecast.degeneracy.find_degeneracy` compares it with the first one. Each warning that
    it finds is logged as ``health/<code>`` (0 or 1) and announced when it first appears. On request training stops when
    warnings have been there for ``patience`` updates in a row, and the policy is restored to what it was after the last
    update without any.

    :param stop: whether to stop
    :param patience: updates in a row with a warning
    :param forecastability: the callback that trains a PPO or A2C; ``ForecastPPO`` brings its own
    """

    def __init__(self, stop: bool = False, patience: int = 3, forecastability: Forecastability | None = None) -> None:
        super().__init__()
        if patience < 1:
            raise ValueError(f"patience must be at least 1, it is {patience}")
        self.stop = stop
        self.patience = patience
        #: warnings of the latest update, code to sentence
        self.found: dict[str, str] = {}
        #: whether training was stopped
        self.stopped = False
        self._forecastability = forecastability
        self._first: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._codes: dict[str, None] = {}
        self._in_a_row = 0
        self._good: dict[str, torch.Tensor] = {}

    def _on_training_start(self) -> None:
        self._forecastability = self._forecastability or getattr(self.model, "forecastability", None)
        if self._forecastability is None:
            raise ValueError("DegeneracyCallback watches a ForecastPPO, or the callback given as forecastability=")
        self._keep()

    def _on_rollout_start(self) -> None:
        self._look()

    def _on_training_end(self) -> None:
        if not self.stopped:
            self._look()

    def _on_step(self) -> bool:
        return not self.stopped

    def _look(self) -> None:
        """Examine the latest update, once."""
        assert self._forecastability is not None
        now = self._forecastability.update.side_effects
        if not now or now is self._seen:
            return
        self._seen, self._first = now, self._first or now
        found = [finding for finding in find_degeneracy(now, self._first) if finding.severity != "note"]
        self.found = {finding.code: finding.sentence for finding in found}
        for code, sentence in self.found.items():
            if code not in self._codes:
                warnings.warn(f"{code} after {self.num_timesteps} steps: {sentence}", stacklevel=2)
        self._codes |= dict.fromkeys(self.found)
        for code in self._codes:
            self.logger.record(f"health/{code}", int(code in self.found))
        self._in_a_row = self._in_a_row + 1 if self.found else 0
        if not self.found:
            self._keep()
        elif self.stop and self._in_a_row >= self.patience:
            self.stopped = True
            self.model.policy.load_state_dict(self._good)

    def _keep(self) -> None:
        self._good = {name: value.detach().clone() for name, value in self.model.policy.state_dict().items()}
