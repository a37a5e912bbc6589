"""Run folders: made at once, written atomically, telling how they came about."""

from __future__ import annotations

import json
import os
import platform
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rl_forecast.experiments.config import Config
from rl_forecast.usage import UsageError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RunFolder", "plain"]

_RECORDED_PACKAGES = (
    "rl-forecast",
    "stable-baselines3",
    "gymnasium",
    "minigrid",
    "torch",
    "numpy",
    "scipy",
    "polars",
)


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run.

    :param path: the folder
    """

    path: Path

    @classmethod
    def create(cls, config: Config, command: list[str]) -> RunFolder:
        """Make ``<log_dir>/<preset>-<seed>`` with configuration, command and versions; a counter is added if taken.

        :param config: the resolved configuration
        :param command: the command line as typed
        :raises UsageError: the folder cannot be made
        """
        name = f"{config.preset}-{config.seed}"
        log_dir = Path(config.log_dir)
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            path, counter = log_dir / name, 1
            while True:
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    counter += 1
                    path = log_dir / f"{name}-{counter}"
        except OSError as error:
            raise UsageError(f"cannot make a run folder in {config.log_dir!r}: {error.strerror}") from error
        folder = cls(path)
        folder.write_text("config.yaml", yaml.safe_dump(plain(asdict(config)), sort_keys=False))
        folder.write_text("command.txt", shlex.join(command) + "\n")
        versions = {"python": platform.python_version()} | {name: _version(name) for name in _RECORDED_PACKAGES}
        folder.write_json("versions.json", versions)
        return folder

    @classmethod
    def open(cls, path: str) -> RunFolder:
        """An existing run folder.

        :raises UsageError: there is no run
        """
        folder = cls(Path(path))
        if not (folder.path / "config.yaml").is_file():
            raise UsageError(f"{path!r} is not a run folder: it has no config.yaml")
        return folder

    def file(self, name: str) -> Path:
        """Path of a file in the folder; its parent folders are made."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write(self, name: str, writer: Callable[[Path], object]) -> Path:
        """Write a file so that it is either whole or absent.

        :param name: path relative to the folder
        :param writer: writes its content to the path it is given
        """
        target = self.file(name)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
        os.close(handle)
        try:
            writer(Path(temporary))
            # mkstemp makes files private; a run folder is as readable as any other file of its user.
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return target

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        return self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON with sorted keys; NaN and infinities are refused rather than written as invalid JSON."""
        return self.write_text(name, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Write a parquet table."""
        return self.write(name, table.write_parquet)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
