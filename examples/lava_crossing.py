"""Stock MiniGrid LavaCrossing: PPO, then equal steps of PPO and of ForecastPPO, compared on held-out layouts."""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import minigrid
import numpy as np
from comparison import compare
from gymnasium import spaces

from envs import RiskWrapper

gymnasium.register_envs(minigrid)


class Compact(gymnasium.Wrapper):
    """MiniGrid's 7x7 view as wall, lava and goal planes, where the agent is, and its three moves as the only actions.

    The goal is always in the far corner: a step towards it earns 0.02, a step away costs as much, so that crossings are
    found within minutes.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0.0, 1.0, (153,), np.float32)
        self.action_space = spaces.Discrete(3)  # left, right, forward: MiniGrid's first three

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        """A new layout."""
        seen, info = self.env.reset(**kwargs)
        return self.compact(seen), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """MiniGrid's step with the bonus for nearing the corner."""
        before = sum(self.unwrapped.agent_pos)
        seen, reward, *rest = self.env.step(action)
        return self.compact(seen), float(reward) + 0.02 * (sum(self.unwrapped.agent_pos) - before), *rest

    def compact(self, seen: dict) -> np.ndarray:
        """Shape (153,): object types (wall 2, goal 8, lava 9), direction, position."""
        planes = (seen["image"][..., :1] == [2, 8, 9]).ravel()
        position = np.asarray(self.unwrapped.agent_pos) / 8
        return np.concatenate([planes, np.eye(4)[seen["direction"]], position]).astype(np.float32)


def make_env(split: str) -> gymnasium.Env:
    """LavaCrossing whose layout is the task; lava and its fatal actions are recognised."""
    env = gymnasium.make("MiniGrid-LavaCrossingS9N1-v0", max_steps=60, disable_env_checker=True)
    return RiskWrapper(Compact(env), split=split)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60_000, help="of fine-tuning; the base trains twice as long")
    parser.add_argument("--tasks", type=int, default=2000, help="held-out tasks")
    parser.add_argument("--seed", type=int, default=0)
    compare(make_env, **vars(parser.parse_args()), ent_coef=0.005, gamma=0.97)
