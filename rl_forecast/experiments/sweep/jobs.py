"""The jobs of a sweep. Each is a function of its arguments and the files of earlier jobs, and leaves one file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from agents.risk.base import log_action_probability
from envs.gridworld.vec_env import GridVecEnv
from rl_forecast.experiments.gridworld.agents import make_base, make_fine_tuned
from rl_forecast.experiments.gridworld.worlds import held_out_tasks, make_world, score_tasks
from rl_forecast.experiments.metrics import HeldOutScores, metrics_of
from rl_forecast.experiments.sweep.config import MethodConfig, SweepConfig, with_options
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from stable_baselines3 import PPO

    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.run_folder import RunFolder
    from rl_forecast.experiments.settings import Config

__all__ = ["BaseJob", "FineTuneJob"]

# States of the base agent on which the distance from it is measured.
_KL_ENVS, _KL_STEPS = 256, 40


def _run_config(sweep: SweepConfig, world: str, seed: int) -> Config:
    config = with_options(sweep.run, {"world.family": world})
    return replace(config, seed=seed, threads=1)


def _score(world: GridWorld, model: PPO, config: Config, split: str) -> pl.DataFrame:
    """Scores of both parts of a split."""
    tasks = held_out_tasks(config, world, split)
    return score_tasks(world, model.policy, tasks["task_id"].to_numpy()).hstack(tasks.select("part"))


@dataclass(frozen=True)
class BaseJob:
    """Train a base agent and score it on the tasks on which it will be compared.

    :param world: family
    :param seed: seed
    :param split: split of those tasks
    """

    world: str
    seed: int
    split: str

    @property
    def key(self) -> str:
        """Name of the job's file."""
        return f"bases/{self.world}-{self.seed}.parquet"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files of earlier jobs that it reads."""
        return ()

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Do it; the weights lie beside the scores."""
        torch.set_num_threads(1)
        config = _run_config(sweep, self.world, self.seed)
        world = make_world(config.world)
        model = make_base(config, world)
        for n_left in reversed(range(config.base.max_rounds)):
            model.learn(config.base.total_timesteps, reset_num_timesteps=model.num_timesteps == 0)
            if not n_left:
                break
            tasks = SPLITS["validation"].task_ids(2000, config.seed)
            if score_tasks(world, model.policy, tasks)["success"].mean() >= config.base.success_threshold:  # type: ignore[operator]
                break
        state = {key: value.contiguous() for key, value in model.policy.state_dict().items()}
        folder.write(f"bases/{self.world}-{self.seed}.safetensors", lambda path: save_file(state, path))
        folder.write_table(self.key, _score(world, model, config, self.split))


@dataclass(frozen=True)
class FineTuneJob:
    """Fine-tune a base agent with one method and judge it.

    :param world: family
    :param seed: seed
    :param method: the method
    :param weight: value of the tuned option, ``None`` if there is none
    :param split: ``validation`` while weights are chosen, ``held_out`` once they are
    """

    world: str
    seed: int
    method: MethodConfig
    weight: float | None
    split: str

    @property
    def key(self) -> str:
        """Name of the job's file, one row of metrics."""
        return f"{self.split}/{self._name}.parquet"

    @property
    def scores_key(self) -> str:
        """Name of the file with the score of every task, written before :attr:`key`."""
        return f"{self.split}/scores/{self._name}.parquet"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files of earlier jobs that it reads."""
        return f"bases/{self.world}-{self.seed}.safetensors", f"bases/{self.world}-{self.seed}.parquet"

    @property
    def _name(self) -> str:
        weight = "" if self.weight is None else f"-{self.weight:g}"
        return f"{self.world}-{self.seed}-{self.method.name}{weight}"

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Do it and write one row."""
        torch.set_num_threads(1)
        options = dict(self.method.options)
        if self.weight is not None:
            options[self.method.weight] = self.weight
        config = with_options(_run_config(sweep, self.world, self.seed), options)
        world = make_world(config.world)
        base = make_base(config, world)
        base.policy.load_state_dict(load_file(folder.path / f"bases/{self.world}-{self.seed}.safetensors"))
        model = make_fine_tuned(self.method.agent, config, world, base.policy)
        model.learn(config.fine_tune.total_timesteps)
        base_scores = pl.read_parquet(folder.path / f"bases/{self.world}-{self.seed}.parquet")
        scores = _score(world, model, config, self.split)
        row = {"world": self.world, "seed": self.seed, "method": self.method.name, "weight": self.weight}
        row |= metrics_of("gridworld", HeldOutScores(scores, base_scores, config.evaluation))
        row["kl_from_base"] = _kl_from_base(world, base, model, self.seed)
        # The scores themselves stay: figures and later questions need them, and training again is dear.
        folder.write_table(self.scores_key, scores)
        folder.write_table(self.key, pl.DataFrame([row], schema_overrides={"weight": pl.Float64}))


@torch.no_grad()
def _kl_from_base(world: GridWorld, base: PPO, model: PPO, seed: int) -> float:
    """Mean KL(base || model), nats per step, over the states that the base agent visits on held-out tasks."""
    env = GridVecEnv(world, SPLITS["held_out"].task_ids(2000, seed), _KL_ENVS, seed=seed)
    rng = np.random.default_rng(seed)
    observation, total = env.reset(), 0.0
    for _ in range(_KL_STEPS):
        seen = torch.as_tensor(observation)
        log_base, log_model = (log_action_probability(m.policy, seen).double() for m in (base, model))
        pi = log_base.exp()
        total += float((pi * (log_base - log_model)).sum(dim=1).mean())
        above = rng.random((_KL_ENVS, 1)) > pi.numpy().cumsum(axis=1)
        observation, *_ = env.step(above.sum(axis=1).clip(max=pi.shape[1] - 1))
    return total / _KL_STEPS
