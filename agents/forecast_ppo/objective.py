"""What the term asks of the tasks' scores: forecastability, low risk, closeness to an anchor, or a mixture of them.

An objective is a function of the scores alone. It never knows how they were estimated, and the machinery that carries
its gradient to the policy never knows what it was: every method gets the same tasks, steps and norm limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from rl_forecast.error_spaces import error_space_bounds
from rl_forecast.loss.forecastability import ForecastabilityLoss, ForecastabilityTerms, one_sided_anchor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RISK_PENALTIES", "RiskPenalty", "TaskObjective", "TaskWeights", "risk_penalty"]

RiskPenalty = Literal["mean_risk", "cvar", "top_log_risk"]

#: Names of the penalties.
RISK_PENALTIES: tuple[str, ...] = get_args(RiskPenalty)

# A score has risen if it exceeds its anchor by more than this, psi.
_RISE = 0.1
# Scores beyond which the honest error spaces tell nothing apart: p = 1 - 1e-3 and p = 1e-6.
_BOTTOM, _CERTAIN = error_space_bounds("log_odds")


def risk_penalty(psi: NDArray[np.float64], kind: str, fraction: float = 0.01) -> tuple[float, NDArray[np.float64]]:
    """A supervised safety penalty and its gradient by the scores.

    * ``mean_risk``: mean failure probability of all tasks
    * ``cvar``: mean failure probability of the riskiest ``fraction`` of them
    * ``top_log_risk``: mean log failure probability of the riskiest ``fraction`` of them

    :param psi: scores, shape (n_tasks,); a score of ``-inf`` has no gradient
    :param kind: one of the names above
    :param fraction: share of tasks that ``cvar`` and ``top_log_risk`` look at
    :return: the penalty, and its gradient, shape (n_tasks,)
    :raises ValueError: unknown kind

    >>> psi = np.array([-2.0, -1.0, 0.0, 1.0])  # p = 0.0006, 0.066, 0.37, 0.69
    >>> value, gradient = risk_penalty(psi, "cvar", fraction=0.5)
    >>> round(value, 2), gradient.round(2)
    (0.53, array([0.  , 0.  , 0.18, 0.13]))
    """
    if kind not in RISK_PENALTIES:
        raise ValueError(f"unknown risk_penalty {kind!r}: choose one of {', '.join(RISK_PENALTIES)}")
    n = len(psi)
    chosen = np.arange(n)
    if kind != "mean_risk":
        chosen = np.argsort(psi, kind="stable")[-max(1, round(fraction * n)) :]
    n_chosen = len(chosen)
    chosen = chosen[np.isfinite(psi[chosen])]
    minus_log_p = np.exp(-psi[chosen])
    weight = np.zeros(n)
    if kind == "top_log_risk":
        # log p = -exp(-psi), so d log p / d psi = exp(-psi) = -log p
        weight[chosen] = minus_log_p / n_chosen
        return float(-minus_log_p.sum() / n_chosen), weight
    p = np.exp(-minus_log_p)
    weight[chosen] = p * minus_log_p / n_chosen
    return float(p.sum() / n_chosen), weight


@dataclass(frozen=True, eq=False)
class TaskWeights:
    """The objective's gradient by the scores, and what to log.

    :param weight: shape (n_tasks,), dL / d psi
    :param logs: log key below ``train/`` to value
    """

    weight: NDArray[np.float64]
    logs: dict[str, float]


@dataclass(frozen=True)
class TaskObjective:
    """``forecast_coef * forecastability + risk_coef * penalty + anchor_coef * anchor``.

    :param loss: the forecastability loss
    :param forecast_coef: its weight
    :param risk_penalty: which penalty, see :func:`risk_penalty`
    :param risk_coef: its weight
    :param risk_fraction: share of tasks that ``cvar`` and ``top_log_risk`` look at
    :param anchor_coef: weight of the penalty on scores above those of the anchor
        (:func:`rl_forecast.loss.forecastability.one_sided_anchor`)
    """

    loss: ForecastabilityLoss
    forecast_coef: float
    risk_penalty: str
    risk_coef: float
    risk_fraction: float
    anchor_coef: float

    def __call__(
        self, psi: NDArray[np.float64], anchor_psi: NDArray[np.float64] | None, rng: np.random.Generator
    ) -> TaskWeights | None:
        """Weights of the known tasks.

        :param psi: shape (n_tasks,), current scores of the known tasks
        :param anchor_psi: shape (n_tasks,), scores of the anchor policy on the same tasks, needed if ``anchor_coef``
        :param rng: draws the partitions
        :return: the weights, or ``None`` while there are too few tasks for the forecastability loss
        """
        weight = np.zeros(len(psi))
        logs: dict[str, float] = {}
        if self.forecast_coef > 0:
            forecast = self._forecastability(psi, rng)
            if forecast is None:
                return None
            weight += self.forecast_coef * forecast.weight
            logs |= forecast.logs
        if self.risk_coef > 0:
            value, gradient = risk_penalty(psi, self.risk_penalty, self.risk_fraction)
            weight += self.risk_coef * gradient
            logs["risk_penalty"] = value
        if anchor_psi is not None:
            logs["share_risen"] = float(np.mean(psi > anchor_psi + _RISE))
            if self.anchor_coef > 0:
                leaf = torch.tensor(psi, requires_grad=True)
                anchor = one_sided_anchor(leaf, torch.from_numpy(anchor_psi))
                (gradient_psi,) = torch.autograd.grad(anchor, leaf)
                weight += self.anchor_coef * gradient_psi.numpy()
                logs["anchor_loss"] = float(anchor.detach())
        return TaskWeights(weight, logs)

    @property
    def _top(self) -> float:
        """Score from which on a task counts as certain to fail."""
        cap = self.loss.psi_cap
        return _CERTAIN if cap is None else min(cap, _CERTAIN)

    @staticmethod
    def _share(rows: torch.Tensor, terms: ForecastabilityTerms) -> float:
        """Share of the valid partitions."""
        return float((rows & terms.valid).sum() / terms.n_valid.clamp(min=1))

    def _forecastability(self, psi: NDArray[np.float64], rng: np.random.Generator) -> TaskWeights | None:
        """The forecastability loss; while few tasks are known, both parts of a partition shrink alike."""
        loss = self.loss
        wanted = loss.n_eval + loss.n_deploy
        if len(psi) < wanted:
            n_eval = round(len(psi) * loss.n_eval / wanted)
            if n_eval < 2 * loss.tail_k:
                return None
            loss = replace(loss, n_eval=n_eval, n_deploy=len(psi) - n_eval)
        weight, terms = loss.task_weights(psi, rng)
        logs = {
            "forecast_loss": float(terms.loss),
            "forecast_error": float(terms.error.nanmean()),
            "forecast_under_prediction_rate": float(terms.under_prediction_rate),
            "forecast_tail_scale": float(terms.tail_scale.nanmean()),
            "forecast_share_saturated": self._share(torch.minimum(terms.forecast, terms.realised) >= self._top, terms),
            "forecast_share_floored": self._share(torch.maximum(terms.forecast, terms.realised) <= _BOTTOM, terms),
        }
        return TaskWeights(np.asarray(weight, dtype=np.float64), logs)
