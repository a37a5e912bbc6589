"""The term beside PPO's loss: from a rollout to weighted tasks, from these to a gradient at the optimiser's steps."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.action_probability import flat_observation
from agents.forecast_ppo.health import TermHealth
from agents.forecast_ppo.risk_tape import RiskTape
from agents.task_memory import RiskLedger

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.forecast_ppo.objective import TaskObjective, TaskWeights
    from agents.risk import RiskEstimator, Surrogate

__all__ = ["GradientLimit", "RiskTerm"]

# Tasks begun without one completed from which on the term is called idle.
_MANY_TASKS = 1000
# Distinct scores below which they are counts rather than measurements.
_FEW_SCORES = 10


@dataclass(frozen=True)
class GradientLimit:
    """When the gradient is added, and how long it may be.

    :param interval: at every that many optimiser steps
    :param max_norm: norm limit
    :param max_ratio: further limit, as a multiple of the norm of the gradient it is added to; ``None`` for none
    """

    interval: int
    max_norm: float
    max_ratio: float | None


class RiskTerm:
    """Everything the term remembers and does; the agent asks it three times per update.

    :param estimator: of the tasks' risk
    :param limit: of the added gradient
    :param episodes_per_task: episodes after which a task counts as known
    :param n_known_tasks: known tasks remembered
    :param rng: draws the partitions, and nothing else does
    """

    def __init__(
        self,
        estimator: RiskEstimator,
        limit: GradientLimit,
        episodes_per_task: int,
        n_known_tasks: int,
        rng: np.random.Generator,
    ) -> None:
        self.estimator = estimator
        self.limit = limit
        self.rng = rng
        self.tape = RiskTape(estimator.needs_fatal, estimator.needs_failure)
        self.ledger = RiskLedger(episodes_per_task, n_known_tasks, estimator.condense)
        #: whether the warning of an idle term has been given
        self.warned = False
        #: what the current update adds, ``None`` if nothing
        self.surrogate: Surrogate | None = None
        #: norms of the gradients of the latest update, before and factors by their limit
        self.grad_norms: list[float] = []
        self.clip_factors: list[float] = []
        #: side effects of the latest update, ``None`` before the first one
        self.health: TermHealth | None = None
        self._episodes_per_task = episodes_per_task
        #: seconds of the latest update spent on the term
        self.seconds = 0.0
        self._minibatch = 0

    # -- once per update, before PPO's ----------------------------------------------------------------------------

    def ingest(self, buffer: RolloutBuffer, policy: ActorCriticPolicy, logger: Logger) -> NDArray[np.float64] | None:
        """Take in the rollout and score the known tasks.

        Before PPO's update: its minibatches reshape the buffer in place.

        :param buffer: the rollout
        :param policy: the policy that played it
        :param logger: of the agent
        :return: shape (n_tasks,), psi of the known tasks; ``None`` while none of them can fail
        """
        started = time.perf_counter()
        tape, estimator = self.tape, self.estimator
        steps: dict[str, NDArray[Any]] = {"observation": flat_observation(buffer.observations)}
        if tape.fatal is not None:
            steps["fatal"] = tape.fatal
        if estimator.needs_actions:
            steps |= {"action": buffer.actions, "log_prob": buffer.log_probs}
        kept = estimator.keeps(tape.fatal, tape.done.shape)
        new = self.ledger.ingest(steps, kept, tape.done, tape.task_id, tape.failure)
        n_known = len(self.ledger.task_id)
        self._warn_if_idle(n_known)
        self.grad_norms, self.clip_factors = [], []
        self._minibatch = 0
        self.surrogate = None
        psi = None
        if n_known:
            policy.set_training_mode(False)
            psi = estimator.psi(policy, self.ledger)
            if not np.isfinite(psi).any():
                psi = None  # nothing has been able to go wrong
            elif len(new):
                logger.record("rollout/ep_risk_mean", float(np.exp(-np.exp(-psi[-len(new) :])).mean()))
        self.seconds = time.perf_counter() - started
        return psi

    def weight(
        self,
        policy: ActorCriticPolicy,
        anchor: ActorCriticPolicy | None,
        psi: NDArray[np.float64],
        objective: TaskObjective,
        logger: Logger,
    ) -> TaskWeights | None:
        """Weigh the known tasks and make ready the loss whose gradient is added.

        :param policy: the policy that played the rollout
        :param anchor: the frozen policy to stay below, ``None`` for none
        :param psi: shape (n_tasks,), scores of the known tasks, oldest task first
        :param objective: what is asked of the scores
        :param logger: of the agent
        :return: the weights, or ``None`` while there are too few tasks to say anything
        """
        started = time.perf_counter()
        anchor_psi = None if anchor is None else self.estimator.psi(anchor, self.ledger)
        weights = objective(psi, anchor_psi, self.rng)
        if weights is not None:
            for key, value in weights.logs.items():
                logger.record(f"train/{key}", value)
            self.health = TermHealth(
                mean_risk=float(np.exp(-np.exp(-psi)).mean()),
                success=float(np.mean(self.tape.success)) if self.tape.success else None,
                share_saturated=weights.logs.get("forecast_share_saturated", 0.0),
                share_risen=weights.logs.get("share_risen"),
            )
            if weights.weight.any():
                surrogate = self.estimator.surrogate(policy, self.ledger, weights.weight)
                self.surrogate = surrogate if surrogate.n_rows else None
            elif not self.warned and len(np.unique(psi)) < _FEW_SCORES:
                self.warned = True
                warnings.warn(
                    f"{len(psi)} tasks share {len(np.unique(psi))} scores, so no line fits the largest ones and the "
                    "forecast term has no effect: raise episodes_per_task, or use risk_coef in place of forecast_coef",
                    stacklevel=2,
                )
        self.seconds += time.perf_counter() - started
        return weights

    def _warn_if_idle(self, n_known: int) -> None:
        """Say so when no task is ever complete: a term that silently does nothing is worse than none."""
        if n_known == 0 and self.ledger.n_waiting > _MANY_TASKS and not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.ledger.n_waiting} tasks have been played but none "
                f"episodes_per_task={self._episodes_per_task} times, so the forecast term has no effect: lower "
                "episodes_per_task, or let the environment play each task that often in a row",
                stacklevel=2,
            )

    # -- at every optimiser step ----------------------------------------------------------------------------------

    def add_gradient(self, policy: ActorCriticPolicy) -> None:
        """Add the term's gradient to the one that is there, at every ``interval``-th optimiser step.

        :param policy: the policy under PPO's update, its gradients clipped already
        """
        if self.surrogate is None:
            return
        self._minibatch += 1
        if self._minibatch % self.limit.interval:
            return
        started = time.perf_counter()
        parameters = [p for p in policy.parameters() if p.requires_grad]
        with torch.enable_grad():
            gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
                self.surrogate.loss(policy), parameters, allow_unused=True
            )
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        self.grad_norms.append(float(norm))
        if not np.isfinite(self.grad_norms[-1]):
            return  # scaled by its norm it would be NaN and end the run; the log shows it
        limit = self.limit.max_norm
        if self.limit.max_ratio is not None:
            own = [p.grad for p, g in zip(parameters, gradients, strict=True) if g is not None and p.grad is not None]
            limit = min(limit, self.limit.max_ratio * float(torch.nn.utils.get_total_norm(own)))
        factor = (limit / (norm + 1e-12)).clamp(max=1.0)
        self.clip_factors.append(float(factor))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient * factor
            else:
                parameter.grad.add_(gradient * factor)
        self.seconds += time.perf_counter() - started

    # -- once per update, after PPO's -----------------------------------------------------------------------------

    def finish(self, policy: ActorCriticPolicy, logger: Logger) -> None:
        """Log what happened, and let go of the update's data."""
        logger.record("train/forecast_known_tasks", len(self.ledger.task_id))
        logger.record("train/forecast_waiting_tasks", self.ledger.n_waiting)
        logger.record("time/forecast_seconds", self.seconds)
        if self.surrogate is None:
            return
        logger.record("train/forecast_active_tasks", self.surrogate.n_tasks)
        logger.record("train/forecast_rows", self.surrogate.n_rows)
        if self.grad_norms:
            norm = np.array(self.grad_norms)
            if self.health is not None:
                self.health = replace(self.health, grad_norm=float(norm.max()))
            logger.record("train/forecast_grad_norm", float(norm.mean()))
            if self.clip_factors:
                logger.record("train/forecast_clip_factor", float(np.mean(self.clip_factors)))
        kl = self.surrogate.kl(policy)
        if np.isfinite(kl):
            logger.record("train/forecast_kl", kl)
        self.surrogate = None

    # -- state of a run -------------------------------------------------------------------------------------------

    def forget_running_episodes(self) -> None:
        """The environments were reset: what they had begun will never end."""
        self.tape.forget()
        self.ledger.forget_running_episodes()

    def state_dict(self) -> dict[str, Any]:
        """What is remembered between rollouts, flat."""
        state: dict[str, Any] = {"rng": self.rng.bit_generator.state, "warned": self.warned}
        state |= {f"ledger.{name}": value for name, value in self.ledger.state_dict().items()}
        if self.tape.current is not None:
            state["fatal_now"] = self.tape.current
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.rng.bit_generator.state = state["rng"]
        self.warned = state["warned"]
        self.ledger.load_state_dict(
            {key.removeprefix("ledger."): value for key, value in state.items() if key.startswith("ledger.")}
        )
        self.tape.current = state.get("fatal_now")
