"""TensorBoard's files of agents: curves, also of interrupted trainings, charts of all methods, outcomes, figures."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.logger import HParam, Image, Logger, TensorBoardOutputFormat
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from rl_forecast.experiments.run_folder import RunFolder

#: Category to heading of a chart to the log key it shows.
Layout = dict[str, dict[str, str]]

#: Charts of the Custom Scalars page, each with all agents of all runs.
GRIDWORLD_LAYOUT: Layout = {
    "methods side by side (gridworlds)": {
        "success in training episodes": "rollout/success_rate",
        "|error| on validation tasks, psi": "forecast/absolute_error",
        "error on validation tasks, psi (above 0: forecast too high)": "forecast/error",
        "realised worst of validation tasks, psi": "forecast/realised_worst_psi",
        "mean risk of validation tasks": "forecast/mean_risk",
        "tail scale, psi": "forecast/tail_scale",
    },
    "terms of the methods (gridworlds)": {
        "own term": "train/forecast_loss",
        "its gradient norm": "train/forecast_grad_norm",
        "KL per update": "train/approx_kl",
    },
}
LANGUAGE_LAYOUT: Layout = {
    "methods side by side (language models)": {
        "supervised loss, nats": "train/supervised_loss",
        "worst score of the pool, psi": "train/worst_psi",
        "share of the pool with p > 1 %": "train/share_above_1_percent",
        "tail scale, psi": "train/forecast_tail_scale",
    },
    "terms of the methods (language models)": {
        "own term": "train/forecast_loss",
        "its gradient norm": "train/forecast_grad_norm",
        "anchor": "train/anchor_loss",
    },
}


def training_logger(folder: RunFolder, name: str, layout: Layout, last_step: int = -1) -> Logger:
    """Logger of an agent in training, into ``tensorboard/<name>``.

    :param folder: run folder
    :param name: name of the agent
    :param layout: charts of the Custom Scalars page; TensorBoard shows those of all runs once
    :param last_step: the step at which an interrupted training resumes: what an earlier process wrote of later ones
        does not count any more, and TensorBoard leaves it out
    """
    home = folder.file(f"tensorboard/{name}")
    # Only where there is something to leave out: the entry that says so is a separate step to some readers.
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


def drawn(figure: Figure) -> Image:
    """A figure as TensorBoard shows it, drawn once for however many agents' files it goes into."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # untyped
    canvas.draw()
    return Image(np.asarray(canvas.buffer_rgba())[:, :, :3], "HWC")


def record_outcome(
    logger: Logger,
    step: int,
    hyper_parameters: dict[str, Any],
    metrics: dict[str, Any],
    figures: dict[str, Image],
) -> None:
    """Write the outcome of one agent and close its event file.

    TensorBoard's HParams page shows a metric only if its tag is also recorded as a scalar
    (DLR-RM/stable-baselines3#1298), so every metric is.

    :param logger: the agent's logger
    :param step: training steps at the end
    :param hyper_parameters: what distinguishes the agent, flat
    :param metrics: final metrics; those that are undefined are left out
    :param figures: name to picture, see :func:`drawn`
    """
    finals = {f"final/{name}": float(value) for name, value in metrics.items() if value is not None}
    for tag, value in finals.items():
        logger.record(tag, value)
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hyper_parameters.items()}
    logger.record("hparams", HParam(plain, finals))
    for name, figure in figures.items():
        logger.record(f"final/{name}", figure)
    logger.dump(step)
    logger.close()


def record_sweep(folder: RunFolder, results: pl.DataFrame) -> None:
    """A line of the HParams page for each job of a sweep's comparison; its jobs themselves log nothing.

    :param folder: folder of the sweep
    :param results: one row per world, seed and method: these, ``weight`` and metrics
    """
    for row in results.iter_rows(named=True):
        names = {key: row[key] for key in ("world", "method", "seed")}
        shown = names | {"weight": "none" if row["weight"] is None else f"{row['weight']:g}"}
        metrics = {key: value for key, value in row.items() if key not in shown}
        logger = outcome_logger(folder, "-".join(str(name) for name in names.values()))
        record_outcome(logger, 0, shown, metrics, {})


class _OutputFormat(TensorBoardOutputFormat):
    """SB3's, with settings of the writer that it does not pass on."""

    def __init__(self, folder: str, purge_step: int | None, suffix: str = "") -> None:
        # No traceback of TensorBoard's writing threads: what goes wrong in them is raised again at the next flush.
        if not isinstance(threading.excepthook, _QuietHook):
            threading.excepthook = _QuietHook(threading.excepthook)
        self.writer = SummaryWriter(log_dir=folder, purge_step=purge_step, filename_suffix=suffix)
        self._is_closed = False


class _QuietHook:
    """Exceptions of threads are shown as before, except a full disk or a missing folder in TensorBoard's."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.thread, _AsyncWriterThread) and isinstance(args.exc_value, OSError)):
            self._before(args)
