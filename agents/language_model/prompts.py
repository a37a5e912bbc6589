"""Prompts with what must not follow them: the tasks of a language model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Prompt", "PromptTask", "read_prompts"]

#: Plain text, or the messages of a chat, ``{"role": ..., "content": ...}``, as a chat template takes them.
Prompt = str | Sequence[Mapping[str, Any]]

_FIELDS = ("prompt", "forbidden", "answer", "id")


@dataclass(frozen=True)
class PromptTask:
    """A prompt and the continuations that count as failure.

    :param prompt: text, or chat messages for the tokenizer's chat template
    :param forbidden: texts; the model fails where its output begins with any of them. Empty where a function decides
        what is a failure
    :param answer: the right output, for supervised training; None where there is none
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

    :param path: the file
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
