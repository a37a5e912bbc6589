"""CartPole with a speed limit: a non-grid environment of one's own. The motor's strength differs from task to task."""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
from comparison import compare
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from envs import RiskWrapper

LIMIT = 2.0  # speed of the cart above which an episode counts as failed


class Motors(CartPoleEnv):
    """CartPole with a motor drawn at reset: strong ones, which reach the limit sooner, are rare."""

    def __init__(self) -> None:
        super().__init__()
        low, high = self.observation_space.low, self.observation_space.high
        self.observation_space = gymnasium.spaces.Box(np.append(low, np.float32(0)), np.append(high, np.float32(9)))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Draw the start and the motor from the seed."""
        observation, info = super().reset(seed=seed, options=options)
        self.force_mag = 6.0 * min(5.0, float(np.exp(0.3 * self.np_random.standard_normal())))
        return self.with_motor(observation), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """CartPole's step, the motor appended to the observation."""
        observation, *rest = super().step(action)
        return self.with_motor(observation), *rest

    def with_motor(self, observation: np.ndarray) -> np.ndarray:
        """Observation with the motor's strength, shape (5,)."""
        return np.append(observation, np.float32(self.force_mag / 10))


def too_fast(env: gymnasium.Env, observation: np.ndarray, *_: object) -> bool:
    """Failure: the cart is faster than the limit."""
    return bool(abs(observation[1]) > LIMIT)


def fatal(env: gymnasium.Env) -> list[float]:
    """Which push is too fast at the next step: each tried, the state put back (fatal="lookahead", but faster)."""
    cart, before, result = env.unwrapped, env.unwrapped.state, []
    for action in (0, 1):
        result.append(float(too_fast(env, cart.step(action)[0])))
        cart.state, cart.steps_beyond_terminated = before, None
    return result


def make_env(split: str) -> gymnasium.Env:
    """A hundred steps of balancing; success is balancing to the end, fast or not."""
    return RiskWrapper(TimeLimit(Motors(), 100), too_fast, fatal, lambda e, o, r, ended, *_: not ended, split)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60_000, help="of fine-tuning; the base trains twice as long")
    parser.add_argument("--tasks", type=int, default=2000, help="held-out tasks")
    parser.add_argument("--seed", type=int, default=0)
    compare(make_env, **vars(parser.parse_args()))
