"""Run folders: made at once, written atomically, held by one process, telling how they came about."""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rl_forecast.errors import InputError, one_line

if TYPE_CHECKING:
    import polars as pl
    import torch

    from rl_forecast.experiments.settings import RunConfig

_RECORDED_PACKAGES: tuple[str, ...] = (
    "rl-forecast",
    "stable-baselines3",
    "gymnasium",
    "minigrid",
    "numpy",
    "scipy",
    "polars",
)
_RECORDED_PACKAGES += ("torch", "transformers", "tokenizers", "peft", "accelerate")
# What is being written has a name that begins so, which tells what a killed process left.
_PARTIAL = ".partial-"
_LOCK, _HOLDER = ".lock", ".holder.json"
# The last file of a run.
_LAST = "timings.json"


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run.

    :param path: the folder
    """

    path: Path

    @classmethod
    def create(
        cls,
        config: RunConfig,
        command: list[str],
        prepare: Callable[[RunFolder], object] = lambda folder: None,
    ) -> RunFolder:
        """Make ``<log_dir>/<preset>-<seed>`` with configuration, command and versions; a counter is added if taken.

        :param config: the configuration
        :param command: the command line
        :param prepare: writes what the run starts from, before there is a run that could be resumed
        :raises InputError: the folder cannot be made
        """
        name = f"{config.preset}-{config.seed}"
        log_dir = Path(config.log_dir)
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            for counter in itertools.count(1):
                path = log_dir / (name if counter == 1 else f"{name}-{counter}")
                with suppress(FileExistsError):
                    path.mkdir()
                    break
        except OSError as error:
            raise InputError(f"cannot make a run folder in {config.log_dir!r}: {error.strerror}") from error
        folder = cls(path)
        folder.write_text("command.txt", shlex.join(command) + "\n")
        folder.write_json("versions.json", _versions())
        prepare(folder)
        # Last: a folder that has it can be resumed.
        settings = json.loads(json.dumps(asdict(config)))  # without tuples
        folder.write_text("config.yaml", yaml.safe_dump(settings, sort_keys=False))
        return folder

    @classmethod
    def open(cls, path: str) -> RunFolder:
        """An existing run folder.

        :raises InputError: there is no run
        """
        folder = cls(Path(path))
        if not (folder.path / "config.yaml").is_file():
            raise InputError(f"{path!r} is not a run folder: it has no config.yaml")
        return folder

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / _LAST).is_file()

    def changed_versions(self) -> list[str]:
        """Packages whose version is another one than the run began with, as ``name was -> is``."""
        try:
            before = json.loads((self.path / "versions.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [f"{name} {before[name]} -> {now}" for name, now in _versions().items() if before.get(name, now) != now]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work on the run alone; what a killed process left half-written is removed first.

        The lock is the operating system's: that of a killed process is free.

        :raises InputError: another process works on the run, or the folder cannot be written
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / _LOCK)
        holder = self.path / _HOLDER
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(f"{str(self.path)!r} is in use{_who(holder)}: wait for that process or end it") from None
        except OSError as error:
            raise InputError(f"cannot write in {str(self.path)!r}: {error.strerror}") from error
        try:
            self._remove_leftovers()
            self.write_json(_HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            with suppress(OSError):
                holder.unlink(missing_ok=True)
                (self.path / _LOCK).unlink(missing_ok=True)
            lock.release()

    def _remove_leftovers(self) -> None:
        for path in sorted(self.path.rglob(f"{_PARTIAL}*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def file(self, name: str) -> Path:
        """Path of a file in the folder; its parent folders are made.

        :raises FileNotFoundError: the folder itself is gone: somebody removed it, and it is not made again
        """
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the run folder is gone", str(self.path))
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write(self, name: str, writer: Callable[[Path], object], is_folder: bool = False) -> Path:
        """Write a file so that it is either whole or absent, and on the disk when this returns.

        :param name: path relative to the run folder
        :param writer: writes its content to the path it is given
        :param is_folder: whether that is a folder, made before; one that is there is replaced
        :raises OSError: the disk is full, the folder is gone, ...: with the name of the file
        """
        target = self.file(name)
        with _disk_errors(target):
            home = Path(tempfile.mkdtemp(dir=target.parent, prefix=_PARTIAL))
            try:
                made = home / target.name
                if is_folder:
                    made.mkdir()
                writer(made)
                for path in (*made.rglob("*"), made):
                    _synchronise(path)
                if is_folder:
                    shutil.rmtree(target, ignore_errors=True)
                os.replace(made, target)
                _synchronise(target.parent)
            finally:
                shutil.rmtree(home, ignore_errors=True)
        return target

    def write_folder(self, name: str, writer: Callable[[Path], object]) -> Path:
        """Write a folder so that it is either whole or absent, see :meth:`write`."""
        return self.write(name, writer, is_folder=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        return self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON with sorted keys; NaN and infinities are refused rather than written as invalid JSON."""
        return self.write_text(name, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Write a parquet table."""
        return self.write(name, table.write_parquet)

    def read_table(self, name: str, hint: str) -> pl.DataFrame:
        """Read a parquet table.

        :raises InputError: it cannot be read; ends in the hint
        """
        import polars as pl

        try:
            return pl.read_parquet(self.path / name)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{self.path / name} cannot be read: {one_line(str(error), 200)}; {hint}") from error

    def write_checkpoint(self, name: str, tensors: dict[str, torch.Tensor], text: dict[str, str]) -> None:
        """Write the state of an agent in training, without a pickle."""
        from safetensors.torch import save_file

        self.write(f"checkpoints/{name}.safetensors", lambda path: save_file(tensors, path, metadata=text))

    def restore_checkpoint(
        self, name: str, restore: Callable[[dict[str, torch.Tensor], dict[str, str]], object]
    ) -> bool:
        """Resume an agent from its state, if there is one.

        :param name: name of the agent
        :param restore: called with what :meth:`write_checkpoint` was given
        :return: whether there is one
        :raises InputError: the file is damaged, or of an agent with other settings
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / f"checkpoints/{name}.safetensors"
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
                restore(tensors, file.metadata())
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = one_line(str(error), 200)
            raise InputError(
                f"checkpoint {path} cannot be used: {reason}; delete it to train this agent again"
            ) from error
        return True

    def metrics(self) -> dict[str, dict[str, Any]]:
        """``metrics.json``: agent name to metrics, under their present names.

        :raises InputError: it cannot be read
        """
        path = self.path / "metrics.json"
        try:
            content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        # Imported here: metrics need polars, and a run folder is made before that is loaded.
        from rl_forecast.experiments.metrics import renamed

        return {agent: renamed(row) for agent, row in content.items()}

    def finish(self, seconds: dict[str, float]) -> None:
        """Write the last file, seconds of each phase: from now on the run is finished."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        self.write_json(_LAST, seconds)


def _who(holder: Path) -> str:
    """By whom, as far as the holder has written it."""
    try:
        known = json.loads(holder.read_text(encoding="utf-8"))
        return f" by process {int(known['pid'])} on {known['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Whatever library wrote: an ``OSError`` with its code and the name of the file that was to be."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    except Exception as error:
        # safetensors and polars tell the code of an operating system's error in their own exceptions' text.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(target)) from error


def _synchronise(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk itself: a machine may stop as suddenly as a process."""
    if os.name == "nt":  # which synchronises neither folders nor files that are open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _RECORDED_PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
