"""Prompts and forbidden continuations as token rows, made once and scored many times.

**The boundary rule.** A model answers a prompt by continuing the prompt's own tokens, so these are fixed; what follows
them is the continuation's tokens. Where ``tokenize(prompt + continuation)`` begins with the prompt's tokens, the rest
of it is the continuation. Where the tokenizer merges letters across the boundary, the continuation is tokenized on its
own, provided that this spells the same text; where it does not, the task is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agents.language_model.prompts import Prompt, PromptTask

__all__ = ["EncodedTasks", "TaskEncoder", "pack_rows", "without_implied"]


@dataclass(frozen=True, eq=False)
class EncodedTasks:
    """Tasks as token rows, one row for each (task, forbidden continuation), all rows of a task side by side.

    ``encoded[positions]`` selects tasks without copying tokens.

    :param task_ids: ids of the tasks, shape (n_tasks,)
    :param tokens: tokens of all rows end to end, shape (n_tokens,)
    :param row_start: where each row begins in ``tokens``, shape (n_rows,)
    :param row_length: prompt and continuation, tokens, shape (n_rows,)
    :param row_prompt: tokens of the prompt alone, shape (n_rows,)
    :param first_row: rows ``first_row[i]`` up to ``first_row[i + 1]`` belong to task i, shape (n_tasks + 1,)
    :param n_separate: rows whose continuation was tokenized on its own by the boundary rule
    """

    task_ids: tuple[int | str, ...]
    tokens: NDArray[np.int64]
    row_start: NDArray[np.int64]
    row_length: NDArray[np.int64]
    row_prompt: NDArray[np.int64]
    first_row: NDArray[np.int64]
    n_separate: int = 0

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.task_ids)

    def __getitem__(self, positions: NDArray[np.integer[Any]] | Sequence[int] | slice) -> EncodedTasks:
        """The tasks at some positions, in that order."""
        at = np.arange(len(self))[positions]
        count = np.diff(self.first_row)[at]
        first = np.concatenate([[0], np.cumsum(count)])
        # row j of the selection is row (j - its task's new first row) of that task
        rows = np.arange(first[-1]) + np.repeat(self.first_row[at] - first[:-1], count)
        return replace(
            self,
            task_ids=tuple(self.task_ids[i] for i in at),
            row_start=self.row_start[rows],
            row_length=self.row_length[rows],
            row_prompt=self.row_prompt[rows],
            first_row=first,
        )

    def fingerprint(self) -> str:
        """Digest of ids and tokens: two pools with the same one score the same."""
        digest = hashlib.sha256(repr(self.task_ids).encode())
        for array in (self.row_length, self.row_prompt, self.first_row):
            digest.update(array.tobytes())
        for i in range(len(self.row_length)):
            digest.update(self.row(i).tobytes())
        return digest.hexdigest()

    def row(self, i: int) -> NDArray[np.int64]:
        """Tokens of row i."""
        return self.tokens[self.row_start[i] : self.row_start[i] + self.row_length[i]]


class TaskEncoder:
    """Turns tasks into token rows.

    :param tokenizer: any Hugging Face tokenizer
    :param context: longest row that the model takes, tokens; None for no limit
    :param vocabulary: number of tokens the model knows
    """

    def __init__(self, tokenizer: Any, context: int | None, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._vocabulary = vocabulary
        self._begin: list[int] | None = None

    def encode(self, tasks: Iterable[PromptTask]) -> EncodedTasks:
        """Rows of all tasks.

        A continuation that begins with another one of the same task (in tokens) is left out: where it is produced, so
        is the shorter one, and P(any of them) is exact only over continuations none of which begins another.

        :raises ValueError: duplicate ids, an empty prompt or continuation, a continuation with unknown tokens or one
            that does not survive the boundary, a row longer than the context, tokens that the model does not know
        """
        tasks = list(tasks)
        self._check_tasks(tasks)
        prompts = self.prompts(tasks)
        owner = [i for i, task in enumerate(tasks) for _ in task.forbidden]
        texts = [text for task in tasks for text in task.forbidden]
        rendered = [self._text(task) for task in tasks]
        joint = self._tokens([rendered[i] + text for i, text in zip(owner, texts, strict=True)])
        rows: list[list[list[int]]] = [[] for _ in tasks]
        n_separate = 0
        for i, text, ids in zip(owner, texts, joint, strict=True):
            begin = self._begin_tokens() if isinstance(tasks[i].prompt, str) else []
            prompt, whole = prompts[i], begin + ids
            if whole[: len(prompt)] == prompt:
                continuation = whole[len(prompt) :]
            else:
                continuation = self._separately(prompt, whole, text, tasks[i])
                n_separate += 1
            self._check_continuation(continuation, text, tasks[i])
            rows[i].append(continuation)
        return self._pack(tasks, prompts, [without_implied(own) for own in rows], n_separate)

    def prompts(self, tasks: Sequence[PromptTask]) -> list[list[int]]:
        """Tokens of the prompts alone, as the model is given them before it answers.

        :raises ValueError: a prompt that tokenizes to nothing
        """
        found = self._tokens([self._text(task) for task in tasks])
        for i, task in enumerate(tasks):
            if isinstance(task.prompt, str):
                found[i] = self._begin_tokens() + found[i]
            if not found[i]:
                raise ValueError(f"prompt {task.task_id!r} tokenizes to nothing: a model needs at least one token")
        return found

    def check_length(self, task: PromptTask, n_prompt: int, n_continuation: int) -> None:
        """Refuse what does not fit.

        :raises ValueError: prompt and continuation are longer than the context
        """
        if self._context is not None and n_prompt + n_continuation > self._context:
            raise ValueError(
                f"prompt {task.task_id!r} has {n_prompt} tokens and its continuation {n_continuation}: together more "
                f"than the context of {self._context}"
            )

    def continuation(self, text: str) -> list[int]:
        """Tokens of a text on its own, as it stands in the middle of an output.

        :raises ValueError: no tokens, unknown ones, or ones that the model has no embedding for
        """
        ids = self._tokens([text])[0]
        if not ids:
            raise ValueError(f"text {text!r} tokenizes to nothing")
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        if unknown is not None and unknown in ids:
            raise ValueError(f"text {text!r} holds something that this tokenizer does not know")
        self.check_vocabulary(np.array(ids))
        return ids

    def _text(self, task: PromptTask) -> str:
        if isinstance(task.prompt, str):
            return task.prompt
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"prompt {task.task_id!r} is a chat, and this tokenizer has no chat template: give the prompt as text, "
                "or set tokenizer.chat_template"
            )
        return _rendered(self._tokenizer, task.prompt, task.task_id)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [list(ids) for ids in found]

    def _begin_tokens(self) -> list[int]:
        """What the tokenizer puts before a text, such as <s>. What it puts after one is not part of a prompt."""
        if self._begin is None:
            plain = self._tokens(["a"])[0]
            full = list(self._tokenizer(["a"], verbose=False)["input_ids"][0])
            starts = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
            self._begin = full[: starts[0]] if plain and starts else []
        return self._begin

    def _separately(self, prompt: list[int], whole: list[int], text: str, task: PromptTask) -> list[int]:
        continuation = self._tokens([text])[0]
        if self._tokenizer.decode(prompt + continuation) != self._tokenizer.decode(whole):
            raise ValueError(
                f"prompt {task.task_id!r}: forbidden text {text!r} has no tokens of its own after this prompt; begin "
                "it with a space or a new line, or end the prompt earlier"
            )
        return continuation

    def _check_tasks(self, tasks: Sequence[PromptTask]) -> None:
        seen: set[int | str] = set()
        for task in tasks:
            if task.task_id in seen:
                raise ValueError(f"task id {task.task_id!r} occurs twice: ids must differ")
            seen.add(task.task_id)
            if not task.forbidden:
                raise ValueError(f"prompt {task.task_id!r} has no forbidden text to score")

    def _check_continuation(self, ids: list[int], text: str, task: PromptTask) -> None:
        if not ids:
            raise ValueError(f"prompt {task.task_id!r}: forbidden text {text!r} tokenizes to nothing")
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        if unknown is not None and unknown in ids:
            raise ValueError(
                f"prompt {task.task_id!r}: forbidden text {text!r} holds something that this tokenizer does not know"
            )

    def _pack(
        self, tasks: list[PromptTask], prompts: list[list[int]], continuations: list[list[list[int]]], n_separate: int
    ) -> EncodedTasks:
        for task, prompt, own in zip(tasks, prompts, continuations, strict=True):
            self.check_length(task, len(prompt), max(map(len, own)))
        packed = pack_rows([task.task_id for task in tasks], prompts, continuations, n_separate)
        self.check_vocabulary(packed.tokens)
        return packed

    def check_vocabulary(self, tokens: NDArray[np.int64]) -> None:
        """Refuse tokens that the model has no embedding for.

        :raises ValueError: tokenizer and model do not belong together
        """
        if tokens.size and tokens.max() >= self._vocabulary:
            raise ValueError(
                f"the tokenizer gives token {tokens.max()}, the model knows {self._vocabulary}: they do not belong "
                "together"
            )


def pack_rows(
    task_ids: Iterable[int | str],
    prompts: Sequence[list[int]],
    continuations: Sequence[Sequence[list[int]]],
    n_separate: int = 0,
) -> EncodedTasks:
    """Token rows out of tokens.

    :param task_ids: of each task
    :param prompts: tokens of each task's prompt, at least one
    :param continuations: tokens of each task's continuations, at least one each
    :param n_separate: see :class:`EncodedTasks`
    """
    rows = [prompt + list(ids) for prompt, own in zip(prompts, continuations, strict=True) for ids in own]
    row_prompt = [len(prompt) for prompt, own in zip(prompts, continuations, strict=True) for _ in own]
    length = np.array([len(row) for row in rows], dtype=np.int64)
    return EncodedTasks(
        task_ids=tuple(task_ids),
        tokens=np.array([token for row in rows for token in row], dtype=np.int64),
        row_start=np.cumsum(length) - length,
        row_length=length,
        row_prompt=np.array(row_prompt, dtype=np.int64),
        first_row=np.concatenate([[0], np.cumsum([len(own) for own in continuations])]).astype(np.int64),
        n_separate=n_separate,
    )


def _rendered(tokenizer: Any, messages: Prompt, task_id: int | str) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:  # templates refuse roles they do not know, or an order they do not like
        raise ValueError(f"prompt {task_id!r}: the chat template refuses it: {error}") from None
    return text


def without_implied(continuations: list[list[int]]) -> list[list[int]]:
    """Continuations, shortest first, that do not begin with another one; of equal ones the first."""
    kept: list[list[int]] = []
    for ids in sorted(continuations, key=len):
        if not any(ids[: len(short)] == short for short in kept):
            kept.append(ids)
    return kept
