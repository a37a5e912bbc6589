"""How good each estimator's gradient is: against the exact one, at 1, 4, 16 and 64 episodes a task.

``python -m benchmarks.estimators`` trains an agent in the default world, fine-tunes it with ForecastPPO, and before and
after lets it play the same number of tasks with more and more episodes each. Every estimator reads the same episodes.
The gradient is that of the forecastability loss in psi by the actor's parameters; the reference is the loss of the
exact scores, differentiated through the dynamic programme on the same tasks. Writes Markdown to standard output.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO

from agents import ForecastPPO, ForecastSettings
from agents.risk import RiskSource, make_source
from agents.risk.base import log_action_probability
from agents.task_memory import TaskMemory
from envs import GridVecEnv
from envs.gridworld.world import GridWorld
from rl_forecast.experiments.gridworld.agents import make_base, make_fine_tuned, policy_kwargs
from rl_forecast.experiments.gridworld.worlds import make_world
from rl_forecast.experiments.settings import Config
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.forecasting.methods.base import NoTailError
from rl_forecast.loss.forecastability import ForecastabilityLoss
from rl_forecast.summary import TailSummary
from rl_forecast.tasks import SPLITS

N_TASKS = 500
ESTIMATORS = ("direct", "flow", "failures")
LOSS = ForecastabilityLoss(n_eval=100, n_deploy=400, tail_k=10, n_partitions=64, psi_cap=3.0)
_N_ENVS = 128


def _play(policy: Any, config: Config, world: GridWorld, episodes: int, seed: int) -> ForecastPPO:
    """An agent with the given weights that has played ``N_TASKS`` tasks or more and learned nothing (rate 0)."""
    pool = SPLITS["validation"].task_ids(20_000, seed)
    env = GridVecEnv(world, pool, _N_ENVS, episodes, seed=seed)
    # Episodes last about six steps; whatever is unfinished at the end does not count.
    n_steps = max(40, round(1.3 * N_TASKS * episodes * 7 / _N_ENVS) + 20)
    model = ForecastPPO(
        "MlpPolicy",
        env,
        learning_rate=0.0,
        n_steps=n_steps,
        batch_size=_N_ENVS * n_steps,
        n_epochs=1,
        policy_kwargs=policy_kwargs(config.base),
        seed=seed,
        device="cpu",
        # The flow source keeps what every one reads.
        settings=ForecastSettings(
            coef=0.0, anchor_coef=0.0, risk="flow", episodes_per_task=episodes, n_known_tasks=N_TASKS
        ),
    )
    model.policy.load_state_dict(policy.state_dict())
    model.learn(1)
    n_tasks = len(_memory(model).task_id)
    if n_tasks < N_TASKS:
        raise RuntimeError(f"only {n_tasks} tasks were completed: raise n_steps")
    return model


def _memory(model: ForecastPPO) -> TaskMemory:
    assert model.forecastability is not None
    return model.forecastability.memory


def _actor(model: PPO) -> list[torch.nn.Parameter]:
    return [p for name, p in model.policy.named_parameters() if "value_net" not in name]


def _gradient(model: ForecastPPO, loss: Callable[[], torch.Tensor]) -> NDArray[np.float64]:
    parts = torch.autograd.grad(loss(), _actor(model), allow_unused=True)
    return np.concatenate([g.detach().double().numpy().ravel() for g in parts if g is not None])


def _weights(psi: torch.Tensor, seed: int) -> torch.Tensor:
    leaf = psi.detach().clone().requires_grad_()
    return torch.autograd.grad(LOSS(leaf, np.random.default_rng(seed)).loss, leaf)[0]


def _compare(model: ForecastPPO, seed: int) -> dict[str, dict[str, float]]:
    """Each estimator's gradient against the exact one, on the tasks that have been played."""
    memory, exact = _memory(model), make_source("exact")
    assert model.env is not None
    exact.check_env(model.env)
    true_psi = exact.psi(model.policy, memory)
    true_weight = _weights(true_psi, seed)
    result: dict[str, dict[str, float]] = {}
    started = time.perf_counter()
    reference = _gradient(model, lambda: exact.score_gradient(model.policy, memory, true_weight).loss(model.policy))
    result["exact"] = {"cosine": 1.0, "given weights": 1.0, "length": 1.0, "ms": 1e3 * (time.perf_counter() - started)}
    for name in ESTIMATORS:
        source = make_source(name)
        psi = source.psi(model.policy, memory)
        own = _estimate(model, source, memory, _weights(psi, seed))
        started = time.perf_counter()
        given = _estimate(model, source, memory, true_weight)
        seconds = time.perf_counter() - started
        result[name] = {
            "cosine": _cosine(own, reference),
            "given weights": _cosine(given, reference),
            "length": float(given @ reference / (reference @ reference)),
            "ms": 1e3 * seconds,
            "score": _score_error(psi.numpy(), true_psi.numpy()),
        }
    result["failures"] |= _counted(memory, true_psi.numpy())
    return result


def _estimate(model: ForecastPPO, source: RiskSource, memory: TaskMemory, weight: torch.Tensor) -> NDArray[np.float64]:
    if bool(weight.any()):
        gradient = source.score_gradient(model.policy, memory, weight)
        if gradient.n_rows:
            return _gradient(model, lambda: gradient.loss(model.policy))
    # Nothing that could be moved: no failure among the tasks that count.
    return np.zeros(sum(p.numel() for p in _actor(model)))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    # No weight, no direction: an estimator that says nothing is as good as one at right angles.
    return float(a @ b / size) if size > 0 else 0.0


def _score_error(psi: NDArray[np.float64], true_psi: NDArray[np.float64]) -> float:
    """Mean |error| of the 50 worst tasks' scores, psi."""
    worst = np.argsort(true_psi)[-50:]
    return float(np.abs(np.maximum(psi[worst], -5) - np.maximum(true_psi[worst], -5)).mean())


def _counted(memory: TaskMemory, true_psi: NDArray[np.float64]) -> dict[str, float]:
    """What a report from counts says of the worst of 10 000 tasks, less what the exact scores say, psi."""
    summary = TailSummary.from_scores(true_psi[np.isfinite(true_psi)])
    truth = make_forecaster("shape_prior", 20).fit(summary).point(10_000)
    failures = np.round(memory.failure_rate * memory.episodes).astype(np.int64)
    found = {}
    for title, method in (("binomial tail", "binomial_tail"), ("counts as scores", "shape_prior")):
        try:
            counts = TailSummary.from_counts(failures, memory.episodes)
            found[title] = make_forecaster(method, 20).fit(counts).point(10_000) - truth
        except NoTailError:
            found[title] = float("nan")
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=8, help="seeds of the played tasks and episodes")
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(Config(), seed=100)
    world = make_world(config.world)
    base = make_base(config, world)
    base.learn(config.base.total_timesteps)
    tuned = make_fine_tuned("forecast_ppo", config, world, base)
    tuned.learn(config.fine_tune.total_timesteps)
    log_action_probability(base.policy, torch.zeros(1, world.observation.dimension))  # first use builds caches
    for title, agent in (("Before fine-tuning", base), ("After fine-tuning with ForecastPPO", tuned)):
        print(f"\n### {title}\n")
        print("| episodes | estimator | cosine | cosine, exact weights | length | score error | ms |")
        print("|---:|---|---:|---:|---:|---:|---:|")
        reports = []
        for episodes in arguments.episodes:
            rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for seed in range(arguments.repetitions):
                for name, row in _compare(_play(agent.policy, config, world, episodes, seed), seed).items():
                    for key, value in row.items():
                        rows[name][key].append(value)
            for name in ("direct", "flow", "failures", "exact"):
                print(f"| {episodes} | {name} | " + " | ".join(_cells(rows[name])) + " |", flush=True)
            counted = [rows["failures"][key] for key in ("binomial tail", "counts as scores")]
            reports.append(f"| {episodes} | " + " | ".join(_mean(values, "{:+.2f}") for values in counted) + " |")
        print("\n| episodes | binomial tail of counts | counts taken as scores |\n|---:|---:|---:|")
        print("\n".join(reports), flush=True)


def _cells(row: dict[str, list[float]]) -> list[str]:
    cells = [_mean(row[key], "{:.2f}") for key in ("cosine", "given weights", "length")]
    return [*cells, _mean(row["score"], "{:.2f}") if "score" in row else "0", f"{np.median(row['ms']):.0f}"]


def _mean(values: list[float], layout: str) -> str:
    """Mean and standard deviation over repetitions; how many are undefined."""
    known = np.array(values)[np.isfinite(values)]
    if len(known) == 0:
        return "none"
    missing = f", {len(values) - len(known)} none" if len(known) < len(values) else ""
    return f"{layout.format(known.mean())} ± {known.std():.2f}{missing}"


if __name__ == "__main__":
    main()
