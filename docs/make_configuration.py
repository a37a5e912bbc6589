"""Writes ``docs/configuration.md`` from the configuration classes: ``python docs/make_configuration.py``.

The meaning of a field is its line in the class's docstring, which ``--help`` shows too. A test holds the page against
this script.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser

from rl_forecast.experiments.settings import Config, LanguageConfig
from rl_forecast.experiments.sweep.config import MethodConfig, SweepConfig

PAGE = Path(__file__).parent / "configuration.md"

_HEAD = """# Every setting

Written by `python docs/make_configuration.py`; `--help` says the same. A field is an option
(`--fine-tune.n-envs 128`), a key of a `--config` YAML file (`fine_tune: {n_envs: 128}`), and a line of the run folder's
`config.yaml`. Presets come first, then files, then options; later ones win. *own* is the family's own value.
"""


def page() -> str:
    """Markdown of all configurations."""
    parts = [_HEAD]
    for title, command, cls in (
        ("The gridworld job", "python -m rl_forecast.train", Config),
        ("The language-model job", "python -m rl_forecast.train --job language", LanguageConfig),
        ("Sweeps", "python -m rl_forecast.sweep", SweepConfig),
    ):
        parts.append(f"## {title}\n\n`{command}`\n")
        parts += _tables(cls, "")
    parts.append("### One of `methods`\n")
    parts += _tables(MethodConfig, "")
    return "\n".join(parts)


def _tables(cls: type[Any], prefix: str) -> list[str]:
    """One table of a class's own fields, then one for each part of it."""
    documented = [p for c in cls.__mro__ for p in docstring_parser.parse(c.__doc__ or "").params]
    meaning = {p.arg_name: p.description or "" for p in reversed(documented)}
    kinds = get_type_hints(cls)
    own = [f for f in fields(cls) if not is_dataclass(kinds[f.name])]
    rows = [f"| `{prefix}{f.name}` | {_default(f)} | {_cell(meaning.get(f.name, ''))} |" for f in own]
    tables = ["\n".join(["| field | default | meaning |", "|---|---|---|", *rows]) + "\n"]
    for f in fields(cls):
        kind = kinds[f.name]
        # The settings that a sweep's runs share are those of the gridworld job, above.
        if is_dataclass(kind) and f.name != "run":
            assert isinstance(kind, type)
            tables.append(f"### `{prefix}{f.name}`: {(kind.__doc__ or '').strip().splitlines()[0]}\n")
            tables += _tables(kind, f"{prefix}{f.name}.")
    return tables


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(f: Field[Any]) -> str:
    value = f.default_factory() if f.default_factory is not MISSING else f.default
    if value is MISSING:
        return "required"
    if value is None:
        return "*own*" if f.name in _OWN else "null"
    shown = value
    if isinstance(value, tuple):
        shown = ", ".join(str(getattr(item, "name", item)) for item in value)
    return f"`{shown}`" if str(shown) else "empty"


# Fields of a world whose default is the family's.
_OWN = {"severity", "rare_probability", "failure_cost", "size", "horizon"}


def main() -> None:
    """Write it."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
