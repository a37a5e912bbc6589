"""Stepping against MiniGrid in ``DummyVecEnv``, and the worlds in numbers: generation, exact risk, memory per task.

``python -m benchmarks.worlds`` prints two tables: steps per second of both batched environments at several sizes, and
one row a family. Numbers are medians over alternating repetitions, every ratio is taken within a repetition. Stepping
uses random actions; the peer is MiniGrid's own ``LavaCrossingS9N1`` with 16 environments, where it is fastest per step.
The peer of the exact risk is the same recursion for one task at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.risk.base import log_action_probability
from envs import FAMILIES, GridVecEnv, GridVectorEnv, GridWorld, RecolorWorld, exact_risk
from rl_forecast.tasks import SPLITS

_PEER = "MiniGrid-LavaCrossingS9N1-v0"
_POOL = 20_000
_N_ENVS = 1024
_N_RISK_TASKS = 10_000
_N_SINGLE_TASKS = 100


def _minigrid(env_id: str, n_envs: int = 16) -> VecEnv:
    """Single environments in Stable-Baselines3's ``DummyVecEnv``."""

    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make(env_id)
        # DummyVecEnv cannot hold MiniGrid's mission text; the image alone is what agents are trained on.
        return Monitor(ImgObsWrapper(env) if env_id.startswith("MiniGrid") else env)

    return DummyVecEnv([make for _ in range(n_envs)])


def _steps_per_second(env: Any, n_actions: int, seconds: float) -> float:
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


def _stepping(repetitions: int, seconds: float) -> None:
    """Print steps per second in the recolor world."""
    pool = SPLITS["train"].task_ids(_POOL, seed=0)
    envs: dict[str, Any] = {
        "MiniGrid LavaCrossingS9N1, DummyVecEnv x 16": _minigrid(_PEER),
        "RiskGrid/Recolor-v0, DummyVecEnv x 16": _minigrid("RiskGrid/Recolor-v0"),
    }
    for n in (64, 1024, 4096):
        envs[f"GridVecEnv x {n}"] = GridVecEnv(RecolorWorld(), pool, n)
        envs[f"GridVectorEnv x {n}"] = GridVectorEnv(RecolorWorld(), pool, n)
    rates = {name: np.zeros(repetitions) for name in envs}
    for repetition in range(repetitions):
        for name, env in envs.items():
            rates[name][repetition] = _steps_per_second(env, 3, seconds)
    print("| environment | steps/s | x MiniGrid (least) |\n|---|---|---|")
    for name, values in rates.items():
        ratio = values / next(iter(rates.values()))
        print(f"| {name} | {np.median(values):,.0f} | {np.median(ratio):.1f} ({ratio.min():.1f}) |")
    print()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _policy(world: GridWorld) -> ActorCriticPolicy:
    """A network of the size that the main job trains."""
    env = GridVecEnv(world, np.arange(4), 1)
    return ActorCriticPolicy(
        env.observation_space,
        env.action_space,
        lambda _: 0.0,
        net_arch=[64, 64],
        activation_fn=torch.nn.ReLU,
    )


def _measure(world: GridWorld, env: VecEnv, peer: VecEnv, seconds: float) -> dict[str, float]:
    """One repetition for one family."""
    ids, policy = SPLITS["held_out"].task_ids(_N_RISK_TASKS, seed=0), _policy(world)
    tasks = world.tasks(ids)

    def log_policy(observation: torch.Tensor) -> torch.Tensor:
        return log_action_probability(policy, observation)

    def one_by_one() -> None:
        for i in range(_N_SINGLE_TASKS):
            exact_risk(world, tasks[i : i + 1], log_policy)

    steps, peer_steps = (
        _steps_per_second(e, int(e.action_space.n), seconds)  # type: ignore[attr-defined]
        for e in (env, peer)
    )
    with torch.no_grad():
        together = _seconds(lambda: exact_risk(world, tasks, log_policy))
        single = _seconds(one_by_one) * _N_RISK_TASKS / _N_SINGLE_TASKS
    return {
        "steps": steps,
        "ratio": steps / peer_steps,
        "generation": _N_RISK_TASKS / _seconds(lambda: world.tasks(ids)),
        "risk": together,
        "risk_ratio": single / together,
        "bytes": sum(column.nbytes for column in vars(tasks).values()) / len(tasks),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement of stepping")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    _stepping(arguments.repetitions, arguments.seconds)
    peer = _minigrid(_PEER)
    worlds = {name: family() for name, family in FAMILIES.items()}
    engines = {
        name: GridVecEnv(world, SPLITS["train"].task_ids(_POOL, seed=0), _N_ENVS) for name, world in worlds.items()
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in worlds}
    for _ in range(arguments.repetitions):
        for name, world in worlds.items():
            measured[name].append(_measure(world, engines[name], peer, arguments.seconds))
    print(
        f"| family | steps/s at {_N_ENVS} | x MiniGrid (least) | tasks made/s | exact risk, {_N_RISK_TASKS} tasks |",
        end="",
    )
    print(" x one by one (least) | bytes/task |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in measured.items():
        middle = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
        least = {key: min(row[key] for row in rows) for key in ("ratio", "risk_ratio")}
        print(
            f"| {name} | {middle['steps']:,.0f} | {middle['ratio']:.0f} ({least['ratio']:.0f}) "
            f"| {middle['generation']:,.0f} | {middle['risk']:.2f} s "
            f"| {middle['risk_ratio']:.1f} ({least['risk_ratio']:.1f}) | {middle['bytes']:.0f} |"
        )


if __name__ == "__main__":
    main()
