"""Environment steps per second: the batched engine against MiniGrid in ``DummyVecEnv``, in one run.

``python -m benchmarks.stepping`` prints medians over alternating repetitions and their ratio. Every world gets random
actions; MiniGrid gets the number of environments at which it is fastest per step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from envs import GridVecEnv, RecolorWorld
from rl_forecast.tasks import SPLITS


def minigrid(env_id: str, n_envs: int) -> VecEnv:
    """Single environments in Stable-Baselines3's ``DummyVecEnv``."""

    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make(env_id)
        # DummyVecEnv cannot hold MiniGrid's mission text; the image alone is what agents are trained on.
        return Monitor(ImgObsWrapper(env) if env_id.startswith("MiniGrid") else env)

    return DummyVecEnv([make for _ in range(n_envs)])


def _engine(n_envs: int) -> VecEnv:
    return GridVecEnv(RecolorWorld(), SPLITS["train"].task_ids(20_000, seed=0), n_envs)


def steps_per_second(env: VecEnv, n_actions: int, seconds: float) -> float:
    """Steps of random actions for about ``seconds``, the actions drawn beforehand."""
    actions = np.random.default_rng(0).integers(0, n_actions, size=(64, env.num_envs))
    env.reset()
    for row in actions[:4]:
        env.step(row)
    started, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        env.step(actions[(steps // env.num_envs) % 64])
        steps += env.num_envs
    return steps / elapsed


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    arguments = parser.parse_args()

    candidates: dict[str, Callable[[], VecEnv]] = {
        "MiniGrid LavaCrossingS9N1, DummyVecEnv x 16": lambda: minigrid("MiniGrid-LavaCrossingS9N1-v0", 16),
        "RiskGrid/Recolor-v0 (one MiniGrid env each), DummyVecEnv x 16": lambda: minigrid("RiskGrid/Recolor-v0", 16),
        "batched engine x 64": lambda: _engine(64),
        "batched engine x 1024": lambda: _engine(1024),
        "batched engine x 4096": lambda: _engine(4096),
    }
    built = {name: make() for name, make in candidates.items()}
    rates: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(arguments.repetitions):
        for name, env in built.items():
            n_actions = int(env.action_space.n)  # type: ignore[attr-defined]
            rates[name].append(steps_per_second(env, n_actions, arguments.seconds))
    peer = np.array(rates["MiniGrid LavaCrossingS9N1, DummyVecEnv x 16"])
    print(f"{'world':<64}{'steps/s (median)':>18}{'ratio to LavaCrossing (median, min)':>38}")
    for name, values in rates.items():
        ratio = np.array(values) / peer
        print(f"{name:<64}{np.median(values):>18,.0f}{np.median(ratio):>28.1f}x{ratio.min():>8.1f}x")


if __name__ == "__main__":
    main()
