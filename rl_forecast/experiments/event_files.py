"""TensorBoard's files of an agent, also of one whose training was interrupted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["Layout", "outcome_logger", "training_logger"]

#: Category to heading of a chart to the log key it shows.
Layout = dict[str, dict[str, str]]


def training_logger(folder: RunFolder, name: str, layout: Layout, last_step: int = -1) -> Logger:
    """Logger of an agent in training, into ``tensorboard/<name>``.

    :param folder: run folder
    :param name: name of the agent
    :param layout: charts of the Custom Scalars page; TensorBoard shows those of all runs once
    :param last_step: the step from which an interrupted training goes on: what an earlier process wrote of later ones
        does not count any more, and TensorBoard leaves it out
    """
    home = folder.file(f"tensorboard/{name}")
    # Only where there is something to leave out: the entry that says so is a step of its own to some readers.
    output = _OutputFormat(str(home), last_step + 1 if home.is_dir() else None)
    charts = {
        category: {heading: ["Multiline", [f"^{key}$"]] for heading, key in keys.items()}
        for category, keys in layout.items()
    }
    output.writer.add_custom_scalars(charts)
    return Logger(str(home), [output])


def outcome_logger(folder: RunFolder, name: str, kind: str = "outcome") -> Logger:
    """Logger of what comes after an agent's training, into a file that replaces one of an earlier process.

    :param folder: run folder
    :param name: name of the agent
    :param kind: what comes, the end of the file's name
    """
    home = folder.file(f"tensorboard/{name}")
    for earlier in home.glob(f"events.*.{kind}"):
        earlier.unlink()
    return Logger(str(home), [_OutputFormat(str(home), None, f".{kind}")])


class _OutputFormat(TensorBoardOutputFormat):
    """SB3's, with settings of the writer that it does not pass on."""

    def __init__(self, folder: str, purge_step: int | None, suffix: str = "") -> None:
        _silence_writer_threads()
        self.writer = SummaryWriter(log_dir=folder, purge_step=purge_step, filename_suffix=suffix)
        self._is_closed = False


def _silence_writer_threads() -> None:
    """No traceback of TensorBoard's writing threads: what goes wrong in them is raised again at the next flush."""
    if isinstance(threading.excepthook, _Hook):
        return
    threading.excepthook = _Hook(threading.excepthook)


class _Hook:
    """Exceptions of threads go where they went, but for a full disk or a folder that is gone."""

    def __init__(self, before: Callable[[threading.ExceptHookArgs], object]) -> None:
        self._before = before

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.thread, _AsyncWriterThread) and isinstance(args.exc_value, OSError)):
            self._before(args)
