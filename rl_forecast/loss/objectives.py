"""What training asks of the tasks' scores: forecastability, low risk, closeness to an anchor, or a sum of them.

An objective is a function of the scores alone. It never knows how they were estimated, and whatever carries its
gradient to a policy or a language model never knows what it was: every method gets the same tasks, steps and limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch

from rl_forecast.error_spaces import error_space_bounds
from rl_forecast.loss.forecastability import ForecastabilityLoss, one_sided_anchor
from rl_forecast.loss.settings import ForecastSettings
from rl_forecast.scores import log_p_from_psi

# A task is riskier than its anchor if its score exceeds the anchor's by more than this, psi.
_RISE = 0.1


class Part(Protocol):
    """One summand: ``None`` while there are too few tasks for it, else its value, shape (), and values to log."""

    def __call__(
        self, psi: torch.Tensor, anchor_psi: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]] | None: ...


@dataclass(frozen=True, eq=False)
class Objective:
    """A weighted sum; objectives add up with ``+``.

    :param parts: weight and function of each summand

    >>> objective = mean_risk(2.0) + top_score(0.5, n_top=1)
    >>> value, logs = objective(torch.tensor([0.0, 1.0]), None, np.random.default_rng(0))
    >>> round(value.item(), 2), sorted(logs)
    (1.56, ['mean_risk', 'top_score'])
    """

    parts: tuple[tuple[float, Part], ...] = ()

    def __post_init__(self) -> None:
        for weight, part in self.parts:
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {part} must be finite and not negative, it is {weight}")

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.parts + other.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def needs_anchor(self) -> bool:
        """Whether a summand compares with the anchor's scores."""
        return any(isinstance(part, _Anchor) for _, part in self.parts)

    def split_anchor(self) -> tuple[Objective, Objective]:
        """The summands that need no anchor, and those that do."""
        anchored = [pair for pair in self.parts if isinstance(pair[1], _Anchor)]
        return Objective(tuple(pair for pair in self.parts if pair not in anchored)), Objective(tuple(anchored))

    def __call__(
        self, psi: torch.Tensor, anchor_psi: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]] | None:
        """Value of the sum.

        :param psi: scores of the tasks, shape (n_tasks,), differentiable; ``-inf`` (p = 0) has no gradient
        :param anchor_psi: scores of the anchor on the same tasks, shape (n_tasks,), or ``None``
        :param rng: draws the partitions
        :return: shape (), and values to log; ``None`` while there are too few tasks for one of the summands
        """
        total = psi.new_zeros(())
        logs: dict[str, float] = {}
        for weight, part in self.parts:
            result = part(psi, anchor_psi, rng)
            if result is None:
                return None
            total = total + weight * result[0]
            logs |= result[1]
        if anchor_psi is not None:
            logs["share_riskier_than_anchor"] = float((psi.detach() > anchor_psi + _RISE).double().mean())
        return total, logs

    def state_dict(self) -> dict[str, Any]:
        """Values of the summands that change during training, flat."""
        return {f"{i}.multiplier": part.multiplier for i, part in enumerate(self._limits())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for i, part in enumerate(self._limits()):
            part.multiplier = float(state[f"{i}.multiplier"])

    def _limits(self) -> list[_RiskLimit]:
        return [part for _, part in self.parts if isinstance(part, _RiskLimit)]


def objective_of(settings: ForecastSettings) -> Objective:
    """Loss, mean risk and anchor with the weights of the settings; what has weight 0 is left out."""
    objective = Objective()
    if settings.coef > 0:
        objective += forecast_loss(settings.coef, loss_of(settings))
    if settings.mean_risk_coef > 0:
        objective += mean_risk(settings.mean_risk_coef)
    if settings.anchor_coef > 0:
        objective += anchor(settings.anchor_coef)
    return objective


def loss_of(settings: ForecastSettings) -> ForecastabilityLoss:
    """The forecastability loss of the settings."""
    return ForecastabilityLoss(**{f.name: getattr(settings, f.name) for f in fields(ForecastabilityLoss)})


def forecast_loss(coef: float, loss: ForecastabilityLoss) -> Objective:
    """The forecastability loss."""
    return Objective(((coef, _Forecast(loss)),))


def mean_risk(coef: float) -> Objective:
    """Mean failure probability of all tasks."""
    return Objective(((coef, _Mean("mean_risk", _risk)),))


def mean_log_risk(coef: float) -> Objective:
    """Mean log failure probability of all tasks."""
    return Objective(((coef, _Mean("mean_log_risk", log_p_from_psi)),))


def mean_score(coef: float) -> Objective:
    """Mean psi of all tasks."""
    return Objective(((coef, _Mean("mean_score", lambda psi: psi)),))


def cvar(coef: float, fraction: float = 0.01) -> Objective:
    """Mean failure probability of the riskiest ``fraction`` of the tasks."""
    return Objective(((coef, _Mean("cvar", _risk, fraction=fraction)),))


def top_risk(coef: float, fraction: float = 0.01) -> Objective:
    """Mean log failure probability of the riskiest ``fraction`` of the tasks."""
    return Objective(((coef, _Mean("top_risk", log_p_from_psi, fraction=fraction)),))


def top_score(coef: float, n_top: int = 100) -> Objective:
    """Mean psi of the ``n_top`` largest scores."""
    return Objective(((coef, _Mean("top_score", lambda psi: psi, n_top=n_top)),))


def anchor(coef: float) -> Objective:
    """Penalty on scores above the anchor's, see :func:`rl_forecast.loss.forecastability.one_sided_anchor`."""
    return Objective(((coef, _Anchor()),))


def risk_limit(limit: float, rate: float = 5.0, multiplier: float = 0.0) -> Objective:
    """Mean risk with a multiplier that rises while it exceeds a limit and falls while it does not (PPO-Lagrangian of
    Ray, Achiam and Amodei 2019, "Benchmarking Safe Exploration in Deep Reinforcement Learning"; its gradient came from
    failures that happened, here it comes from the scores).

    :param limit: mean failure probability that is allowed
    :param rate: change of the multiplier per update and unit of relative excess
    :param multiplier: its initial value
    :raises ValueError: a value out of range
    """
    if not 0.0 < limit < 1.0:
        raise ValueError(f"risk_limit must lie in (0, 1), it is {limit}")
    for name, value in (("multiplier_rate", rate), ("multiplier", multiplier)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, it is {value}")
    return Objective(((1.0, _RiskLimit(limit, rate, multiplier)),))


def _risk(psi: torch.Tensor) -> torch.Tensor:
    return log_p_from_psi(psi).exp()  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Mean:
    """Mean of a function of the largest scores; those of ``-inf`` count as 0 and have no gradient."""

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    fraction: float = 1.0
    n_top: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction must lie in (0, 1], it is {self.fraction}")
        if self.n_top is not None and self.n_top < 1:
            raise ValueError(f"n_top must be at least 1, it is {self.n_top}")

    def __call__(
        self, psi: torch.Tensor, anchor_psi: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        n = max(1, round(self.fraction * len(psi))) if self.n_top is None else min(self.n_top, len(psi))
        top = psi if n == len(psi) else torch.topk(psi, n).values
        value = self.function(top[top.detach() > -math.inf]).sum() / n
        return value, {self.name: float(value.detach())}


@dataclass(frozen=True, eq=False)
class _Anchor:
    def __call__(
        self, psi: torch.Tensor, anchor_psi: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        if anchor_psi is None:
            raise ValueError("the objective has an anchor, but no scores of it were given")
        value = one_sided_anchor(psi, anchor_psi)
        return value, {"anchor_loss": float(value.detach())}


@dataclass(eq=False)
class _RiskLimit:
    """The only summand with a state: its multiplier moves at every call."""

    limit: float
    rate: float
    multiplier: float

    def __call__(
        self, psi: torch.Tensor, anchor_psi: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        risk = _risk(psi[psi.detach() > -math.inf]).sum() / len(psi)
        excess = float(risk.detach()) / self.limit - 1.0
        # An excess of a hundred times the limit must not raise the multiplier until nothing else counts.
        self.multiplier = max(0.0, self.multiplier + self.rate * min(excess, 1.0))
        return self.multiplier * risk, {"mean_risk": float(risk.detach()), "multiplier": self.multiplier}


@dataclass(frozen=True, eq=False)
class _Forecast:
    """The forecastability loss; while few tasks are known, both parts of a partition shrink alike."""

    loss: ForecastabilityLoss

    def __call__(
        self, psi: torch.Tensor, anchor_psi: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]] | None:
        loss, n = self.loss, len(psi)
        if n < loss.n_eval + loss.n_deploy:
            n_eval = round(n * loss.n_eval / (loss.n_eval + loss.n_deploy))
            if n_eval < 2 * loss.tail_k:
                return None
            loss = replace(loss, n_eval=n_eval, n_deploy=n - n_eval)
        terms = loss(psi, rng)
        bottom, certain = error_space_bounds("log_odds")
        top = certain if loss.psi_cap is None else min(loss.psi_cap, certain)

        def share(rows: torch.Tensor) -> float:
            return float((rows & terms.valid).sum() / terms.n_valid.clamp(min=1))

        return terms.loss, {
            "forecast_loss": float(terms.loss.detach()),
            "forecast_error": float(terms.error.detach().nanmean()),
            "forecast_under_prediction_rate": float(terms.under_prediction_rate),
            "forecast_tail_scale": float(terms.tail_scale.detach().nanmean()),
            "forecast_share_saturated": share(torch.minimum(terms.forecast, terms.realised).detach() >= top),
            "forecast_share_floored": share(torch.maximum(terms.forecast, terms.realised).detach() <= bottom),
        }
