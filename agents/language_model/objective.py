"""The two-pass objective: score every prompt without gradient, then backpropagate through the few that matter.

Pass 1 scores a pool of prompts; the loss of those scores gives a weight ``dL/dpsi`` for each, zero for most. Pass 2
runs only the prompts with a weight, batch by batch, and adds ``sum_i weight_i d psi_i / d theta`` to the gradients:
the gradient of full backpropagation, at the memory of one batch.

An anchor to the base model (``one_sided_anchor`` of the loss) goes the same way: forecasting becomes
easier when middling failures rise to meet a rare bad mode, and the anchor makes that cost something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from agents.language_model.distributed import Gradients, put_together, shared_scores
from agents.language_model.encoding import EncodedTasks
from agents.language_model.scorer import ContinuationScorer, psi_from_model_log_p
from rl_forecast.loss.forecastability import one_sided_anchor
from rl_forecast.loss.tail_fit import scores_leaf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agents.language_model.prompts import PromptTask
    from rl_forecast.loss.forecastability import ForecastabilityTerms

__all__ = ["ForecastObjective", "ObjectiveReport", "RefreshPolicy", "TaskWeights"]


class TaskWeights(Protocol):
    """A loss of scores that knows its own gradient: :class:`rl_forecast.loss.forecastability.ForecastabilityLoss`."""

    def task_weights(
        self, psi: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, ForecastabilityTerms]:
        """Weights ``dL/dpsi``, shape (n_tasks,), and the loss with its components."""


#: A scalar of the scores, shape (n_tasks,) psi to shape (), differentiable by torch: any penalty.
ScoreLoss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RefreshPolicy:
    """When the scores of a pool that comes again are computed again.

    On every ``every``-th call with the same pool, the ``fraction`` of it whose scores are oldest is scored; between,
    scores are reused. Prompts that the backward pass runs anyway are refreshed by it for nothing. A new pool is always
    scored whole.

    :param every: calls, at least 1
    :param fraction: of the pool, in (0, 1]
    :raises ValueError: out of range
    """

    every: int = 1
    fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.every < 1 or not 0.0 < self.fraction <= 1.0:
            raise ValueError(
                f"every must be at least 1 and fraction in (0, 1], they are {self.every} and {self.fraction}"
            )


@dataclass(frozen=True)
class ObjectiveReport:
    """What one call of the objective did.

    :param loss: value of the loss, without its weight
    :param anchor: mean squared rise above the base on the anchored prompts, psi squared, without its weight; 0 without
        an anchor
    :param grad_norm: norm of the gradient that was added, weights included
    :param n_scored: prompts scored in pass 1 (by all processes together)
    :param n_backward: prompts with a weight, run in pass 2
    :param psi: scores that the loss saw, shape (n_tasks,), on the CPU
    :param terms: components of the loss, where it is a forecastability loss
    """

    loss: float
    anchor: float
    grad_norm: float
    n_scored: int
    n_backward: int
    psi: torch.Tensor
    terms: ForecastabilityTerms | None


class ForecastObjective:
    """Adds the gradient of a loss of failure scores, and of the anchor, to a model's gradients.

    In a training loop of one's own::

        objective = ForecastObjective(scorer, ForecastabilityLoss(n_eval=100, n_deploy=900))
        task_loss.backward()
        report = objective.backward(prompts, weight=1.0)
        optimizer.step()

    With several processes (``torch.distributed`` initialised, as ``accelerate launch`` does) every process calls it
    with the same prompts: each scores its share, the scores are shared so that all see the same partitions, each
    backpropagates its share, and the gradients are summed. It may stand before or after the task loss's backward, and
    the gradients equal those of one process. They must be whole on each process: DDP, not FSDP.

    :param scorer: scorer of the model that is trained
    :param loss: a forecastability loss, or any differentiable scalar of the scores (a penalty to compare with)
    :param anchor_weight: weight of the anchor, relative to the loss; 0 for none
    :param anchor_tasks: random prompts of the pool that are anchored, beside those with a weight
    :param base: scorer of a frozen copy of the base model; None takes a peft model with its adapter disabled. Not
        needed where ``backward`` is given base scores, or without anchor
    :param refresh: when to score a pool that comes again; None scores it at every call
    :param seed: of partitions and anchored prompts
    :raises ValueError: a negative anchor weight, or no way to know base scores (raised when they are first needed)

    With the password game's untrained model and 60 of its prompts:

    >>> from agents.language_model import ContinuationScorer, PromptTask
    >>> from envs.password_game import PasswordGame, make_model, make_tokenizer
    >>> from rl_forecast import ForecastabilityLoss
    >>> tokenizer, attacks = make_tokenizer(), PasswordGame().attacks(np.arange(60))
    >>> scorer = ContinuationScorer(make_model(tokenizer, seed=0), tokenizer)
    >>> pairs = zip(attacks.prompt, attacks.forbidden)
    >>> pool = scorer.encode([PromptTask(prompt, (text,), task_id=i) for i, (prompt, text) in enumerate(pairs)])
    >>> objective = ForecastObjective(scorer, ForecastabilityLoss(n_eval=20, n_deploy=40), anchor_weight=0.0)
    >>> report = objective.backward(pool)
    >>> report.n_scored, report.n_backward < 60, report.grad_norm > 0
    (60, True, True)
    """

    def __init__(
        self,
        scorer: ContinuationScorer,
        loss: TaskWeights | ScoreLoss,
        *,
        anchor_weight: float = 10.0,
        anchor_tasks: int = 128,
        base: ContinuationScorer | None = None,
        refresh: RefreshPolicy | None = None,
        seed: int = 0,
    ) -> None:
        if anchor_weight < 0 or anchor_tasks < 0:
            raise ValueError(
                f"anchor_weight and anchor_tasks must not be negative, they are {anchor_weight} and {anchor_tasks}"
            )
        self.scorer = scorer
        self.loss = loss
        self.anchor_weight = anchor_weight
        self.anchor_tasks = anchor_tasks
        self.base = base
        self.refresh = refresh or RefreshPolicy()
        self._generator = np.random.default_rng(seed)
        self._pool: EncodedTasks | None = None
        self._saved_pool: str | None = None
        self._log_p = torch.zeros(0)
        self._age = np.zeros(0, dtype=np.int64)
        self._calls = 0

    def backward(
        self,
        tasks: EncodedTasks | Iterable[PromptTask],
        weight: float = 1.0,
        base_log_p: torch.Tensor | None = None,
    ) -> ObjectiveReport:
        """Add ``weight * d(loss + anchor_weight * anchor) / d theta`` to the gradients.

        :param tasks: the pool; encode it once where it is used again (the cache knows a pool by its identity)
        :param weight: of the whole term
        :param base_log_p: base scores of the pool, shape (n_tasks,), where they are known already
        :return: what was done
        :raises ValueError: bad prompts, fewer of them than the loss needs, or no base scores for the anchor
        """
        encoded = tasks if isinstance(tasks, EncodedTasks) else self.scorer.encode(tasks)
        n_scored = self._score(encoded)
        psi = psi_from_model_log_p(self._log_p.to(self.scorer.device))
        task_weight, value, terms = self._loss_weights(psi)
        anchor = 0.0
        if self.anchor_weight:
            anchor_weight, anchor = self._anchor_weights(encoded, psi, task_weight, base_log_p)
            task_weight = task_weight + self.anchor_weight * anchor_weight
        share = np.zeros(len(encoded), dtype=bool)
        run = np.flatnonzero(task_weight.cpu().numpy())
        gradients = Gradients(self.scorer.model)
        share[gradients.share_of(run)] = True
        own = torch.where(torch.as_tensor(share, device=psi.device), weight * task_weight, 0.0)
        with gradients.apart() as term:
            ran, log_p = self.scorer.backward(encoded, own)
        # what one process has run, all must know: the next refresh goes by age
        self._renew(run, put_together(ran, log_p, len(encoded))[torch.as_tensor(run, device=log_p.device)])
        return ObjectiveReport(value, anchor, term.norm, n_scored, len(run), psi.cpu(), terms)

    def state_dict(self) -> dict[str, Any]:
        """Generator, call counter and cached scores, fit for JSON: a resumed run goes on as the uninterrupted one."""
        return {
            "generator": self._generator.bit_generator.state,
            "calls": self._calls,
            "pool": None if self._pool is None else self._pool.fingerprint(),
            "log_p": self._log_p.tolist(),
            "dtype": str(self._log_p.dtype).removeprefix("torch."),
            "age": self._age.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; cached scores are used where the next pool is the one they belong to."""
        self._generator.bit_generator.state = state["generator"]
        self._calls = int(state["calls"])
        self._log_p = torch.tensor(state["log_p"], dtype=getattr(torch, state["dtype"]))
        self._age = np.array(state["age"], dtype=np.int64)
        self._pool = None
        self._saved_pool = state["pool"]

    def _score(self, encoded: EncodedTasks) -> int:
        """Bring the cached scores of the pool up to date; the number that was scored."""
        resumed = self._saved_pool is not None and self._saved_pool == encoded.fingerprint()
        self._saved_pool = None
        if encoded is not self._pool and not resumed:
            self._log_p = torch.full((len(encoded),), torch.nan)
            self._age, self._calls = np.zeros(len(encoded), dtype=np.int64), 0
            due = np.arange(len(encoded))
        elif self._calls % self.refresh.every:
            due = np.zeros(0, dtype=np.int64)
        else:
            n_due = max(1, round(self.refresh.fraction * len(encoded)))
            due = np.sort(np.argsort(-self._age, kind="stable")[:n_due])
        self._pool = encoded
        self._calls += 1
        self._age += 1
        if len(due):
            self._renew(due, shared_scores(self.scorer, encoded[due]))
        return len(due)

    def _renew(self, at: NDArray[np.int64], log_p: torch.Tensor) -> None:
        self._log_p = self._log_p.to(log_p.dtype)
        self._log_p[torch.as_tensor(at)] = log_p.cpu()
        self._age[at] = 0

    def _loss_weights(self, psi: torch.Tensor) -> tuple[torch.Tensor, float, ForecastabilityTerms | None]:
        if hasattr(self.loss, "task_weights"):
            weight, terms = self.loss.task_weights(psi, self._generator)
            return weight, float(terms.loss), terms
        leaf = scores_leaf(psi)
        with torch.enable_grad():
            value = self.loss(leaf)
            (weight,) = torch.autograd.grad(value, leaf)
        return weight, float(value.detach()), None

    def _anchor_weights(
        self, encoded: EncodedTasks, psi: torch.Tensor, task_weight: torch.Tensor, base_log_p: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        """Gradient of the mean squared rise above the base by the scores of the anchored prompts."""
        drawn = self._generator.choice(len(encoded), min(self.anchor_tasks, len(encoded)), replace=False)
        at = np.union1d(drawn, np.flatnonzero(task_weight.cpu().numpy()))
        if not len(at):
            return torch.zeros_like(psi), 0.0
        index = torch.as_tensor(at, device=psi.device)
        base = self._base_scores(encoded[at]).to(psi) if base_log_p is None else base_log_p.to(psi)[index]
        leaf = scores_leaf(psi[index])
        with torch.enable_grad():
            value = one_sided_anchor(leaf, psi_from_model_log_p(base), worst=len(at))
            (gradient,) = torch.autograd.grad(value, leaf)
        return torch.zeros_like(psi).index_copy(0, index, gradient), float(value.detach())

    def _base_scores(self, encoded: EncodedTasks) -> torch.Tensor:
        if self.base is not None:
            return shared_scores(self.base, encoded)
        disable_adapter = getattr(self.scorer.model, "disable_adapter", None)
        if disable_adapter is None:
            raise ValueError(
                "the anchor needs base scores: pass base=ContinuationScorer(frozen copy of the model), base_log_p to "
                "backward, or set anchor_weight=0"
            )
        with disable_adapter():
            return shared_scores(self.scorer, encoded)
