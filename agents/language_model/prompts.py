"""Prompts with what must not follow them: the tasks of a language model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ChatMessage", "Prompt", "PromptTask", "read_prompts"]

#: One message of a chat, ``{"role": ..., "content": ...}``, as a tokenizer's chat template takes it.
ChatMessage = Mapping[str, Any]
#: Plain text, or the messages of a chat.
Prompt = str | Sequence[ChatMessage]

_FIELDS = ("prompt", "forbidden", "answer", "id")


@dataclass(frozen=True)
class PromptTask:
    """A prompt and the continuations that count as failure.

    :param prompt: text, or chat messages for the tokenizer's chat template
    :param forbidden: texts; the model fails where its output begins with any of them. Empty where the failure is not a
        fixed text (repeated sampling judged by a function)
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
    with Path(path).open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                task = _task(_json(raw), len(tasks))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if task.task_id in line_of:
                raise ValueError(
                    f"{path}, line {number}: id {task.task_id!r} was used on line {line_of[task.task_id]}; ids must "
                    "differ (leave id out to number the lines)"
                )
            line_of[task.task_id] = number
            tasks.append(task)
    if not tasks:
        raise ValueError(f"{path} holds no prompt: write one JSON object a line with prompt and forbidden")
    return tasks


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({getattr(error, 'msg', 'nested too deeply')})") from None


def _task(row: Any, position: int) -> PromptTask:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object with prompt and forbidden")
    unknown = [name for name in row if name not in _FIELDS]
    if "prompt" not in row:
        raise ValueError(f"no field 'prompt'; it has {', '.join(map(repr, row)) or 'none'}")
    if unknown and "forbidden" not in row:
        # a mistyped 'forbidden' must not turn a scored prompt into one without failures
        raise ValueError(f"no field 'forbidden', and unknown field {unknown[0]!r}; fields are {', '.join(_FIELDS)}")
    forbidden = row.get("forbidden", [])
    forbidden = [forbidden] if isinstance(forbidden, str) else forbidden
    if not isinstance(forbidden, list) or not all(isinstance(text, str) for text in forbidden):
        raise ValueError(f"'forbidden' must be a text or a list of texts, it is {_shown(forbidden)}")
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"'answer' must be a text, it is {_shown(answer)}")
    task_id = row.get("id", position)
    if isinstance(task_id, bool) or not isinstance(task_id, int | str):
        raise ValueError(f"'id' must be a whole number or a text, it is {_shown(task_id)}")
    return PromptTask(_prompt(row["prompt"]), tuple(forbidden), answer, task_id)


def _prompt(value: Any) -> Prompt:
    if isinstance(value, str):
        return value
    is_chat = isinstance(value, list) and value
    if not is_chat or not all(isinstance(message, dict) and "role" in message for message in value):
        raise ValueError(f"'prompt' must be a text or a list of messages with role and content, it is {_shown(value)}")
    return tuple(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
