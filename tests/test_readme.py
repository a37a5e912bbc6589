"""What README and docs show: snippets run, command lines parse, links and their anchors lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from rl_forecast import cli
from rl_forecast.commands import shared
from rl_forecast.errors import InputError
from rl_forecast.experiments import command_line
from rl_forecast.experiments.gridworld import import_agent
from rl_forecast.experiments.run_folder import RunFolder
from tests.forked import run_module

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [Path("README.md"), *sorted(p.relative_to(ROOT) for p in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def _text(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _snippets(page: Path) -> list[str]:
    return [body for language, body in FENCE.findall(_text(page)) if language == "python"]


# -- Python ----------------------------------------------------------------------------------------------------------

# Each snippet of the README stands alone; those of a page are run one after another.
SCRIPTS = {f"README {i}: {script.splitlines()[0]}": script for i, script in enumerate(_snippets(PAGES[0]))}
SCRIPTS |= {str(page): "\n".join(_snippets(page)) for page in PAGES[1:] if _snippets(page)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_snippets_run_and_print(name: str, tmp_path: Path) -> None:
    if name == "docs/scoring.md":
        _save_model_and_prompts(tmp_path)
    (tmp_path / "snippets.py").write_text(SCRIPTS[name], encoding="utf-8")
    result = run_module("snippets", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() or "print(" not in SCRIPTS[name]


def _save_model_and_prompts(folder: Path) -> None:
    """The reader's own: ``model/`` and ``prompts.jsonl``."""
    import json

    from envs.password_game import PasswordGame, make_model, make_tokenizer

    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    attacks = PasswordGame().attacks(np.arange(200))
    rows = [{"prompt": p, "forbidden": f} for p, f in zip(attacks.prompt, attacks.forbidden, strict=True)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_snippets_were_found() -> None:
    assert len(SCRIPTS) >= 7


# -- command lines ---------------------------------------------------------------------------------------------------

_COMMAND = re.compile(r"(?:^|[\s;])(?:rl-forecast|-m\s+rl_forecast(?:\.(\w+))?)(?=\s|$)(.*)", flags=re.DOTALL)
_MAKE_TRAIN = re.compile(r"make train ARGS=\"(.*?)\"")


def _shown_commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Command lines of rl-forecast as arguments, and whether they are whole: lines of a block are, spans may not be."""
    text = _text(page)
    blocks = [body for language, body in FENCE.findall(text) if language in ("", "bash")]
    prose = FENCE.sub("", text)
    lines = [(line, True) for body in blocks for line in body.splitlines()]
    lines += [(line, True) for line in prose.splitlines() if line.startswith("    ")]
    lines += [(span, False) for span in re.findall(r"`([^`]+)`", prose)]
    for line, is_whole in lines:
        code = line.partition(" #")[0]
        made = _MAKE_TRAIN.search(code)
        found = _COMMAND.search(code)
        if made:
            yield ["train", *shlex.split(made[1])], is_whole
        elif found:
            yield [*filter(None, [found[1]]), *shlex.split(found[2])], is_whole


COMMANDS = sorted({(tuple(argv), is_whole) for page in PAGES for argv, is_whole in _shown_commands(page)})


class _Parsed(BaseException):
    """The command line was understood; what follows would be the work."""


@pytest.mark.parametrize(("argv", "is_whole"), COMMANDS, ids=[" ".join(c) or "rl-forecast" for c, _ in COMMANDS])
def test_command_line_is_understood(
    argv: tuple[str, ...], is_whole: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known: set[str] = set()
    for cls in (shared.Parser, command_line.Parser):
        monkeypatch.setattr(cls, "parse_args", _parse_and_stop(cls.__mro__[1].parse_args, known))
    monkeypatch.setattr(RunFolder, "open", _stop)  # the run that a line resumes is the reader's
    monkeypatch.setattr(import_agent, "check_trust", lambda path, trust: None)
    # A number where the shell would put one.
    arguments = ["0" if a.startswith("$") else a for a in argv]
    if not arguments:
        return
    try:
        code = cli.main(arguments)
    except _Parsed:
        return
    except SystemExit as end:  # --help
        code = end.code
    error = capsys.readouterr().err
    if is_whole or "unknown" in error or "unrecognized" in error:
        assert code == 0, error
    else:  # names an option and leaves out the rest, so it must be one of the command's
        assert {a.partition("=")[0] for a in arguments if a.startswith("--")} <= known, error


def _parse_and_stop(original: Any, known: set[str]) -> Any:
    def parse_args(self: Any, args: Any = None, *more: Any, **settings: Any) -> NoReturn:
        known.update(name for action in self._actions for name in action.option_strings)
        original(self, args, *more, **settings)
        raise _Parsed

    return parse_args


def _stop(*_: object) -> NoReturn:
    raise _Parsed


def test_command_lines_were_found_and_wrong_ones_are_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len([argv for argv, is_whole in COMMANDS if is_whole]) >= 30
    assert {argv[0] for argv, _ in COMMANDS if argv} >= set(cli.COMMANDS)
    for wrong in ("forecast a.csv --no-such-option 1", "forecast --no-such-option", "train --no-such-option 1"):
        for is_whole in (True, False):
            with pytest.raises((AssertionError, InputError)):
                test_command_line_is_understood(tuple(wrong.split()), is_whole, monkeypatch, capsys)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_other_scripts_that_are_named_exist(page: Path) -> None:
    for module in re.findall(r"python -m (benchmarks\.\w+)", _text(page)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for script in re.findall(r"python ((?:benchmarks|docs|examples)/\w+\.py)", _text(page)):
        assert (ROOT / script).is_file(), script


# -- links -----------------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, no punctuation, a hyphen for each space, repeats numbered."""
    anchors: set[str] = set()
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        anchors.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", _text(page))):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        path = ROOT / page.parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {link}"
        assert not anchor or anchor in _anchors(path), f"{page}: {link}: the headings are {sorted(_anchors(path))}"


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What `x` *is*, and isn't\n```\n# no heading\n```\n## A – b\n## A\n## A\n", encoding="utf-8")
    assert _anchors(page) == {"what-x-is-and-isnt", "a--b", "a", "a-1"}
