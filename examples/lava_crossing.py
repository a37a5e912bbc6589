"""Stock MiniGrid LavaCrossing: PPO, then equal steps of PPO and of ForecastPPO, compared on held-out layouts."""

from __future__ import annotations

import argparse

import gymnasium
import minigrid
import numpy as np
from comparison import compare
from gymnasium import spaces

from envs import RiskWrapper

gymnasium.register_envs(minigrid)


class Compact(gymnasium.ObservationWrapper):
    """MiniGrid's 7x7 view as wall, lava and goal planes, and its three moves as the only actions."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0.0, 1.0, (147,), np.float32)
        self.action_space = spaces.Discrete(3)  # left, right, forward: MiniGrid's first three

    def observation(self, observation: dict) -> np.ndarray:
        """Shape (147,), one-hot object types (wall 2, goal 8, lava 9)."""
        return (observation["image"][..., :1] == [2, 8, 9]).astype(np.float32).ravel()


def make_env(split: str) -> gymnasium.Env:
    """LavaCrossing whose layout is the task; lava and its fatal actions are recognised."""
    env = gymnasium.make("MiniGrid-LavaCrossingS9N1-v0", max_steps=60, disable_env_checker=True)
    return RiskWrapper(Compact(env), split=split)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200_000, help="of fine-tuning; the base trains as long")
    parser.add_argument("--tasks", type=int, default=2000, help="held-out tasks")
    parser.add_argument("--seed", type=int, default=0)
    compare(make_env, **vars(parser.parse_args()), ent_coef=0.005)
