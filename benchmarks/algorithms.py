"""The callback on other algorithms: PPO, A2C and MaskablePPO with and without it, from scratch, at equal steps.

``python -m benchmarks.algorithms`` trains in the recolor world and prints, for each algorithm and seed, the exact mean
risk and success on validation tasks, as Markdown. MaskablePPO may not walk into walls.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from agents import Forecastability
from agents.risk.base import log_action_probability
from envs import GridVecEnv, RecolorWorld, exact_risk
from envs.gridworld.observation import CHANNELS, VIEW_SIZE
from rl_forecast.tasks import SPLITS

WORLD = RecolorWorld()
# The tile ahead of the agent, which stands at the middle of the view's nearest row; walls are the last channel.
_WALL_AHEAD = (VIEW_SIZE * (VIEW_SIZE - 2) + VIEW_SIZE // 2) * len(CHANNELS) + CHANNELS.index("wall")
_FORWARD = 2
_SIZES: dict[Any, dict[str, Any]] = {
    PPO: {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 2e-3},
    MaskablePPO: {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 2e-3},
    A2C: {"n_steps": 16, "learning_rate": 2e-3},
}


def walls_masked(observation: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Allowed actions, shape (b, n_actions): a step into a wall is not."""
    masks = np.ones((len(observation), WORLD.rules.n_actions), dtype=np.bool_)
    masks[:, _FORWARD] = observation[:, _WALL_AHEAD] == 0
    return masks


class WallsMasked(VecEnvWrapper):
    """The engine with the method that sb3-contrib asks for masks."""

    def reset(self) -> VecEnvObs:
        """As the engine's."""
        self._seen: Any = self.venv.reset()
        return self._seen

    def step_wait(self) -> VecEnvStepReturn:
        """As the engine's."""
        self._seen, *rest = self.venv.step_wait()
        return self._seen, *rest

    def has_attr(self, attr_name: str) -> bool:
        """Whether there is an attribute of that name: the masks are."""
        return attr_name == "action_masks" or super().has_attr(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Answer for the masks, pass on everything else."""
        if method_name == "action_masks":
            return list(walls_masked(self._seen))
        return super().env_method(method_name, *args, indices=indices, **kwargs)


@torch.no_grad()
def outcome(model: Any, seed: int) -> tuple[float, float]:
    """Exact mean risk and success on 4000 validation tasks."""

    def log_policy(seen: torch.Tensor) -> torch.Tensor:
        masked = isinstance(model, MaskablePPO)
        context = {"action_masks": torch.as_tensor(walls_masked(seen.numpy()))} if masked else {}
        return log_action_probability(model.policy, seen, **context)

    risk = exact_risk(WORLD, WORLD.tasks(SPLITS["validation"].task_ids(4000, seed)), log_policy)
    return float(risk.p.mean()), float(risk.success.mean())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| algorithm | seed | mean risk, plain | with the callback | ratio | success, plain | with the callback |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for algorithm, sizes in _SIZES.items():
        for seed in given.seeds:
            found = []
            for callback in (None, Forecastability()):
                env: Any = GridVecEnv(WORLD, SPLITS["train"].task_ids(20_000, seed), 64, seed=seed)
                env = WallsMasked(env) if algorithm is MaskablePPO else env
                fixed = {"ent_coef": 0.01, "gamma": 0.97, "seed": seed, "device": "cpu"}
                model = algorithm("MlpPolicy", env, **sizes, **fixed)
                found.append(outcome(model.learn(given.steps, callback=callback), seed))
            (plain, success), (trained, kept) = found
            ratio = trained / plain
            name = algorithm.__name__
            print(
                f"| {name} | {seed} | {plain:.1e} | {trained:.1e} | {ratio:.2g} | {success:.3f} | {kept:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
