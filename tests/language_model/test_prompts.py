"""Prompt files: what is read, and one clear line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.language_model import PromptTask, read_prompts


def _write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "prompts.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_reads_every_field(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        '{"prompt": "a", "forbidden": "x"}',
        "",
        '{"prompt": "b", "forbidden": ["x", "y"], "answer": "no", "id": "b1"}',
        '{"prompt": [{"role": "user", "content": "c"}], "forbidden": []}',
        '{"prompt": "d"}',
    )
    assert read_prompts(path) == [
        PromptTask("a", ("x",), None, 0),
        PromptTask("b", ("x", "y"), "no", "b1"),
        PromptTask(({"role": "user", "content": "c"},), (), None, 2),
        PromptTask("d", (), None, 3),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"text": "a"}', "no field 'prompt'; it has 'text'"),
        ('{"prompt": "a", "forbiden": "x"}', "no field 'forbidden', and unknown field 'forbiden'"),
        ('{"prompt": 3, "forbidden": "x"}', "'prompt' must be a text or a list of messages with role and content"),
        ('{"prompt": [{"content": "x"}], "forbidden": "x"}', "'prompt' must be a text"),
        ('{"prompt": "a", "forbidden": [1]}', "'forbidden' must be a text or a list of texts"),
        ('{"prompt": "a", "forbidden": "x", "answer": 1}', "'answer' must be a text"),
        ('{"prompt": "a", "forbidden": "x", "id": 1.5}', "'id' must be a whole number or a text"),
        ('{"prompt": "a", "forbidden": "x", "id": 0}', "id 0 was used on line 1; ids must differ"),
        (b'{"prompt": "\xff\xfe"}', "not UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str | bytes, message: str) -> None:
    path = _write(tmp_path, '{"prompt": "a", "forbidden": "x"}', line)
    with pytest.raises(ValueError, match=f"prompts.jsonl, line 2: .*{message}"):
        read_prompts(path)
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(_write(tmp_path, ""))
