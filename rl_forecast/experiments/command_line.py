"""Command lines from configuration dataclasses: presets, YAML files and ``--field value``, with one-line errors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from rl_forecast.errors import InputError, closest, unknown_name
from rl_forecast.experiments.settings import RENAMED, Config, LanguageConfig, check_config

ConfigT = TypeVar("ConfigT")
_PRESETS = Path(__file__).parent / "presets"

#: Name of a job to the configuration of its runs.
RUNS: dict[str, type[Config] | type[LanguageConfig]] = {"gridworld": Config, "language": LanguageConfig}


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser without abbreviations, every error of which is a :class:`InputError`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise InputError(message) from ex


def parse_job(
    classes: Mapping[str, type[ConfigT]], argv: list[str], prog: str, texts: dict[str, tuple[str, str]]
) -> ConfigT:
    """Configuration of a run or a sweep of either job.

    The first of these decides which job it is: ``--job``; the last ``--config`` file that names one; the preset;
    ``--model`` or ``--prompts``, which only language models have; else it is the gridworlds'.

    :raises InputError: as for :func:`parse_config`
    """
    given, _ = take_options(argv, "job", "preset", "config", "model", "prompts")
    files = [Path(name) for name in given["config"]]
    named = given["job"][-1:] or [job for job in map(_job_of, reversed(files)) if job]
    if not named and given["preset"]:
        named = [_job_of(_preset_path(given["preset"][-1])) or "gridworld"]
    job = named[0] if named else "language" if given["model"] or given["prompts"] else "gridworld"
    if job not in classes:
        raise InputError(unknown_name("job", job, classes))
    return parse_config(classes[job], argv, prog, *texts[job])


def read_config(path: Path, classes: Mapping[str, type[ConfigT]], without: Collection[str] = ()) -> ConfigT:
    """Configuration that a run or a sweep has written, of this version or an earlier one.

    :raises InputError: it cannot be read, in one line
    """
    cls = classes["language" if _job_of(path) == "language" else "gridworld"]
    try:
        settings: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = {name: value for name, value in settings.items() if name not in without}
        for old, new in RENAMED.items():
            section, _, name = old.rpartition(".")
            for run in (settings, settings.get("run") or {}):
                if isinstance(run.get(section), dict) and name in run[section]:
                    target, _, new_name = new.rpartition(".")
                    place = run.setdefault(target, {}) if target else run
                    place[new_name] = run[section].pop(name)
        parser = Parser()
        parser.add_class_arguments(cls, nested_key=None)
        config = _instance(parser, cls, parser.parse_object(settings))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    except (InputError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {_one_line(str(error), _option_names(cls))}") from error
    check_config(getattr(config, "run", config))
    return config


def parse_config(cls: type[ConfigT], argv: list[str], prog: str, description: str, epilog: str = "") -> ConfigT:
    """Resolve a configuration: preset, then ``--config`` files, then options, the later ones winning.

    :raises InputError: unknown name, wrong value or unreadable file, in one line naming the closest valid one
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s [--preset NAME] [--config FILE.yaml] [--field value ...]",
        description=description,
        epilog=f"Presets: {', '.join(preset_names())}. Dashes and underscores in names are the same. {epilog}".strip(),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below")
    given, options = take_options(argv, "preset", "config")
    preset = given["preset"][-1:]
    files = [*map(str, map(_preset_path, preset)), *given["config"]]
    return parse_fields(
        parser, cls, [f"--config={file}" for file in files] + [f"--preset={p}" for p in preset] + options
    )[0]


def parse_fields(
    parser: Parser, cls: type[ConfigT], argv: list[str], defaults: ConfigT | None = None
) -> tuple[ConfigT, Any]:
    """Parse the fields of a dataclass beside a parser's own arguments.

    :return: the dataclass, and the namespace with the parser's own arguments
    :raises InputError: as for :func:`parse_config`
    """
    options = _option_names(cls)
    own = {name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")}
    argv = _spelt_out(_normalised(argv), options, own)
    parser.add_class_arguments(cls, nested_key=None)
    if defaults is not None:
        parser.set_defaults(asdict(defaults))  # type: ignore[call-overload]
    try:
        namespace = parser.parse_args(argv)
        config = _instance(parser, cls, namespace)
    except (InputError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise InputError(_one_line(str(error), options)) from error
    if cls in RUNS.values() or defaults is not None:
        check_config(config)
    return config, namespace


def _instance(parser: Parser, cls: type[ConfigT], namespace: Any) -> ConfigT:
    made = parser.instantiate(namespace)
    return cls(**{f.name: getattr(made, f.name) for f in fields(cls)})  # type: ignore[arg-type]


def take_options(argv: list[str], *names: str) -> tuple[dict[str, list[str]], list[str]]:
    """Options that are looked at before the others are parsed.

    :return: name to the values given, ``""`` for a value that is missing; and all other arguments
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", action="append", nargs="?", const="", default=[])
    given, others = parser.parse_known_args(_normalised(argv))
    return vars(given), others


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def _preset_path(name: str) -> Path:
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}: {_hint(name, preset_names())}")
    return _PRESETS / f"{name}.yaml"


def _job_of(path: Path) -> str | None:
    """The ``job:`` of a configuration file; ``None`` where it names none or cannot be read (its reader says why)."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return content.get("job") if isinstance(content, dict) else None


def _option_names(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all fields of a configuration, with their types, nested ones after their group."""
    names: dict[str, Any] = {}
    for name, kind in get_type_hints(cls).items():
        if is_dataclass(kind):
            names |= _option_names(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            names[prefix + name] = kind
    return names


def _normalised(argv: list[str]) -> list[str]:
    """``--log-dir`` is ``--log_dir``; values are left alone."""
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument)
    return result


def _spelt_out(argv: list[str], options: dict[str, Any], own: set[str]) -> list[str]:
    """``--group a=1,b=2`` is ``--group.a 1 --group.b 2``; misspelt options are refused with the closest name."""
    groups = {name.rpartition(".")[0] for name in options} - {""}
    result: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        group = name[2:]
        if not name.startswith("--"):
            result.append(argument)
        elif group not in groups:
            if group not in options and group not in own:
                raise InputError(f"unknown option --{group}: {_closest_option(group, options)}")
            result.append(argument)
        else:
            value = value if equals else next(arguments, "")
            pairs = [pair.partition("=") for pair in value.split(",")]
            if not all(key and sign for key, sign, _ in pairs):
                first = next(option for option in options if option.startswith(f"{group}."))
                leaf = first.removeprefix(f"{group}.")
                raise InputError(f"{name} takes settings such as {name} {leaf}=..., not {value!r}")
            spelt = [part for key, _, setting in pairs for part in (f"{name}.{key.replace('-', '_')}", setting)]
            result += _spelt_out(spelt, options, own)
    return result


def _closest_option(name: str, options: dict[str, Any]) -> str:
    """Closest dotted name, by the whole name or by its last part."""
    leaf = name.rpartition(".")[2]
    near = [option for option in options if option.rpartition(".")[2] == leaf]
    near = near or [option for option in [RENAMED.get(name) or closest(name, options)] if option]
    shown = " or ".join(f"'--{option}'" for option in near)
    return f"did you mean {shown}?" if near else "see --help for the valid ones"


def _hint(name: str, options: Iterable[str]) -> str:
    """The closest valid name, or all of them if none is close."""
    near = closest(name, options)
    return f"did you mean {near!r}?" if near else f"choose one of {', '.join(options)}"


def _literals(kind: Any) -> list[str]:
    """Values of a ``Literal``, or of the one inside a tuple."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for inner in get_args(kind) for value in _literals(inner)]


def _one_line(message: str, options: dict[str, Any]) -> str:
    """Word jsonargparse's errors in one line, with the closest valid value or name."""
    text = " ".join(message.split())
    if f"forecast.{text.partition(' ')[0]}" in options:  # ForecastSettings checks itself, wherever it stands
        return f"forecast.{text}"
    unexpected = r"Group '([\w.]*)' does not accept option '([\w.]+)'", r"Key '()([\w.]+)' is not expected"
    for group in filter(None, (re.search(pattern, text) for pattern in unexpected)):
        name = f"{group[1]}.{group[2]}".strip(".")
        return f"unknown field {name!r}: {_closest_option(name, options).replace('--', '')}"
    value = re.search(r'Parser key "([\w.]+)":? (.*?)\.? Got value: (.*)$', text)
    if value and value[1] in options:
        choices = _literals(options[value[1]])
        hint = _hint(value[3].strip("'\""), choices) if choices else value[2].replace("<class '", "").replace("'>", "")
        return f"--{value[1]}: invalid value {value[3]!r}: {hint}"
    union = re.search(r'Parser key "([\w.]+)":? Does not validate against any .*Given value: (.*)$', text)
    if union and union[1] in options:
        kinds = [repr(v) for v in _literals(options[union[1]])]
        kinds += [arg.__name__ for arg in get_args(options[union[1]]) if isinstance(arg, type)]
        return f"--{union[1]}: invalid value {union[2]!r}: expected {' or '.join(kinds)}"
    return text
