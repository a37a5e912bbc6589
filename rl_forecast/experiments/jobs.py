"""Which job a command line asks for: the gridworld's or the language model's.

The first of these decides: ``--job NAME``; the ``job:`` of a ``--config`` file, the last one winning; the ``job:`` of
the preset; ``--model`` or ``--prompts``, which only language models have; else the gridworld's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from rl_forecast.errors import InputError, unknown_name
from rl_forecast.experiments.command_line import normalised, preset_path
from rl_forecast.experiments.language_model.config import LanguageConfig
from rl_forecast.experiments.settings import Config

__all__ = ["JOBS", "AnyConfig", "config_class", "job_of_file"]

AnyConfig = Config | LanguageConfig

#: Name of a job to its configuration.
JOBS: dict[str, type[Config] | type[LanguageConfig]] = {"gridworld": Config, "language": LanguageConfig}


def config_class(argv: list[str]) -> type[Config] | type[LanguageConfig]:
    """Configuration of the job that a command line asks for.

    :param argv: command-line arguments
    :raises InputError: an unknown job
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--preset", "--job", "--model", "--prompts"):
        parser.add_argument(name, nargs="?")
    parser.add_argument("--config", action="append", nargs="?", default=[])
    given = parser.parse_known_args(normalised(argv))[0]
    named = given.job
    for file in reversed(given.config):
        named = named or (job_of_file(Path(file)) if file else None)
    path = preset_path(given.preset) if given.preset else None
    if named is None and path is not None:
        named = job_of_file(path) or "gridworld"
    if named is None:
        named = "language" if given.model or given.prompts else "gridworld"
    if named not in JOBS:
        raise InputError(unknown_name("job", str(named), JOBS))
    return JOBS[named]


def job_of_file(path: Path) -> str | None:
    """The ``job:`` of a configuration file; ``None`` where it names none or cannot be read (its reader says why)."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return content.get("job") if isinstance(content, dict) else None
