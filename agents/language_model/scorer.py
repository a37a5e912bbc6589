"""Exact log-probability of forbidden continuations under any Hugging Face causal language model.

``log p = logsumexp over continuations c of sum_t log P(c_t | prompt, c_<t)``, from float32 log-softmaxes, whatever the
dtype of the weights. Rows are prompt and continuation, sorted by length and padded on the right with any token:
attention is causal, positions count from the left, and only logits that predict a continuation's token are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from agents.language_model.prompts import EncodedTask, PromptTask, TaskEncoder
from rl_forecast.scores import psi_from_log_p

# A float32 softmax cannot tell p from 1 within a few of its roundings (6e-8 each): psi stops at -log(1e-6) = 13.8.
_HIGHEST_LOG_P = -1e-6


def psi_from_model_log_p(log_p: torch.Tensor) -> torch.Tensor:
    """Failure score of a float32 log-probability, shape (n_tasks,): ``-log(-log p)`` with p capped at ``1 - 1e-6``.

    The cap acts on the value alone. The gradient passes it (by ``log p`` at the cap), so that a prompt at certain
    failure still feels the loss; it vanishes by itself as the softmax saturates.

    >>> psi_from_model_log_p(torch.tensor([-20.0, -1.0, 0.0]))  # p = 2e-9, 0.37 and, as far as float32 can tell, 1
    tensor([-2.9957, -0.0000, 13.8155])
    """
    capped = torch.where(log_p > _HIGHEST_LOG_P, log_p - log_p.detach() + _HIGHEST_LOG_P, log_p)
    psi: torch.Tensor = psi_from_log_p(capped)
    return psi


class ContinuationScorer:
    """Scores tasks under a model, and passes gradients of scores back to its parameters.

    Dropout is off while scoring, whatever mode the model is in, so that both passes of an objective see one function.

    :param model: causal language model with a head; a peft model is one too
    :param max_batch_tokens: rows times length of one forward pass: the memory of activations. A task's own
        continuations are never split
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
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_logits = max_batch_logits
        # the model inside a peft wrapper
        self.inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.vocabulary: int = self.inner.get_input_embeddings().weight.shape[0]
        self._try_out()
        context = getattr(self.inner.config.get_text_config(), "max_position_embeddings", None)
        self.encoder = TaskEncoder(tokenizer, context, self.vocabulary)

    @property
    def device(self) -> torch.device:
        return torch.device(next(self.model.parameters()).device)

    def encode(self, tasks: Iterable[PromptTask]) -> list[EncodedTask]:
        """Tokenize once: see :meth:`agents.language_model.prompts.TaskEncoder.encode`."""
        return self.encoder.encode(tasks)

    @torch.no_grad()
    def score(self, tasks: Sequence[EncodedTask]) -> torch.Tensor:
        """Log failure probability of each task, without gradient, on the model's device.

        :return: log p, shape (n_tasks,), float32 (float64 for a float64 model)
        :raises ValueError: a score that is not a number
        """
        return self.log_p(tasks)

    def log_p(self, tasks: Sequence[EncodedTask]) -> torch.Tensor:
        """The same, differentiable: keeps the activations of all tasks, so for a few of them."""
        return self._each_batch(tasks, lambda at, log_p: log_p)

    @torch.enable_grad()
    def backward(self, tasks: Sequence[EncodedTask], weight: torch.Tensor) -> torch.Tensor:
        """Add ``sum_i weight_i d psi_i / d theta`` to the gradients of the parameters, in the memory of one batch.

        :param weight: shape (n_tasks,)
        :return: log p before any update, shape (n_tasks,)
        :raises ValueError: a weight that is not finite, or not one weight for each task
        """
        if weight.shape != (len(tasks),):
            raise ValueError(f"weight must have shape ({len(tasks)},), it has {tuple(weight.shape)}")
        if not bool(weight.isfinite().all()):
            raise ValueError("weight must be finite, it holds NaN or infinity")

        def run_backward(at: list[int], log_p: torch.Tensor) -> torch.Tensor:
            (psi_from_model_log_p(log_p) * weight[at].to(log_p)).sum().backward()  # type: ignore[no-untyped-call]
            return log_p.detach()

        return self._each_batch(tasks, run_backward)

    @torch.no_grad()
    def logits(self, tokens: list[int], n_last: int) -> torch.Tensor:
        """Logits of the last positions of one row, shape (n_last, vocabulary)."""
        ids = torch.tensor([tokens], device=self.device)
        position = torch.arange(len(tokens) - n_last, len(tokens), device=self.device)
        with self.evaluation_mode():
            return self._logits_at(ids, torch.zeros_like(position), position)

    def _each_batch(
        self, tasks: Sequence[EncodedTask], finish: Callable[[list[int], torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Log p of all tasks in their order; ``finish`` is given the tasks' positions and log p of each batch."""
        order: list[int] = []
        parts = [torch.zeros(0, device=self.device)]
        with self.evaluation_mode():
            for at in self._batches(tasks):
                order += at
                parts.append(finish(at, self._batch_log_p([tasks[i] for i in at])))
        log_p = torch.cat(parts)[torch.tensor(order, dtype=torch.long, device=self.device).argsort()]
        bad = log_p.detach().isnan().nonzero()
        if len(bad):
            first = tasks[int(bad[0])].task_id
            raise ValueError(f"the model gives NaN for {len(bad)} of {len(tasks)} prompts, the first is {first!r}")
        return log_p

    def _logits_at(self, ids: torch.Tensor, row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Logits at some positions of a batch, shape (len(row), vocabulary), at least float32.

        A hook hands the model's head the hidden states of these positions alone: what a model does after its head, such
        as capping logits, it does to each position separately. Where the head is not called as a module, all are read.
        """
        called = []

        def select(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            called.append(True)
            return (args[0][row, position][None], *args[1:])

        hook = self.inner.get_output_embeddings().register_forward_pre_hook(select)
        try:
            logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        read = logits[0] if called else logits[row, position]
        return read if read.dtype == torch.float64 else read.float()

    def _batches(self, tasks: Sequence[EncodedTask]) -> Iterator[list[int]]:
        """Positions of the tasks of each batch, shortest first, so that little is padding."""
        longest = [len(task.prompt) + max(map(len, task.continuations)) - 1 for task in tasks]
        batch: list[int] = []
        n_rows = n_scored = 0
        for i in sorted(range(len(tasks)), key=longest.__getitem__):
            own_rows, own_scored = len(tasks[i].continuations), sum(map(len, tasks[i].continuations))
            n_rows, n_scored = n_rows + own_rows, n_scored + own_scored
            too_many = n_rows * longest[i] > self.max_batch_tokens
            if (too_many or n_scored * self.vocabulary > self.max_batch_logits) and batch:
                yield batch
                batch, n_rows, n_scored = [], own_rows, own_scored
            batch.append(i)
        if batch:
            yield batch

    def _batch_log_p(self, tasks: Sequence[EncodedTask]) -> torch.Tensor:
        rows = [(task.prompt, continuation) for task in tasks for continuation in task.continuations]
        longest = max(len(prompt) + len(c) for prompt, c in rows) - 1
        # a row's last token is not run: it predicts nothing that is scored
        padded = [prompt + c[:-1] + [0] * (longest - len(prompt) - len(c) + 1) for prompt, c in rows]
        ids = torch.tensor(padded, device=self.device)
        length = torch.tensor([len(c) for _, c in rows], device=self.device)
        row = torch.arange(len(rows), device=self.device).repeat_interleave(length)
        position = torch.tensor([len(prompt) - 1 + t for prompt, c in rows for t in range(len(c))], device=self.device)
        target = torch.tensor([token for _, c in rows for token in c], device=self.device)
        token_log_p = -functional.cross_entropy(self._logits_at(ids, row, position), target, reduction="none")
        row_log_p = token_log_p.new_zeros(len(rows)).index_add(0, row, token_log_p)
        if len(rows) == len(tasks):
            return row_log_p
        # filled up with log 0, which adds nothing to a logsumexp; rounding must not give a probability above 1
        parts = list(torch.split(row_log_p, [len(task.continuations) for task in tasks]))
        return pad_sequence(parts, batch_first=True, padding_value=-torch.inf).logsumexp(dim=1).clamp(max=0.0)

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
    def _try_out(self) -> None:
        """Check on the model itself, whatever its class, that it can be scored."""
        name = type(self.inner).__name__

        def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
            return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))

        if getattr(self.inner, "get_output_embeddings", lambda: None)() is None:
            raise ValueError(f"{name} has no language-model head: load it with AutoModelForCausalLM")
        ids = torch.tensor([[0, 0], [0, min(1, self.vocabulary - 1)]], device=self.device)
        row, position = torch.tensor([0, 1, 1], device=self.device), torch.tensor([1, 0, 1], device=self.device)
        with self.evaluation_mode():
            whole = self.model(input_ids=ids).logits.float()
            if self.inner.config.is_encoder_decoder or not agree(whole[0, 0], whole[1, 0]):
                raise ValueError(f"{name} is not a causal language model: its tokens see later ones")
            if not agree(self._logits_at(ids, row, position).float(), whole[row, position]):
                raise ValueError(f"the head of {name} gives other logits for single positions: it cannot be scored")
