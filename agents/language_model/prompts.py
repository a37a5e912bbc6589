"""Prompts with what must not follow them: as text, from a file, and as tokens.

**The boundary rule.** A model continues the prompt's own tokens. Where ``tokenize(prompt + continuation)`` begins with
them, the rest is the continuation. Where letters merge across the boundary, the continuation is tokenized by itself,
provided that this spells the same text; where it does not, the task is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Plain text, or the messages of a chat, ``{"role": ..., "content": ...}``, as a chat template takes them.
Prompt = str | Sequence[Mapping[str, Any]]

_FIELDS = ("prompt", "forbidden", "answer", "id")


@dataclass(frozen=True)
class PromptTask:
    """A prompt and the continuations that count as failure.

    :param prompt: text, or chat messages for the tokenizer's chat template
    :param forbidden: texts; the model fails where its output begins with any of them. May be empty for a judge
    :param answer: the right output, for supervised training
    :param task_id: distinguishes the tasks of a file or a pool

    >>> PromptTask("tell me the", forbidden=(" password", " key"), task_id=3).forbidden
    (' password', ' key')
    """

    prompt: Prompt
    forbidden: tuple[str, ...] = ()
    answer: str | None = None
    task_id: int | str = 0


def read_prompts(path: str | Path) -> list[PromptTask]:
    """Tasks out of a jsonl file: one object a line with ``prompt``, ``forbidden``, and if wanted ``answer`` and ``id``.

    ``prompt`` is a string or a list of ``{"role", "content"}``; ``forbidden`` a string or a list of strings. Without
    ``id`` the line's position, counted from 0, is the id.

    :raises ValueError: one line that names the file, the line and the fix
    :raises OSError: the file cannot be read
    """
    tasks: list[PromptTask] = []
    line_of: dict[int | str, int] = {}
    for number, raw in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            task = _task(raw, len(tasks))
            if task.task_id in line_of:
                raise ValueError(
                    f"id {task.task_id!r} was used on line {line_of[task.task_id]}; ids must differ (leave id out to "
                    "number the lines)"
                )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        line_of[task.task_id] = number
        tasks.append(task)
    if not tasks:
        raise ValueError(f"{path} holds no prompt: write one JSON object a line with prompt and forbidden")
    return tasks


def _task(raw: bytes, position: int) -> PromptTask:
    try:
        row = json.loads(raw)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({getattr(error, 'msg', 'nested too deeply')})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object with prompt and forbidden")
    unknown = [name for name in row if name not in _FIELDS]
    if "prompt" not in row:
        raise ValueError(f"no field 'prompt'; it has {', '.join(map(repr, row)) or 'none'}")
    if unknown and "forbidden" not in row:
        # a mistyped 'forbidden' must not turn a scored prompt into one without failures
        raise ValueError(f"no field 'forbidden', and unknown field {unknown[0]!r}; fields are {', '.join(_FIELDS)}")
    prompt, forbidden, answer = row["prompt"], row.get("forbidden", []), row.get("answer")
    task_id = row.get("id", position)
    forbidden = [forbidden] if isinstance(forbidden, str) else forbidden
    is_chat = isinstance(prompt, list) and all(isinstance(m, dict) and "role" in m for m in prompt) and len(prompt) > 0
    is_texts = isinstance(forbidden, list) and all(isinstance(text, str) for text in forbidden)
    is_id = isinstance(task_id, int | str) and not isinstance(task_id, bool)
    for name, is_right, kind in (
        ("prompt", isinstance(prompt, str) or is_chat, "a text or a list of messages with role and content"),
        ("forbidden", is_texts, "a text or a list of texts"),
        ("answer", answer is None or isinstance(answer, str), "a text"),
        ("id", is_id, "a whole number or a text"),
    ):
        if not is_right:
            shown = json.dumps(row[name])
            raise ValueError(f"{name!r} must be {kind}, it is {shown if len(shown) <= 60 else shown[:57] + '...'}")
    return PromptTask(prompt if isinstance(prompt, str) else tuple(prompt), tuple(forbidden), answer, task_id)


@dataclass(frozen=True)
class EncodedTask:
    """A task as tokens: of the prompt, at least one, and of the continuations, none of which begins another."""

    task_id: int | str
    prompt: list[int]
    continuations: list[list[int]]


class TaskEncoder:
    """Turns tasks into tokens of any Hugging Face tokenizer.

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

        :raises ValueError: duplicate ids; no tokens, unknown ones or too many; a continuation that the boundary changes
        """
        tasks = list(tasks)
        for task_id, times in Counter(task.task_id for task in tasks).items():
            if times > 1:
                raise ValueError(f"task id {task_id!r} occurs twice: ids must differ")
        for task in tasks:
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
                fix = "begin it with a space or a new line, or end the prompt earlier"
                raise ValueError(f"{name} has no tokens of its own after this prompt; {fix}")
        self._check(found, name)
        return found

    def prompts(self, tasks: Sequence[PromptTask]) -> list[list[int]]:
        """Tokens of the prompts alone, as the model is given them before it answers."""
        found = [
            self._begin_tokens(task.prompt) + ids
            for task, ids in zip(tasks, self._tokens([self._text(task) for task in tasks]), strict=True)
        ]
        for task, ids in zip(tasks, found, strict=True):
            self._check(ids, f"prompt {task.task_id!r}", may_be_unknown=True)
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
            fix = "give the prompt as text, or set tokenizer.chat_template"
            raise ValueError(f"prompt {task.task_id!r} is a chat, and this tokenizer has no chat template: {fix}")
        from jinja2 import TemplateError

        try:
            chat = list(task.prompt)
            text: str = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # templates refuse roles they do not know, or an order they do not like
            raise ValueError(f"prompt {task.task_id!r}: the chat template refuses it: {error}") from None
        return text

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        found = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
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

    def _check(self, ids: list[int], name: str, may_be_unknown: bool = False) -> None:
        if not ids:
            raise ValueError(f"{name} tokenizes to nothing")
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        if unknown is not None and unknown in ids and not may_be_unknown:
            raise ValueError(f"{name} holds something that this tokenizer does not know")
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
