"""Prompts and forbidden continuations as tokens, made once and scored many times.

**The boundary rule.** A model answers a prompt by continuing the prompt's own tokens, so these are fixed; what follows
them is the continuation's tokens. Where ``tokenize(prompt + continuation)`` begins with the prompt's tokens, the rest
of it is the continuation. Where the tokenizer merges letters across the boundary, the continuation is tokenized by
itself, provided that this spells the same text; where it does not, the task is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.language_model.prompts import Prompt, PromptTask

__all__ = ["EncodedTask", "TaskEncoder", "without_implied"]


@dataclass(frozen=True)
class EncodedTask:
    """A task as tokens.

    :param task_id: its id
    :param prompt: tokens of the prompt, at least one
    :param continuations: tokens of each forbidden continuation, none of which begins another
    """

    task_id: int | str
    prompt: list[int]
    continuations: list[list[int]]


class TaskEncoder:
    """Turns tasks into tokens.

    :param tokenizer: any Hugging Face tokenizer
    :param context: most tokens that the model takes; None for no limit
    :param vocabulary: number of tokens the model knows
    """

    def __init__(self, tokenizer: Any, context: int | None, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._vocabulary = vocabulary
        self._begin: list[int] | None = None

    def encode(self, tasks: Iterable[PromptTask]) -> list[EncodedTask]:
        """Tokens of all tasks.

        A continuation that begins with another one of the same task (in tokens) is left out: where it is produced, so
        is the shorter one, and P(any of them) is exact only over continuations none of which begins another.

        :raises ValueError: duplicate ids, an empty prompt or continuation, a continuation with unknown tokens or one
            that does not survive the boundary, more tokens than the context, tokens that the model does not know
        """
        tasks = list(tasks)
        seen: set[int | str] = set()
        for task in tasks:
            if task.task_id in seen:
                raise ValueError(f"task id {task.task_id!r} occurs twice: ids must differ")
            seen.add(task.task_id)
            if not task.forbidden:
                raise ValueError(f"prompt {task.task_id!r} has no forbidden text to score")
        prompts = self.prompts(tasks)
        joint = iter(self._tokens([self._text(task) + text for task in tasks for text in task.forbidden]))
        encoded = []
        for task, prompt in zip(tasks, prompts, strict=True):
            found = without_implied([self._after(task, prompt, text, next(joint)) for text in task.forbidden])
            self.check_length(task, len(prompt), max(map(len, found)))
            encoded.append(EncodedTask(task.task_id, prompt, found))
        return encoded

    def _after(self, task: PromptTask, prompt: list[int], text: str, joint: list[int]) -> list[int]:
        """Tokens of a continuation by the boundary rule; ``joint`` are those of prompt and continuation together."""
        whole = self._begin_tokens(task.prompt) + joint
        name = f"prompt {task.task_id!r}: forbidden text {text!r}"
        if whole[: len(prompt)] == prompt:
            found = whole[len(prompt) :]
        else:
            found = self._tokens([text])[0]
            if self._tokenizer.decode(prompt + found) != self._tokenizer.decode(whole):
                raise ValueError(
                    f"{name} has no tokens of its own after this prompt; begin it with a space or a new line, or end "
                    "the prompt earlier"
                )
        self._check(found, name)
        return found

    def prompts(self, tasks: Sequence[PromptTask]) -> list[list[int]]:
        """Tokens of the prompts alone, as the model is given them before it answers."""
        found = self._tokens([self._text(task) for task in tasks])
        for i, task in enumerate(tasks):
            found[i] = self._begin_tokens(task.prompt) + found[i]
            if not found[i]:
                raise ValueError(f"prompt {task.task_id!r} tokenizes to nothing: a model needs at least one token")
            self._check_vocabulary(found[i])
        return found

    def check_length(self, task: PromptTask, n_prompt: int, n_continuation: int) -> None:
        """Refuse a prompt and a continuation that are longer together than the context."""
        if self._context is not None and n_prompt + n_continuation > self._context:
            raise ValueError(
                f"prompt {task.task_id!r} has {n_prompt} tokens and its continuation {n_continuation}: together more "
                f"than the context of {self._context}"
            )

    def continuation(self, text: str) -> list[int]:
        """Tokens of a text by itself, as it stands in the middle of an output."""
        ids = self._tokens([text])[0]
        self._check(ids, f"text {text!r}")
        return ids

    def _text(self, task: PromptTask) -> str:
        if isinstance(task.prompt, str):
            return task.prompt
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"prompt {task.task_id!r} is a chat, and this tokenizer has no chat template: give the prompt as text, "
                "or set tokenizer.chat_template"
            )
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                list(task.prompt), tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:  # templates refuse roles they do not know, or an order they do not like
            raise ValueError(f"prompt {task.task_id!r}: the chat template refuses it: {error}") from None
        return text

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [list(ids) for ids in found]

    def _begin_tokens(self, prompt: Prompt) -> list[int]:
        """What the tokenizer puts before a text, such as <s>; a chat template has written its own."""
        if not isinstance(prompt, str):
            return []
        if self._begin is None:
            plain = self._tokens(["a"])[0]
            full = list(self._tokenizer(["a"], verbose=False)["input_ids"][0])
            starts = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
            self._begin = full[: starts[0]] if plain and starts else []
        return self._begin

    def _check(self, ids: list[int], name: str) -> None:
        if not ids:
            raise ValueError(f"{name} tokenizes to nothing")
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        if unknown is not None and unknown in ids:
            raise ValueError(f"{name} holds something that this tokenizer does not know")
        self._check_vocabulary(ids)

    def _check_vocabulary(self, ids: list[int]) -> None:
        if max(ids) >= self._vocabulary:
            raise ValueError(
                f"the tokenizer gives token {max(ids)}, the model knows {self._vocabulary}: they do not belong together"
            )


def without_implied(continuations: list[list[int]]) -> list[list[int]]:
    """Continuations, shortest first, that do not begin with another one; of equal ones the first."""
    kept: list[list[int]] = []
    for ids in sorted(continuations, key=len):
        if not any(ids[: len(short)] == short for short in kept):
            kept.append(ids)
    return kept
