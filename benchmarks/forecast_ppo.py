"""What the forecast term and the engine cost: training steps per second, paired in one run.

``python -m benchmarks.forecast_ppo`` fine-tunes one base agent with plain PPO and with two settings of ForecastPPO on
the batched engine, at two sizes, and prints steps per second beside forecast error and success on validation tasks, so
that speed is never shown without quality. Two more runs of plain PPO with the same sizes bound the picture: MiniGrid in
``DummyVecEnv``, and an environment that returns constants (what remains is Stable-Baselines3 and torch). Repetitions
alternate; ratios are taken within a repetition. One torch thread.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import gymnasium
import minigrid  # noqa: F401  # registers MiniGrid's environments
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents import ForecastPPO
from envs import GridVecEnv, RecolorWorld
from rl_forecast.experiments.command_line import parse_config
from rl_forecast.experiments.gridworld.agents import make_base, make_fine_tuned, policy_kwargs
from rl_forecast.experiments.gridworld.worlds import make_world, score_tasks
from rl_forecast.experiments.settings import AgentName, Config, FineTuneConfig
from rl_forecast.forecasting.evaluate_forecasts import evaluate_forecasts
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.tasks import SPLITS

#: Agent and preset behind each title. In the default every known task has a gradient (of its mean risk) and is scored
#: under the anchor too; in the paper's setting only the tasks that decide a forecast error have one.
AGENTS: dict[str, tuple[AgentName, str]] = {
    "PPO": ("ppo", "default"),
    "ForecastPPO, default": ("forecast_ppo", "default"),
    "ForecastPPO, preset paper": ("forecast_ppo", "paper"),
}
CONSTANT = "PPO, constant environment"
MINIGRID = "PPO, MiniGrid in DummyVecEnv"
SIZES = {"256 x 32, batch 1024": (256, 32, 1024), "1024 x 16, batch 4096": (1024, 16, 4096)}


class ConstantVecEnv(GridVecEnv):
    """Observations, rewards and ends that never change: the floor of what an environment can cost."""

    def reset(self) -> Any:
        self._observation = super().reset()
        return self._observation

    def step_wait(self) -> Any:
        n = self.num_envs
        return self._observation, np.zeros(n, np.float32), np.zeros(n, bool), [{} for _ in range(n)]


def _minigrid(n_envs: int) -> VecEnv:
    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("MiniGrid-LavaCrossingS9N1-v0")
        # The image only, flattened, so that the same network reads it.
        env = gymnasium.wrappers.TransformObservation(
            env,
            lambda seen: seen["image"].ravel().astype(np.float32) / 10,
            spaces.Box(0, 1, shape=(147,), dtype=np.float32),
        )
        return Monitor(env)

    return DummyVecEnv([make for _ in range(n_envs)])


class _Stopwatch(BaseCallback):
    """Seconds of the rollouts, and of the term within the updates."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts = self.term = 0.0

    def _on_rollout_start(self) -> None:
        self._started = time.perf_counter()
        self._add_term()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts += time.perf_counter() - self._started

    def _on_training_end(self) -> None:
        self._add_term()

    def _add_term(self) -> None:
        if isinstance(self.model, ForecastPPO) and self.model.forecastability is not None:
            self.term += self.model.forecastability.update.seconds


def _learn(model: PPO, steps: int) -> tuple[float, dict[str, float]]:
    """Steps per second of a whole ``learn``, and microseconds a step that its parts took."""
    watch = _Stopwatch()
    started = time.perf_counter()
    model.learn(steps, callback=watch)
    total = time.perf_counter() - started
    parts = {"rollouts": watch.rollouts, "PPO's update": total - watch.rollouts - watch.term, "term": watch.term}
    return model.num_timesteps / total, {name: 1e6 * s / model.num_timesteps for name, s in parts.items()}


def _quality(world: RecolorWorld, model: PPO) -> tuple[float, float]:
    """|error| in psi and success on validation tasks."""
    scores = score_tasks(world, model.policy, SPLITS["validation"].task_ids(12_000, 0))
    psi = scores["psi"].to_numpy()
    forecaster = make_forecaster("gumbel_tail", 10)
    errors = evaluate_forecasts(psi[:4000].reshape(20, 200), psi[4000:].reshape(2, 4000), forecaster)
    return errors.in_space("psi").mean_absolute, float(scores["success"].to_numpy().mean())


def _minigrid_ppo(config: Config) -> PPO:
    """Plain PPO of the same sizes on MiniGrid; the flattened image has about as many numbers as our observation."""
    tune = config.fine_tune
    return PPO(
        "MlpPolicy",
        _minigrid(tune.n_envs),
        n_steps=tune.n_steps,
        batch_size=tune.batch_size,
        n_epochs=tune.n_epochs,
        policy_kwargs=policy_kwargs(config.base),
        seed=config.seed,
        device="cpu",
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200_000, help="of each fine-tuning")
    parser.add_argument("--peer-steps", type=int, default=50_000, help="of each run on MiniGrid")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base_config = Config()
    world = make_world(base_config.world)
    base = make_base(base_config, world)
    base.learn(base_config.base.total_timesteps)

    for size, (n_envs, n_steps, batch_size) in SIZES.items():
        tune = replace(FineTuneConfig(), n_envs=n_envs, n_steps=n_steps, batch_size=batch_size)
        rates: dict[str, list[float]] = defaultdict(list)
        parts: dict[str, list[dict[str, float]]] = defaultdict(list)
        quality: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for repetition in range(arguments.repetitions):
            config = replace(base_config, seed=repetition, fine_tune=tune)
            for title, (name, preset) in AGENTS.items():
                own = parse_config(Config, ["--preset", preset], "", "")
                tuned = replace(tune, anchor_coef=own.fine_tune.anchor_coef)
                model = make_fine_tuned(name, replace(own, seed=repetition, fine_tune=tuned), world, base)
                rate, times = _learn(model, arguments.steps)
                rates[title].append(rate)
                parts[title].append(times)
                quality[title].append(_quality(world, model))
            constant = make_fine_tuned("ppo", config, world, base)
            constant.set_env(ConstantVecEnv(world, np.arange(n_envs), n_envs))
            for title, peer, steps in (
                (CONSTANT, constant, arguments.steps),
                (MINIGRID, _minigrid_ppo(config), arguments.peer_steps),
            ):
                rate, times = _learn(peer, steps)
                rates[title].append(rate)
                parts[title].append(times)
        _print(size, rates, quality)
        _print_parts(parts)


def _print(size: str, rates: dict[str, list[float]], quality: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{size}")
    print(f"{'':<32}{'steps/s':>10}{'/ PPO':>8}{'/ constant':>12}{'/ MiniGrid':>12}{'|error| psi':>14}{'success':>10}")
    for name, values in rates.items():
        ratios = [np.median(np.array(values) / np.array(rates[peer])) for peer in ("PPO", CONSTANT, MINIGRID)]
        shown = ""
        if name in quality:
            error, success = np.median(np.array(quality[name]), axis=0)
            shown = f"{error:>14.2f}{success:>10.4f}"
        print(f"{name:<32}{np.median(values):>10,.0f}{ratios[0]:>7.2f}x{ratios[1]:>11.2f}x{ratios[2]:>11.1f}x{shown}")


def _print_parts(parts: dict[str, list[dict[str, float]]]) -> None:
    names = list(next(iter(parts.values()))[0])
    print(f"\n{'microseconds a step':<32}" + "".join(f"{name:>16}" for name in names))
    for title, repetitions in parts.items():
        print(f"{title:<32}" + "".join(f"{np.median([times[n] for times in repetitions]):>16.1f}" for n in names))


if __name__ == "__main__":
    main()
