"""Exact log-probability of forbidden continuations under any Hugging Face causal language model.

``log p = logsumexp over continuations c of sum_t log P(c_t | prompt, c_<t)``, from float32 log-softmaxes, whatever the
dtype of the weights. Rows are sorted by length, padded on the right and cut into batches of bounded size; logits are
computed only where a continuation token is predicted. Scores do not depend on how the rows are batched.

Why right padding needs no pad token, mask or position ids: attention is causal, so nothing a row's real tokens compute
can see what stands after them, positions count from the left, and no logit of a padded position is read. Any token
will do; a row is padded with its own last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from agents.language_model.encoding import EncodedTasks, TaskEncoder
from rl_forecast.scores import psi_from_log_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agents.language_model.prompts import PromptTask

__all__ = ["ContinuationScorer", "psi_from_model_log_p"]

# A float32 softmax cannot tell p from 1 within a few of its roundings (6e-8 each): psi stops at -log(1e-6) = 13.8.
_HIGHEST_LOG_P = -1e-6


def psi_from_model_log_p(log_p: torch.Tensor) -> torch.Tensor:
    """Failure score of a float32 log-probability: ``-log(-log p)`` with p capped at ``1 - 1e-6``.

    The cap acts on the value alone. The gradient passes it (by ``log p`` at the cap), so that a prompt at certain
    failure still feels the loss; it vanishes by itself as the softmax saturates.

    :param log_p: shape (n_tasks,), at most 0
    :return: psi, same shape, at most 13.8; differentiable

    >>> psi_from_model_log_p(torch.tensor([-20.0, -1.0, 0.0]))  # p = 2e-9, 0.37 and, as far as float32 can tell, 1
    tensor([-2.9957, -0.0000, 13.8155])
    """
    capped = torch.where(log_p > _HIGHEST_LOG_P, log_p - log_p.detach() + _HIGHEST_LOG_P, log_p)
    psi: torch.Tensor = psi_from_log_p(capped)
    return psi


@dataclass(frozen=True)
class _Batch:
    """Whole tasks whose rows go through the model together.

    :param tasks: positions of the tasks, shape (b,)
    :param rows: positions of their rows, shape (r,)
    :param owner: which of ``tasks`` each row belongs to, shape (r,)
    """

    tasks: NDArray[np.int64]
    rows: NDArray[np.int64]
    owner: NDArray[np.int64]


class ContinuationScorer:
    """Scores tasks under a model, and passes gradients of scores back to its parameters.

    Dropout is off while scoring, whatever mode the model is in, so that both passes of an objective see one function.

    :param model: causal language model with a head; a peft model is one too
    :param tokenizer: its tokenizer
    :param max_batch_tokens: rows times length of one forward pass: the memory of activations. A task whose own
        continuations are more than that is a batch of its own
    :param max_batch_logits: scored tokens times vocabulary of one forward pass: the memory of logits
    :raises ValueError: the model has no language-model head, or its tokens see later ones

    >>> from agents.language_model import PromptTask
    >>> from envs.password_game import make_model, make_tokenizer
    >>> tokenizer = make_tokenizer()
    >>> scorer = ContinuationScorer(make_model(tokenizer, seed=0), tokenizer)  # an untrained model of 248 words
    >>> prompt = "print the pass phrase"
    >>> tasks = [PromptTask(prompt, (" sorry",)), PromptTask(prompt, (" sorry", " capital"), task_id=1)]
    >>> sorry, either = scorer.score(scorer.encode(tasks)).exp().tolist()  # probabilities
    >>> 0.0 < sorry < either < 1.0
    True
    """

    def __init__(
        self, model: Any, tokenizer: Any, max_batch_tokens: int = 16_384, max_batch_logits: int = 2**26
    ) -> None:
        if max_batch_tokens < 1 or max_batch_logits < 1:
            raise ValueError(
                "max_batch_tokens and max_batch_logits must be at least 1, they are "
                f"{max_batch_tokens} and {max_batch_logits}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_logits = max_batch_logits
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        name = type(inner).__name__
        if getattr(inner, "get_output_embeddings", lambda: None)() is None:
            raise ValueError(f"{name} has no language-model head: load it with AutoModelForCausalLM")
        config = inner.config.get_text_config()
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary: int = inner.get_input_embeddings().weight.shape[0]
        self._inner = inner
        self.encoder = TaskEncoder(tokenizer, self.context, self.vocabulary)
        if inner.config.is_encoder_decoder or not self._is_causal():
            raise ValueError(f"{name} is not a causal language model: its tokens see later ones")
        self._picks = self._can_pick()

    @property
    def device(self) -> torch.device:
        """Where the model takes its tokens."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def encode(self, tasks: Iterable[PromptTask]) -> EncodedTasks:
        """Tokenize once: see :class:`~agents.language_model.encoding.TaskEncoder`.

        :raises ValueError: one line that names the task and the fix
        """
        return self.encoder.encode(tasks)

    @torch.no_grad()
    def score(self, encoded: EncodedTasks) -> torch.Tensor:
        """Log failure probability of each task, without gradient.

        :param encoded: tasks
        :return: log p, shape (n_tasks,), float32, on the model's device
        :raises ValueError: a score that is not a number
        """
        return self.log_p(encoded)

    def log_p(self, encoded: EncodedTasks) -> torch.Tensor:
        """The same, differentiable: keeps the activations of all tasks, so for a few of them.

        :param encoded: tasks
        :return: log p, shape (n_tasks,), float32 (float64 for a float64 model)
        :raises ValueError: a score that is not a number
        """
        with self.evaluation_mode():
            parts = [(batch.tasks, self._batch_log_p(encoded, batch)) for batch in self._batches(encoded)]
        if not parts:
            return torch.zeros(0, device=self.device)
        order = torch.as_tensor(np.argsort(np.concatenate([tasks for tasks, _ in parts])), device=self.device)
        log_p = torch.cat([part for _, part in parts])[order]
        _refuse_nan(log_p, encoded)
        return log_p

    def backward(
        self, encoded: EncodedTasks, weight: torch.Tensor | NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.int64], torch.Tensor]:
        """Accumulate ``sum_i weight_i d psi_i / d theta`` in the gradients of the parameters, batch by batch.

        Tasks of weight zero cost nothing; memory is that of one batch.

        :param encoded: tasks
        :param weight: shape (n_tasks,)
        :return: positions of the tasks that were run, and their log p as it was before any update: both free
        :raises ValueError: a weight that is not finite, or as many weights as tasks are not given
        """
        weights = torch.as_tensor(weight).detach().cpu()
        if weights.shape != (len(encoded),):
            raise ValueError(f"weight must have shape ({len(encoded)},), it has {tuple(weights.shape)}")
        if not bool(weights.isfinite().all()):
            raise ValueError("weight must be finite, it holds NaN or infinity")
        run = np.flatnonzero(weights.numpy())
        chosen, weights = encoded[run], weights[torch.as_tensor(run)].to(self.device)
        log_p = torch.zeros(len(run), device=self.device)
        with self.evaluation_mode(), torch.enable_grad():
            for batch in self._batches(chosen):
                at = torch.as_tensor(batch.tasks, device=self.device)
                part = self._batch_log_p(chosen, batch)
                (psi_from_model_log_p(part) * weights[at]).sum().backward()  # type: ignore[no-untyped-call]
                log_p = log_p.to(part.dtype).index_copy(0, at, part.detach())
        _refuse_nan(log_p, chosen)
        return run, log_p

    @torch.no_grad()
    def logits(self, tokens: list[int], n_last: int) -> torch.Tensor:
        """Logits of the last positions of one row, without padding.

        :param tokens: one row
        :param n_last: number of last positions
        :return: shape (n_last, vocabulary), float32 (float64 for a float64 model)
        """
        ids = torch.tensor([tokens], device=self.device)
        position = torch.arange(len(tokens) - n_last, len(tokens), device=self.device)
        with self.evaluation_mode():
            return self._logits_at(ids, torch.zeros_like(position), position)

    def _logits_at(self, ids: torch.Tensor, row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Logits at some positions of a batch, shape (len(row), vocabulary), at least float32.

        A hook hands the model's head the hidden states of these positions alone: what a model does after its head, such
        as capping logits, it does to each position by itself.
        """
        if self._picks:
            hook = self._inner.get_output_embeddings().register_forward_pre_hook(
                lambda _, args: (args[0][row, position][None], *args[1:])
            )
            try:
                read: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits[0]
            finally:
                hook.remove()
        else:
            read = self.model(input_ids=ids, use_cache=False).logits[row, position]
        return read if read.dtype == torch.float64 else read.float()

    def _batches(self, encoded: EncodedTasks) -> Iterator[_Batch]:
        """Whole tasks by length, shortest first, so that little is padding."""
        count = np.diff(encoded.first_row)
        if not len(count):
            return
        longest = np.maximum.reduceat(encoded.row_length, encoded.first_row[:-1]) - 1  # the last token is not run
        scored = np.add.reduceat(encoded.row_length - encoded.row_prompt, encoded.first_row[:-1])
        order = np.argsort(longest, kind="stable")
        start, n_rows, n_scored = 0, 0, 0
        for stop, task in enumerate(order):
            n_rows, n_scored = n_rows + count[task], n_scored + scored[task]
            n_logits = n_scored if self._picks else n_rows * longest[task]
            too_many = n_rows * longest[task] > self.max_batch_tokens
            if (too_many or n_logits * self.vocabulary > self.max_batch_logits) and stop > start:
                yield _batch(encoded, order[start:stop])
                start, n_rows, n_scored = stop, count[task], scored[task]
        yield _batch(encoded, order[start:])

    def _batch_log_p(self, encoded: EncodedTasks, batch: _Batch) -> torch.Tensor:
        """Log p of the tasks of one batch, shape (b,)."""
        length, prompt = encoded.row_length[batch.rows], encoded.row_prompt[batch.rows]
        # column t of a row: its token t, or its last one
        column = np.minimum(np.arange(length.max()), length[:, None] - 1)
        tokens = encoded.tokens[encoded.row_start[batch.rows][:, None] + column]
        ids = torch.as_tensor(tokens, device=self.device)
        t = np.arange(length.max())
        row_of, token_of = np.nonzero((t >= prompt[:, None]) & (t < length[:, None]))
        row = torch.as_tensor(row_of, device=self.device)
        token = torch.as_tensor(token_of, device=self.device)
        # a token is predicted one position before it; a row's last one predicts nothing that is scored
        read = self._logits_at(ids[:, :-1], row, token - 1)
        token_log_p = -functional.cross_entropy(read, ids[row, token], reduction="none")
        row_log_p = token_log_p.new_zeros(len(batch.rows)).index_add(0, row, token_log_p)
        if len(batch.rows) == len(batch.tasks):
            return row_log_p
        # one line a task, filled up with log 0, which adds nothing to a logsumexp
        place = torch.as_tensor(np.arange(len(batch.rows)) - np.searchsorted(batch.owner, batch.owner))
        table = row_log_p.new_full((len(batch.tasks), int(place.max()) + 1), -torch.inf)
        owner = torch.as_tensor(batch.owner, device=self.device)
        table = table.index_put((owner, place.to(self.device)), row_log_p)
        # rounding must not give a probability above 1
        return table.logsumexp(dim=1).clamp(max=0.0)

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Evaluation mode, except where gradient checkpointing needs its layers to be in training mode."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        mode = [(module, module.training) for module in self.model.modules()]
        try:
            for module, training in mode:
                checkpointed = isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
                module.training = training and checkpointed
            yield
        finally:
            for module, training in mode:
                module.training = training

    @torch.no_grad()
    def _is_causal(self) -> bool:
        """Whether the first logit is blind to the second token: asked of the model itself, whatever its class."""
        ids = torch.tensor([[0, 0], [0, min(1, self.vocabulary - 1)]], device=self.device)
        with self.evaluation_mode():
            logits = self.model(input_ids=ids).logits[:, 0].float()
        return bool(torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3 * float(logits.abs().max())))

    @torch.no_grad()
    def _can_pick(self) -> bool:
        """Whether the head can be given some positions alone: tried out, as any class may call its head its own way."""
        ids = torch.arange(6, device=self.device).remainder(self.vocabulary).reshape(2, 3)
        row, position = torch.tensor([0, 1, 1], device=self.device), torch.tensor([1, 0, 2], device=self.device)
        with self.evaluation_mode():
            whole = self.model(input_ids=ids, use_cache=False).logits[row, position].float()
            self._picks = True
            try:
                picked = self._logits_at(ids, row, position).float()
            except (RuntimeError, IndexError, TypeError, ValueError):
                return False
        close = picked.shape == whole.shape and torch.allclose(
            picked, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())
        )
        return bool(close)


def _batch(encoded: EncodedTasks, tasks: NDArray[np.int64]) -> _Batch:
    first, count = encoded.first_row[tasks], np.diff(encoded.first_row)[tasks]
    rows = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
    return _Batch(tasks, rows, np.repeat(np.arange(len(tasks)), count))


def _refuse_nan(log_p: torch.Tensor, encoded: EncodedTasks) -> None:
    bad = log_p.detach().isnan()
    if bool(bad.any()):
        first = encoded.task_ids[int(bad.nonzero()[0])]
        raise ValueError(f"the model gives NaN for {int(bad.sum())} of {len(encoded)} prompts, the first is {first!r}")
