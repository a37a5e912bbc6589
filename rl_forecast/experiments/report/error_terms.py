"""How each agent's error splits into what no training changes, curvature and rare modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_forecast.experiments.metrics import title_of
from rl_forecast.experiments.report.tables import Cell, Table
from rl_forecast.forecasting.decomposition import decompose_error

if TYPE_CHECKING:
    from rl_forecast.experiments.report.reading import Setting, Unit
    from rl_forecast.forecasting.decomposition import ErrorParts

__all__ = ["error_terms_table"]

#: Heading and attribute of each term.
_TERMS = (
    ("|error|, psi", "total"),
    ("floor x sigma, psi", "untrainable"),
    ("curvature, psi", "curvature"),
    ("rare mode, psi", "rare"),
    ("sigma of common tasks, psi", "sigma"),
)


def error_terms_table(setting: Setting) -> Table | None:
    """Medians over seeds, and below each the median change against plain training on the same seed.

    :param setting: agents of one world
    :return: ``None`` where the scores do not say which tasks are rare, or were forecast by another method
    """
    if any("rare" not in unit.scores.columns or unit.evaluation.forecaster != "gumbel_tail" for unit in setting.units):
        return None
    split = {(unit.agent, unit.seed): _split(unit) for unit in setting.units}
    rows = []
    for agent in setting.agents:
        cells = [Cell(title_of(agent))]
        for _, term in _TERMS:
            values = [getattr(split[agent, unit.seed], term) for unit in setting.of(agent)]
            changes = [
                getattr(split[agent, unit.seed], term) - getattr(split[setting.reference, unit.seed], term)
                for unit in setting.of(agent)
                if (setting.reference, unit.seed) in split
            ]
            shown = agent != setting.reference and bool(changes)
            cells.append(
                Cell(f"{round(float(np.median(values)), 2) + 0.0:.2f}", f"({np.median(changes):+.2f})" if shown else "")
            )
        rows.append(tuple(cells))
    return Table(("agent", *(heading for heading, _ in _TERMS)), tuple(rows))


def _split(unit: Unit) -> ErrorParts:
    sets = {part: unit.part(part) for part in ("evaluation", "deployment")}
    rare = {
        part: unit.scores.filter(unit.scores["part"] == part)["rare"].to_numpy().reshape(scores.shape)
        for part, scores in sets.items()
    }
    return decompose_error(
        sets["evaluation"],
        sets["deployment"],
        rare["evaluation"],
        rare["deployment"],
        unit.evaluation.tail_k,
        total=unit.errors.in_space("psi").mean_absolute,
    )
