"""TensorBoard's files of an agent, also of one whose training was interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["agent_logger"]


def agent_logger(folder: RunFolder, name: str, last_step: int | None = None) -> Logger:
    """Logger of an agent, into ``tensorboard/<name>``.

    :param folder: run folder
    :param name: name of the agent
    :param last_step: the step an interrupted training goes on from: what an earlier process wrote of later steps does
        not count any more, and TensorBoard leaves it out. ``None`` where everything written before stays
    """
    home = str(folder.file(f"tensorboard/{name}"))
    return Logger(home, [_OutputFormat(home, None if last_step is None else last_step + 1)])


class _OutputFormat(TensorBoardOutputFormat):
    """SB3's, with ``purge_step``, which it does not pass on."""

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.writer = SummaryWriter(log_dir=folder, purge_step=purge_step)
        self._is_closed = False
