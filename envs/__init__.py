"""Risk environments: worlds that expose how likely each episode is to fail.

Importing this package registers the environments with Gymnasium: ``gymnasium.make("RiskGrid/Recolor-v0")``, or
``gymnasium.make("envs:RiskGrid/Recolor-v0")`` without the import. Nothing heavy is imported before one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

from rl_forecast.lazy import lazy_exports

if TYPE_CHECKING:
    from envs.gridworld.exact_risk import ExactRisk as ExactRisk
    from envs.gridworld.exact_risk import exact_risk as exact_risk
    from envs.gridworld.families import FAMILIES as FAMILIES
    from envs.gridworld.families.bridge import BridgeWorld as BridgeWorld
    from envs.gridworld.families.control import ControlWorld as ControlWorld
    from envs.gridworld.families.gale import GaleWorld as GaleWorld
    from envs.gridworld.families.mixed import MixedWorld as MixedWorld
    from envs.gridworld.families.recolor import RecolorWorld as RecolorWorld
    from envs.gridworld.families.shift import ShiftWorld as ShiftWorld
    from envs.gridworld.families.slip import SlipWorld as SlipWorld
    from envs.gridworld.minigrid_env import MiniGridObservation as MiniGridObservation
    from envs.gridworld.minigrid_env import RiskGridEnv as RiskGridEnv
    from envs.gridworld.vec_env import GridVecEnv as GridVecEnv
    from envs.gridworld.vector_env import GridVectorEnv as GridVectorEnv
    from envs.gridworld.world import GridWorld as GridWorld
    from envs.risk.check import check_risk_env as check_risk_env
    from envs.risk.wrapper import RiskWrapper as RiskWrapper
    from envs.risk.wrapper import disjoint_splits as disjoint_splits


_FAMILIES = ("recolor", "mixed", "slip", "gale", "bridge", "control", "shift")
#: Registered id to the arguments of its environment. ``S7`` rooms have 7x7 cells and proportionally more lava.
REGISTERED: dict[str, dict[str, Any]] = {f"RiskGrid/{f.capitalize()}-v0": {"family": f} for f in _FAMILIES}
for _f in ("recolor", "mixed", "slip", "shift"):
    REGISTERED[f"RiskGrid/{_f.capitalize()}-Faint-v0"] = {"family": _f, "severity": 0.75}
REGISTERED["RiskGrid/Gale-Breeze-v0"] = {"family": "gale", "log10_gale": (-1.2, -0.8)}
for _f in _FAMILIES:
    REGISTERED[f"RiskGrid/{_f.capitalize()}-S7-v0"] = {"family": _f, "size": 7, "horizon": 30}
for _id, _arguments in REGISTERED.items():
    register(id=_id, entry_point="envs.gridworld.minigrid_env:RiskGridEnv", kwargs=_arguments)

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, present=["REGISTERED"])
