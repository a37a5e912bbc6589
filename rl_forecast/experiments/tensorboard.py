"""What a run leaves in TensorBoard beside its curves: charts of all methods, final metrics, settings, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.logger import HParam, Image

from rl_forecast.experiments.event_files import outcome_logger

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure
    from stable_baselines3.common.logger import Logger

    from rl_forecast.experiments.event_files import Layout
    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["GRIDWORLD_LAYOUT", "LANGUAGE_LAYOUT", "drawn", "record_outcome", "record_sweep"]

#: Charts of the Custom Scalars page, each with all agents of all runs: heading of a chart to the log key in it.
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


def drawn(figure: Figure) -> Image:
    """A figure as TensorBoard shows it, drawn once for however many agents' files it goes into.

    :param figure: the figure
    """
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
    :param step: environment steps at the end of training
    :param hyper_parameters: what distinguishes the agent, flat
    :param metrics: final metrics; those that are undefined are left out
    :param figures: name to picture, see :func:`drawn`
    """
    finals = {f"final/{name}": float(value) for name, value in metrics.items() if value is not None}
    for tag, value in finals.items():
        logger.record(tag, value)
    plain = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in hyper_parameters.items()
    }
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
