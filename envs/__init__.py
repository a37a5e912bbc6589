"""Risk environments: worlds that expose how likely each episode is to fail.

Importing this package registers the environments with Gymnasium: ``gymnasium.make("RiskGrid/Recolor-v0")``, or
``gymnasium.make("envs:RiskGrid/Recolor-v0")`` without the import. Nothing heavy is imported before one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium.envs.registration import register

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from envs.gridworld.exact_risk import ExactRisk, exact_risk
    from envs.gridworld.minigrid_env import MiniGridObservation, RecolorEnv
    from envs.gridworld.recolor import RecolorWorld
    from envs.gridworld.vec_env import GridVecEnv

__all__ = ["ExactRisk", "GridVecEnv", "MiniGridObservation", "RecolorEnv", "RecolorWorld", "exact_risk"]

_HOME = {
    "ExactRisk": "envs.gridworld.exact_risk",
    "GridVecEnv": "envs.gridworld.vec_env",
    "MiniGridObservation": "envs.gridworld.minigrid_env",
    "RecolorEnv": "envs.gridworld.minigrid_env",
    "RecolorWorld": "envs.gridworld.recolor",
    "exact_risk": "envs.gridworld.exact_risk",
}

register(id="RiskGrid/Recolor-v0", entry_point="envs.gridworld.minigrid_env:RecolorEnv")

__getattr__, __dir__ = lazy_names(__name__, _HOME)
