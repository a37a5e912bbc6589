"""What a run leaves in TensorBoard beside its curves: final metrics, hyper-parameters and the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stable_baselines3.common.logger import Figure, HParam

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure
    from stable_baselines3.common.logger import Logger

__all__ = ["record_outcome"]


def record_outcome(
    logger: Logger,
    step: int,
    hyper_parameters: dict[str, Any],
    metrics: dict[str, Any],
    figures: dict[str, MatplotlibFigure],
) -> None:
    """Write the outcome of one agent and close its event file.

    TensorBoard's HParams page shows a metric only if its tag is also recorded as a scalar
    (DLR-RM/stable-baselines3#1298), so every metric is.

    :param logger: the agent's logger
    :param step: environment steps at the end of training
    :param hyper_parameters: what distinguishes the agent, flat
    :param metrics: final metrics; those that are undefined are left out
    :param figures: name to figure
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
        logger.record(f"final/{name}", Figure(figure, close=False))
    logger.dump(step)
    logger.close()
