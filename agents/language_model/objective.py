"""The two-pass objective: score every prompt without gradient, then backpropagate through the few that matter.

The objective of the scores has a derivative by each, zero for most; the second pass adds
``sum_i dL/dpsi_i d psi_i / d theta``, the gradient of full backpropagation, at the memory of one batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.language_model.distributed import added_gradient, gathered, shared_scores, shares
from agents.language_model.prompts import EncodedTask
from agents.language_model.scorer import ContinuationScorer, psi_from_model_log_p
from rl_forecast.loss.objectives import Objective
from rl_forecast.scores import psi_from_p

_PSI_1_PERCENT = float(psi_from_p(0.01))


@dataclass(frozen=True)
class ObjectiveReport:
    """What one call of the objective did.

    :param loss: value of the objective, weights included
    :param grad_norm: norm of the gradient that was added
    :param n_scored: prompts scored in the first pass (by all processes together)
    :param n_backward: prompts with a derivative, run in the second
    :param psi: scores that the objective saw, shape (n_tasks,), on the CPU
    :param logs: what the objective's summands log, and the numbers above
    """

    loss: float
    grad_norm: float
    n_scored: int
    n_backward: int
    psi: torch.Tensor
    logs: dict[str, float]


class ForecastObjective:
    """Adds the gradient of an objective of failure scores to a model's gradients, beside the task loss's ``backward``.

    An anchor is a mean over a random part of the pool and the prompts that have a derivative without it. Forecasting
    becomes easier when middling failures rise to meet a rare bad mode; the anchor makes that cost something.

    With several processes (``torch.distributed`` initialised, as ``accelerate launch`` does) every process calls it
    with the same prompts, scores and backpropagates its share, and has the gradients of one process. They must be whole
    on each process: DDP, not FSDP.

    :param scorer: scorer of the model that is trained
    :param objective: see :mod:`rl_forecast.loss.objectives`
    :param base: scorer of a frozen copy of the base model, for an anchor; ``None`` takes a peft model with its adapter
        disabled
    :param anchor_tasks: random prompts of the pool on which an anchor compares
    :param rescore_every: a pool that comes again is scored again at every so many calls; in between only the prompts
        that the second pass runs have new scores. A new pool is always scored
    :param seed: of partitions and anchored prompts
    :raises ValueError: a setting out of range, or no base scores for an anchor

    >>> from agents.language_model import ContinuationScorer, PromptTask
    >>> from envs.password_game import PasswordGame, make_model, make_tokenizer
    >>> from rl_forecast import ForecastabilityLoss
    >>> from rl_forecast.loss.objectives import forecast_loss
    >>> tokenizer, attacks = make_tokenizer(), PasswordGame().attacks(np.arange(60))
    >>> scorer = ContinuationScorer(make_model(tokenizer, seed=0), tokenizer)
    >>> pairs = zip(attacks.prompt, attacks.forbidden)
    >>> pool = scorer.encode([PromptTask(prompt, (text,), task_id=i) for i, (prompt, text) in enumerate(pairs)])
    >>> objective = ForecastObjective(scorer, forecast_loss(1.0, ForecastabilityLoss(n_eval=20, n_deploy=40)))
    >>> report = objective.backward(pool)
    >>> report.n_scored, report.n_backward < 60, report.grad_norm > 0
    (60, True, True)
    """

    def __init__(
        self,
        scorer: ContinuationScorer,
        objective: Objective,
        *,
        base: ContinuationScorer | None = None,
        anchor_tasks: int = 128,
        rescore_every: int = 1,
        seed: int = 0,
    ) -> None:
        if anchor_tasks < 0 or rescore_every < 1:
            given = f"they are {anchor_tasks} and {rescore_every}"
            raise ValueError(f"anchor_tasks must not be negative and rescore_every at least 1, {given}")
        if objective.needs_anchor and base is None and not hasattr(scorer.model, "disable_adapter"):
            raise ValueError("the anchor needs base scores: pass base=ContinuationScorer(frozen copy of the model)")
        self.scorer = scorer
        self.objective = objective
        self.base = base
        self.anchor_tasks = anchor_tasks
        self.rescore_every = rescore_every
        self._generator = np.random.default_rng(seed)
        self._pool = ""
        self._log_p = torch.zeros(0)
        self._calls = 0

    def encode(self, pool: Sequence[Any]) -> Sequence[EncodedTask]:
        """A pool of :class:`PromptTask` as tokens; one of :class:`EncodedTask` stays as it is."""
        return pool if pool and isinstance(pool[0], EncodedTask) else self.scorer.encode(pool)

    def backward(self, pool: Sequence[EncodedTask]) -> ObjectiveReport:
        """Add the gradient of the objective on a pool of prompts.

        :raises ValueError: fewer prompts than the objective needs
        """
        digest = hashlib.sha256(repr(pool).encode()).hexdigest()
        self._calls = self._calls + 1 if digest == self._pool else 1
        self._pool = digest
        is_due = (self._calls - 1) % self.rescore_every == 0
        if is_due:
            self._log_p = shared_scores(self.scorer, pool).cpu()
        psi = psi_from_model_log_p(self._log_p.to(self.scorer.device))
        loss, derivative, logs = self._differentiate(pool, psi)
        run = derivative.nonzero()[:, 0].tolist()
        own = shares(run)
        with added_gradient(self.scorer.model) as norm:
            log_p = self.scorer.backward([pool[i] for i in own], derivative[own])
        # what one process has run, all must know: their cached scores must not differ
        self._log_p[run] = gathered(own, log_p, len(pool))[run].to(self._log_p)
        logs |= {
            "forecast_grad_norm": norm[0],
            "n_backward": float(len(run)),
            "worst_psi": float(psi.max()),
            "share_above_1_percent": float((psi > _PSI_1_PERCENT).float().mean()),
        }
        return ObjectiveReport(loss, norm[0], len(pool) if is_due else 0, len(run), psi.cpu(), logs)

    def state_dict(self) -> dict[str, Any]:
        """Generators, counters and cached scores, fit for JSON: a resumed run equals the uninterrupted one."""
        return {
            "generator": self._generator.bit_generator.state,
            "objective": self.objective.state_dict(),
            "calls": self._calls,
            "pool": self._pool,
            "log_p": self._log_p.tolist(),
            "dtype": str(self._log_p.dtype).removeprefix("torch."),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`state_dict` gave."""
        self._generator.bit_generator.state = state["generator"]
        self.objective.load_state_dict(state["objective"])
        self._calls = int(state["calls"])
        self._log_p = torch.tensor(state["log_p"], dtype=getattr(torch, state["dtype"]))
        self._pool = state["pool"]

    def _differentiate(
        self, pool: Sequence[EncodedTask], psi: torch.Tensor
    ) -> tuple[float, torch.Tensor, dict[str, float]]:
        """Value of the objective, its derivative by each score, shape (n_tasks,), and what it logs."""
        free, anchored = self.objective.split_anchor()
        loss, logs = 0.0, dict[str, float]()
        derivative = torch.zeros_like(psi)
        if free:
            loss, derivative, logs = self._one(free, psi, None)
        if anchored:
            drawn = self._generator.choice(len(pool), min(self.anchor_tasks, len(pool)), replace=False)
            at = np.union1d(drawn, derivative.nonzero()[:, 0].cpu().numpy()).tolist()
            if at:
                with nullcontext() if self.base else self.scorer.model.disable_adapter():
                    base_log_p = shared_scores(self.base or self.scorer, [pool[i] for i in at])
                base_psi = psi_from_model_log_p(base_log_p.to(psi))
                value, part, more = self._one(anchored, psi[at], base_psi)
                derivative[at] += part
                loss, logs = loss + value, logs | more
        return loss, derivative, logs

    def _one(
        self, objective: Objective, psi: torch.Tensor, base_psi: torch.Tensor | None
    ) -> tuple[float, torch.Tensor, dict[str, float]]:
        leaf = psi.detach().clone().requires_grad_()
        with torch.enable_grad():
            result = objective(leaf, base_psi, self._generator)
            if result is None:
                raise ValueError(f"{len(psi)} prompts are too few for the objective: give more, or lower tail_k")
            (derivative,) = torch.autograd.grad(result[0], leaf)
        return float(result[0].detach()), derivative, result[1]
