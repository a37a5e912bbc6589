"""Families of gridworld tasks, one to a file."""

from __future__ import annotations

from envs.gridworld.families.bridge import BridgeWorld
from envs.gridworld.families.control import ControlWorld
from envs.gridworld.families.gale import GaleWorld
from envs.gridworld.families.mixed import MixedWorld
from envs.gridworld.families.recolor import RecolorWorld
from envs.gridworld.families.shift import ShiftWorld
from envs.gridworld.families.slip import SlipWorld
from envs.gridworld.world import GridWorld

#: Family name to world, in the order of the documentation.
FAMILIES: dict[str, type[GridWorld]] = {
    world.family: world
    for world in (RecolorWorld, MixedWorld, SlipWorld, GaleWorld, BridgeWorld, ControlWorld, ShiftWorld)
}
