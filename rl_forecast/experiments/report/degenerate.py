"""Ways in which a small forecast error means nothing, looked for in every agent of every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_forecast.formatting import format_probability
from rl_forecast.scores import log_p_from_psi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rl_forecast.experiments.report.reading import Setting

__all__ = ["Caution", "cautions_of"]

# Thresholds: success lost (probability), share of tasks risen, share of pairs at a clip, realised worst below which a
# unit of psi spans decades.
_LOST_SUCCESS, _RISEN, _AT_CLIP, _COMPRESSED_PSI = 0.005, 0.05, 0.1, -float(np.log(-np.log(1e-9)))


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
                for name, size, sentence in _signs(unit.metrics, base.metrics if base else None, agent == "base"):
                    seen.setdefault(name, []).append((size, sentence, unit.seed))
            for signs in seen.values():
                _, sentence, _ = max(signs)
                seeds = tuple(sorted(seed for _, _, seed in signs))
                found.append(Caution(setting.name, agent, seeds, len(units), sentence))
    return found


def _signs(m: dict[str, Any], base: dict[str, Any] | None, is_base: bool) -> Iterator[tuple[str, float, str]]:
    """Name, size for comparing seeds, and sentence."""
    high, low = m.get("both_at_upper_clip_log_odds") or 0.0, m.get("both_at_lower_clip_log_odds") or 0.0
    if high > _AT_CLIP:
        yield (
            "upper clip",
            high,
            f"Saturated: forecast and realised worst are both certain failures (p >= 0.999) in {high:.0%} of pairs, "
            "which counts as no error in log-odds.",
        )
    if low > _AT_CLIP:
        yield (
            "lower clip",
            low,
            f"Forecast and realised worst both lie below 1e-6 in {low:.0%} of pairs, where errors in log-odds and "
            "log10 p count as none.",
        )
    worst = m.get("realised_worst_psi")
    if worst is not None and worst < _COMPRESSED_PSI:
        # d log10 p / d psi = -log10 p: at p = 1e-20 a unit of psi is 20 decades.
        decades = -float(log_p_from_psi(worst)) / np.log(10)
        yield (
            "compressed",
            decades,
            f"Psi compresses: the realised worst is about {format_probability(worst)}, where an error of 0.1 psi is "
            f"{0.1 * decades:.1f} decades of probability; a small |error| in psi is no sign of a good forecast.",
        )
    if m.get("failed_fits"):
        yield (
            "no tail",
            float(m["failed_fits"]),
            f"{m['failed_fits']} evaluation sets have no tail to fit and are left out of the errors.",
        )
    if base is None or is_base:
        return
    for key, name in (("success", "success"), ("accuracy", "accuracy")):
        if m.get(key) is not None and base.get(key) is not None:
            lost = base[key] - m[key]
            if lost > _LOST_SUCCESS:
                verb = "collapsed" if lost > 0.05 else "fell"
                yield (
                    "capability",
                    lost,
                    f"Capability {verb}: {name} {m[key]:.4f} against {base[key]:.4f} of the base agent.",
                )
    if (m.get("share_risen") or 0.0) > _RISEN:
        yield (
            "risen",
            m["share_risen"],
            f"{m['share_risen']:.1%} of all tasks became riskier than under the base agent (by more than 0.1 psi): "
            "ordinary failures raised to meet the rare ones make a tail easier to forecast.",
        )
    for key in ("mean_risk", "mean_p"):
        if m.get(key) is not None and base.get(key) is not None and m[key] > base[key]:
            yield (
                "mean risk",
                m[key] / max(base[key], 1e-300),
                f"Mean risk {m[key]:.2g} is above the base agent's {base[key]:.2g}.",
            )
