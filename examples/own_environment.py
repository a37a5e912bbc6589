"""An environment of one's own, PPO and ForecastPPO on it, and a forecast of the worst of a million crossings."""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from agents import ForecastPPO, simulate_tasks
from rl_forecast import forecast


class Ledge(gymnasium.Env):
    """Walk along a ledge of ten planks. Action 1 walks two at once, and slips with the task's own probability."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin a task: a random one, or ``options={"task_id": i}``."""
        super().reset(seed=seed)
        self.task_id = (options or {}).get("task_id", int(self.np_random.integers(100_000)))
        self.slip = 10 ** -np.random.default_rng(self.task_id).uniform(1, 4)
        self.position, self.risk = 0, 0.0
        return self.state()

    def state(self) -> tuple[np.ndarray, dict]:
        """What the agent sees, and the contract's first key: how probably each action ends in failure."""
        seen = np.array([self.position / 11, -np.log10(self.slip) / 4], np.float32)
        return seen, {"fatal_probability": np.array([0.0, self.slip], np.float32)}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One or two planks; time costs."""
        failure = bool(action) and self.np_random.random() < self.slip
        self.position, self.risk = self.position + 1 + int(action), self.risk + action * self.slip
        across = self.position >= 10 and not failure
        seen, info = self.state()
        if failure or across:  # the contract's other keys, at an episode's end
            info |= {"task_id": self.task_id, "failure": failure, "is_success": across, "risk": self.risk}
        return seen, float(across) - 0.05, failure or across, False, info


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--tasks", type=int, default=500, help="held-out tasks, never trained on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, algorithm in {"PPO": PPO, "ForecastPPO": ForecastPPO}.items():
        settings = {"n_steps": 128, "batch_size": 256, "learning_rate": 2e-3, "seed": given.seed, "device": "cpu"}
        model = algorithm("MlpPolicy", make_vec_env(Ledge, n_envs=16, seed=given.seed), **settings)
        model.learn(given.steps)
        played = simulate_tasks(model.policy, Ledge, np.arange(100_000, 100_000 + given.tasks), episodes_per_task=4)
        worst = forecast(psi=played.psi, n_deploy=1_000_000)
        low, high = worst.prediction_interval(0.90)[0]
        print(f"{name}: mean risk {played.risk.mean():.1e}, worst of a million {low:.1e} to {high:.1e}")
