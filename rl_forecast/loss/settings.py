"""Settings of forecastability training: one dataclass for the callback, the agent, configuration files and the command
line, so that a setting has one name and one default. Nothing heavy is imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

from rl_forecast.error_spaces import ERROR_SPACES, ErrorSpace
from rl_forecast.errors import unknown_name

Penalty = Literal["squared", "huber"]
GradientMode = Literal["full", "stop_realised"]
RiskName = Literal["direct", "flow", "failures", "exact"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "error_space": ERROR_SPACES,
    "penalty": get_args(Penalty),
    "gradient": get_args(GradientMode),
    "risk": get_args(RiskName),
}


@dataclass(frozen=True)
class ForecastSettings:
    """The training objective, the tasks it looks at, and how far its gradient may reach.

    The defaults are the recommended setting, which docs/rl_study.md supports for fine-tuning. :meth:`paper` is the loss
    of arXiv 2605.15134 as we read it.

    :param coef: weight of the forecastability loss; while the norm limit is active (log ``train/forecast_clip_factor``
        below 1) only its ratio to the other two weights matters
    :param mean_risk_coef: weight of the mean failure probability of the tasks
    :param anchor_coef: weight of the penalty on scores above those of the anchor, the policy that training started
        from. Without it every error space but psi has raised ordinary failures to meet rare ones
    :param tail_k: number of largest scores to which the loss fits the tail
    :param n_partitions: random evaluation/deployment partitions per update, or auto
    :param n_eval: tasks in the evaluation part of a partition
    :param n_deploy: tasks in its deployment part; while fewer tasks are known, both parts shrink alike
    :param n_known_tasks: number of most recent tasks whose scores enter the loss
    :param episodes_per_task: episodes after which a task is scored; the environment must play a task that often. More
        tasks are worth more than more episodes
    :param error_space: space of the forecast error
    :param penalty: penalty of the error
    :param gradient: through forecast and realised worst (full), or through the forecast only
    :param psi_cap: scores above are capped in the loss, but keep their gradient: 3 is p = 0.95. Without a cap a few
        tasks that always fail dominate the loss. null for none
    :param interval: the gradient is added at every that many optimiser steps; at every single one it has outweighed
        PPO's own and collapsed policies
    :param max_grad_norm: norm limit of the added gradient
    :param max_grad_ratio: further limit, as a multiple of the norm of PPO's own gradient on the same parameters; null
        for none. The absolute limit belongs to one environment, this one carries over to others
    :param risk: where failure probabilities come from: visited states (direct), these and how they were reached (flow),
        failures that happened (failures), dynamic programming (exact)
    """

    coef: float = 0.1
    mean_risk_coef: float = 100.0
    anchor_coef: float = 100.0
    tail_k: int = 10
    n_partitions: int | Literal["auto"] = 64
    n_eval: int = 200
    n_deploy: int = 800
    n_known_tasks: int = 4000
    episodes_per_task: int = 1
    error_space: ErrorSpace = "log10_p"
    penalty: Penalty = "huber"
    gradient: GradientMode = "full"
    psi_cap: float | None = 3.0
    interval: int = 4
    max_grad_norm: float = 0.25
    max_grad_ratio: float | None = 0.3
    risk: RiskName = "direct"

    def __post_init__(self) -> None:
        """Refuse what training would otherwise ignore or fail on halfway.

        :raises ValueError: names the field, its value and the bound
        """
        least = {"tail_k": 2, "n_eval": 2, "n_deploy": 1, "n_known_tasks": 1, "episodes_per_task": 1, "interval": 1}
        if self.n_partitions != "auto":
            least["n_partitions"] = 1
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
                raise ValueError(f"{name} must be an integer of at least {low}, it is {value!r}")
        for name in ("coef", "mean_risk_coef", "anchor_coef", "max_grad_norm", "max_grad_ratio", "psi_cap"):
            value = getattr(self, name)
            if value is None and name in ("max_grad_ratio", "psi_cap"):
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, it is {value!r}")
            if value < 0 and name != "psi_cap":
                raise ValueError(f"{name} must not be negative, it is {value:g}")
            if value == 0 and name.startswith("max_grad"):
                raise ValueError(f"{name} must be positive, it is 0")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(unknown_name(name, str(getattr(self, name)), choices))

    @classmethod
    def paper(cls) -> ForecastSettings:
        """The loss alone: squared error in psi, no penalty beside it, no anchor (our reading)."""
        return cls(
            coef=1.0,
            mean_risk_coef=0.0,
            anchor_coef=0.0,
            error_space="psi",
            penalty="squared",
            max_grad_ratio=None,
        )
