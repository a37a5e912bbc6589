"""Command lines from configuration dataclasses: presets, YAML files and ``--field value``, with one-line errors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import jsonargparse

from rl_forecast.errors import InputError, closest

__all__ = [
    "Parser",
    "normalised",
    "option_names",
    "parse_config",
    "parse_fields",
    "preset_names",
    "preset_path",
]

ConfigT = TypeVar("ConfigT")


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser without abbreviations, every error of which is a :class:`InputError`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise InputError(message) from ex


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files("rl_forecast.experiments") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def option_names(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all fields of a configuration, with their types, nested ones after their group.

    :param cls: a dataclass
    """
    names: dict[str, Any] = {}
    for name, kind in get_type_hints(cls).items():
        if is_dataclass(kind):
            names |= option_names(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            names[prefix + name] = kind
    return names


def normalised(argv: list[str]) -> list[str]:
    """``--log-dir`` is ``--log_dir``: both spellings of a name are accepted, values are left alone."""
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append(
            (name.replace("-", "_").replace("__", "--", 1) if name.startswith("--") else name) + equals + value
        )
    return result


def parse_config(cls: type[ConfigT], argv: list[str], prog: str, description: str, epilog: str = "") -> ConfigT:
    """Resolve a configuration: preset, then ``--config`` files, then options, the later ones winning.

    :param cls: configuration dataclass with a field ``preset``
    :param argv: command-line arguments
    :param prog: name of the command in its help
    :param description: first lines of the help
    :param epilog: last lines of the help
    :raises InputError: unknown name, wrong value or unreadable file, in one line naming the closest valid one
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s [--preset NAME] [--config FILE.yaml] [--field value ...]",
        description=description,
        epilog=f"Presets: {', '.join(preset_names())}. Dashes and underscores in names are the same. {epilog}".strip(),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below")
    argv = normalised(argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?")
    preset = first.parse_known_args(argv)[0].preset
    if preset is not None and preset not in preset_names():
        raise InputError(f"unknown preset {preset!r}: {_hint(preset, preset_names())}")
    defaults = [] if preset is None else ["--config", str(preset_path(preset))]
    return parse_fields(parser, cls, defaults + argv)[0]


def parse_fields(
    parser: Parser, cls: type[ConfigT], argv: list[str], defaults: ConfigT | None = None
) -> tuple[ConfigT, Any]:
    """Parse the fields of a dataclass beside a parser's own arguments.

    :param parser: parser that already has its own arguments
    :param cls: dataclass whose fields become options
    :param argv: command-line arguments
    :param defaults: values of the fields that are not given, those of the class if ``None``
    :return: the dataclass, and the namespace with the parser's own arguments
    :raises InputError: as for :func:`parse_config`
    """
    options = option_names(cls)
    argv = _spelt_out(normalised(argv), options)
    own = {name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")}
    parser.add_class_arguments(cls, nested_key=None)
    if defaults is not None:
        parser.set_defaults(asdict(defaults))  # type: ignore[call-overload]
    _check_names(argv, options, own)
    try:
        namespace = parser.parse_args(argv)
        instance = parser.instantiate(namespace)
    except (InputError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise InputError(_one_line(str(error), options)) from error
    return cls(**{f.name: getattr(instance, f.name) for f in fields(cls)}), instance  # type: ignore[arg-type]


def preset_path(name: str) -> Path | None:
    """File of a preset; ``None`` if there is none of that name."""
    path = Path(str(resources.files("rl_forecast.experiments") / "presets" / f"{name}.yaml"))
    return path if name in preset_names() else None


def _spelt_out(argv: list[str], options: dict[str, Any]) -> list[str]:
    """``--group a=1,b=2`` is ``--group.a 1 --group.b 2``."""
    groups = {name.rpartition(".")[0] for name in options} - {""}
    result: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name[:2] != "--" or name[2:] not in groups:
            result.append(argument)
            continue
        value = value if equals else next(arguments, "")
        pairs = [pair.partition("=") for pair in value.split(",")]
        if not all(key and sign for key, sign, _ in pairs):
            raise InputError(
                f"{name} takes settings such as {name} {_first_leaf(name[2:], options)}=..., not {value!r}"
            )
        for key, _, setting in pairs:
            result += [f"{name}.{key.replace('-', '_')}", setting]
    return result


def _first_leaf(group: str, options: dict[str, Any]) -> str:
    return next(name.removeprefix(f"{group}.") for name in options if name.startswith(f"{group}."))


def _check_names(argv: list[str], options: dict[str, Any], own: set[str]) -> None:
    """Refuse misspelt options with the closest name before jsonargparse words it less well."""
    groups = {name.rpartition(".")[0] for name in options} - {""}
    known = {*options, *groups, *own}
    for argument in argv:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            if name not in known:
                raise InputError(f"unknown option --{name}: {_closest_option(name, options)}")


def _closest_option(name: str, options: dict[str, Any]) -> str:
    """Closest dotted name, by the whole name or by its last part."""
    leaf = name.rpartition(".")[2]
    same_leaf = [f"'--{option}'" for option in options if option.rpartition(".")[2] == leaf]
    if same_leaf:
        return f"did you mean {' or '.join(same_leaf)}?"
    hint = _hint(name, options)
    if hint.startswith("did you mean"):
        return hint.replace("'", "'--", 1)
    return "see --help for the valid ones"


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
    group = re.search(r"Group '([\w.]*)' does not accept option '([\w.]+)'", text) or re.search(
        r"Key '()([\w.]+)' is not expected", text
    )
    if group:
        name = f"{group[1]}.{group[2]}".strip(".")
        return f"unknown field {name!r}: {_closest_option(name, options).replace('--', '')}"
    value = re.search(r'Parser key "([\w.]+)":? (.*?)\.? Got value: (.*)$', text)
    if value and value[1] in options:
        kind = options[value[1]]
        choices = _literals(kind)
        hint = _hint(value[3].strip("'\""), choices) if choices else value[2].replace("<class '", "").replace("'>", "")
        return f"--{value[1]}: invalid value {value[3]!r}: {hint}"
    union = re.search(r'Parser key "([\w.]+)":? Does not validate against any .*Given value: (.*)$', text)
    if union and union[1] in options:
        kinds = [repr(v) for v in _literals(options[union[1]])]
        kinds += [arg.__name__ for arg in get_args(options[union[1]]) if isinstance(arg, type)]
        return f"--{union[1]}: invalid value {union[2]!r}: expected {' or '.join(kinds)}"
    return text
