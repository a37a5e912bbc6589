"""Risk environments: worlds that expose how likely each episode is to fail.

Importing this package registers the environments with Gymnasium: ``gymnasium.make("RiskGrid/Recolor-v0")``, or
``gymnasium.make("envs:RiskGrid/Recolor-v0")`` without the import. Nothing heavy is imported before one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from envs.gridworld.exact_risk import ExactRisk, exact_risk
    from envs.gridworld.families import (
        FAMILIES,
        BridgeWorld,
        ControlWorld,
        GaleWorld,
        MixedWorld,
        RecolorWorld,
        ShiftWorld,
        SlipWorld,
    )
    from envs.gridworld.minigrid_env import MiniGridObservation, RiskGridEnv
    from envs.gridworld.vec_env import GridVecEnv
    from envs.gridworld.vector_env import GridVectorEnv
    from envs.gridworld.world import GridWorld
    from envs.risk.check import check_risk_env
    from envs.risk.wrapper import RiskWrapper, disjoint_splits

__all__ = [
    "FAMILIES",
    "REGISTERED",
    "BridgeWorld",
    "ControlWorld",
    "ExactRisk",
    "GaleWorld",
    "GridVecEnv",
    "GridVectorEnv",
    "GridWorld",
    "MiniGridObservation",
    "MixedWorld",
    "RecolorWorld",
    "RiskGridEnv",
    "RiskWrapper",
    "ShiftWorld",
    "SlipWorld",
    "check_risk_env",
    "disjoint_splits",
    "exact_risk",
]

_HOME = {
    "ExactRisk": "envs.gridworld.exact_risk",
    "FAMILIES": "envs.gridworld.families",
    "GridVecEnv": "envs.gridworld.vec_env",
    "GridVectorEnv": "envs.gridworld.vector_env",
    "GridWorld": "envs.gridworld.world",
    "MiniGridObservation": "envs.gridworld.minigrid_env",
    "RiskGridEnv": "envs.gridworld.minigrid_env",
    "RiskWrapper": "envs.risk.wrapper",
    "check_risk_env": "envs.risk.check",
    "disjoint_splits": "envs.risk.wrapper",
    "exact_risk": "envs.gridworld.exact_risk",
} | {
    f"{family}World": "envs.gridworld.families"
    for family in ("Bridge", "Control", "Gale", "Mixed", "Recolor", "Shift", "Slip")
}

#: Registered id to the arguments of its environment. ``S7`` rooms have 7x7 cells and proportionally more lava.
REGISTERED: dict[str, dict[str, Any]] = {
    "RiskGrid/Recolor-v0": {"family": "recolor"},
    "RiskGrid/Recolor-Faint-v0": {"family": "recolor", "severity": 0.75},
    "RiskGrid/Mixed-v0": {"family": "mixed"},
    "RiskGrid/Mixed-Faint-v0": {"family": "mixed", "severity": 0.75},
    "RiskGrid/Slip-v0": {"family": "slip"},
    "RiskGrid/Slip-Faint-v0": {"family": "slip", "severity": 0.75},
    "RiskGrid/Gale-v0": {"family": "gale"},
    "RiskGrid/Gale-Breeze-v0": {"family": "gale", "log10_gale": (-1.2, -0.8)},
    "RiskGrid/Bridge-v0": {"family": "bridge"},
    "RiskGrid/Control-v0": {"family": "control"},
    "RiskGrid/Shift-v0": {"family": "shift"},
    "RiskGrid/Shift-Faint-v0": {"family": "shift", "severity": 0.75},
}
REGISTERED |= {
    f"RiskGrid/{family.capitalize()}-S7-v0": {"family": family, "size": 7, "horizon": 30}
    for family in ("recolor", "mixed", "slip", "gale", "bridge", "control", "shift")
}

for _id, _arguments in REGISTERED.items():
    register(id=_id, entry_point="envs.gridworld.minigrid_env:RiskGridEnv", kwargs=_arguments)

__getattr__, __dir__ = lazy_names(__name__, _HOME, present=["REGISTERED"])
