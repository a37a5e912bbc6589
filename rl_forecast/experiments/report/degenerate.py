"""Ways in which a small forecast error means nothing, looked for in every agent of every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_forecast.degeneracy import find_degeneracy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_forecast.experiments.report.reading import Setting

__all__ = ["Caution", "cautions_of"]


@dataclass(frozen=True)
class Caution:
    """One kind of degeneracy of one agent.

    :param setting: name of the setting
    :param agent: name of the agent
    :param seeds: seeds that show it
    :param n_seeds: seeds that were looked at
    :param sentence: what happened, with the worst seed's number, and what follows for the reader
    """

    setting: str
    agent: str
    seeds: tuple[int, ...]
    n_seeds: int
    sentence: str


def cautions_of(settings: Sequence[Setting]) -> list[Caution]:
    """All of them, in the order of settings and agents.

    :param settings: the settings
    """
    found = []
    for setting in settings:
        for agent in setting.agents:
            seen: dict[str, list[tuple[float, str, int]]] = {}
            units = setting.of(agent)
            for unit in units:
                base = setting.base.get(unit.seed)
                for finding in find_degeneracy(unit.metrics, base.metrics if base else None):
                    size = next(iter(finding.values.values()))
                    seen.setdefault(finding.code, []).append((size, finding.sentence, unit.seed))
            for signs in seen.values():
                _, sentence, _ = max(signs)
                seeds = tuple(sorted(seed for _, _, seed in signs))
                found.append(Caution(setting.name, agent, seeds, len(units), sentence))
    return found
