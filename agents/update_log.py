"""What an update with the forecast gradient did: values for the log, signs of side effects, and whether it did any."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.risk import RiskGradient
    from agents.task_memory import TaskMemory

# Updates, or tasks played too rarely, without any effect, after which a warning says why.
_PATIENCE, _MANY_TASKS = 10, 1000
_COUNTERS = ("n_updates", "n_steps", "n_touched", "warned")


class UpdateLog:
    """The latest update, and counters since the agent began to learn.

    :ivar n_steps: optimiser steps, of which the forecast gradient was added to ``n_touched``
    :ivar grad_norms: norms of the gradients of the latest update; ``clip_factors`` is what their limit scaled them by
    :ivar no_effect: why nothing was added last time
    :ivar side_effects: what :func:`rl_forecast.degeneracy.find_degeneracy` looks at; empty before the first update
    """

    def __init__(self) -> None:
        self.n_updates = self.n_steps = self.n_touched = 0
        self.warned = False
        self.seconds = 0.0
        self.logs: dict[str, float] = {}
        self.grad_norms: list[float] = []
        self.clip_factors: list[float] = []
        self.no_effect = ""
        self.side_effects: dict[str, float] = {}
        self._success: dict[str, float] = {}
        self._is_open = False

    def begin(self, memory: TaskMemory, success: list[bool]) -> None:
        self.n_updates, self.seconds, self._is_open = self.n_updates + 1, 0.0, True
        self.logs, self.grad_norms, self.clip_factors = {}, [], []
        self._success = {"success": float(np.mean(success)), "n_episodes": len(success)} if success else {}
        self.no_effect = "no episode has ended yet"
        if memory.n_pending:
            self.no_effect = (
                f"{memory.n_pending} tasks were played, but none episodes_per_task={memory.episodes_per_task} times: "
                "lower it, or let the environment play a task that often"
            )

    def see_scores(self, psi: torch.Tensor) -> None:
        """Scores of the remembered tasks, shape (n_tasks,)."""
        self.logs["mean_risk"] = float((-(-psi).exp()).exp().mean())
        self.no_effect = f"none of {len(psi)} tasks can fail"
        if bool(psi.isfinite().any()):
            self.no_effect = (
                f"{len(psi)} tasks share {len(set(psi.tolist()))} scores, which leaves no gradient: play more tasks, "
                "raise episodes_per_task, or use mean_risk_coef in place of coef"
            )

    def see_gradient(self, norm: float, factor: float) -> None:
        self.grad_norms.append(norm)
        if math.isfinite(norm):
            self.clip_factors.append(factor)
            self.n_touched += 1
        else:
            self.no_effect = "its norm is not finite"

    def close(
        self, logger: Logger, gradient: RiskGradient | None, policy: ActorCriticPolicy, memory: TaskMemory
    ) -> None:
        """The update is over: record it, once."""
        if not self._is_open:
            return
        self._is_open = False
        logs = {f"train/{key}": value for key, value in self.logs.items()}
        logs["train/forecast_known_tasks"] = len(memory.task_id)
        logs["train/forecast_pending_tasks"] = memory.n_pending
        logs["train/forecast_share_of_steps"] = self.n_touched / max(self.n_steps, 1)
        logs["time/forecast_seconds"] = self.seconds
        if gradient is not None:
            logs["train/forecast_active_tasks"], logs["train/forecast_rows"] = gradient.n_tasks, gradient.n_rows
            logs["train/forecast_kl"] = gradient.kl(policy)
        if self.grad_norms:
            logs["train/forecast_grad_norm"] = float(np.mean(self.grad_norms))
        if self.clip_factors:
            logs["train/forecast_clip_factor"] = float(np.mean(self.clip_factors))
        for key, value in logs.items():
            if not math.isnan(value):
                logger.record(key, value)
        names = ("mean_risk", "share_riskier_than_anchor")
        self.side_effects = {name: self.logs[name] for name in names if name in self.logs} | self._success
        self.side_effects["share_saturated"] = self.logs.get("forecast_share_saturated", 0.0)
        self.side_effects["grad_norm"] = max(self.grad_norms, default=0.0)
        # A loss that silently does nothing is worse than none.
        if not (self.n_touched or self.warned) and (self.n_updates >= _PATIENCE or memory.n_pending >= _MANY_TASKS):
            self.warned = True
            reason = self.no_effect if gradient is None else "interval is larger than their number"
            warnings.warn(
                f"the forecast gradient was added to none of the {self.n_steps} optimiser steps so far: {reason}",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _COUNTERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _COUNTERS:
            setattr(self, name, state[name])
