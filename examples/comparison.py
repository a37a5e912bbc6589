"""What both examples do with their environment: train, fine-tune twice with equal steps, and look at held-out tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import ForecastPPO
from agents.simulation import simulate_tasks
from rl_forecast import forecast
from rl_forecast.tasks import SPLITS


def compare(
    make_env: Callable[[str], gymnasium.Env], steps: int, tasks: int, seed: int = 0, **settings: Any
) -> list[dict]:
    """Print one line per agent: the worst task of the second half, forecast from the first, beside what it was.

    :param make_env: split name to environment with the risk contract
    :param steps: environment steps of fine-tuning; the base gets twice as many
    :param tasks: held-out tasks; a fifth of them is for the forecast
    :param seed: of training
    :param settings: of PPO
    """
    torch.set_num_threads(1)
    n_envs = 16
    settings = {"n_steps": 256, "batch_size": 512, "n_epochs": 4, "seed": seed, "device": "cpu"} | settings
    base = PPO("MlpPolicy", DummyVecEnv([partial(make_env, "train")] * n_envs), learning_rate=1e-3, **settings)
    base.learn(2 * steps)
    agents: dict[str, PPO] = {"base": base}
    with TemporaryDirectory() as folder:
        base.save(Path(folder) / "base")
        for name, algorithm in (("PPO", PPO), ("ForecastPPO", ForecastPPO)):
            env = DummyVecEnv([partial(make_env, "train")] * n_envs)
            agents[name] = algorithm.load(Path(folder) / "base", env=env, device="cpu", seed=seed + 1)
            agents[name].learn(steps)
    ids = SPLITS["held_out"].task_ids(tasks, seed)
    print(f"{'agent':12} {'forecast':>9} {'realised':>9} {'mean risk':>9} {'failures':>9} {'success':>8}")
    rows = []
    for name, agent in agents.items():
        outcome = simulate_tasks(agent.policy, partial(make_env, "held_out"), ids)
        cut = tasks // 5
        rows.append(
            {
                "agent": name,
                "forecast": float(forecast(psi=outcome.psi[:cut], n_deploy=tasks - cut).worst_query_risk[0]),
                "realised": float(outcome.risk[cut:].max()),
                "mean_risk": float(outcome.risk.mean()),
                "failures": float(outcome.failure.mean()),
                "success": float(outcome.success.mean()),
            }
        )
        print(
            "{agent:12} {forecast:9.2g} {realised:9.2g} {mean_risk:9.2g} {failures:9.2g} {success:8.3f}".format(
                **rows[-1]
            )
        )
    return rows
