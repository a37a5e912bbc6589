"""The jobs of a sweep. Each is a function of its arguments and the files of earlier jobs, and leaves one table last."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from rich.console import Console
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.risk.base import log_action_probability
from envs.gridworld.vec_env import GridVecEnv
from envs.gridworld.world import GridWorld
from rl_forecast.experiments.experiment import Run, make_experiment
from rl_forecast.experiments.metrics import HeldOutScores, metrics_of, undefined_as_none
from rl_forecast.experiments.processes import Processes
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import AnyConfig, LanguageConfig
from rl_forecast.experiments.sweep.config import MethodConfig, SweepConfig, run_config
from rl_forecast.tasks import SPLITS

# States of the base agent on which the distance from it is measured.
_KL_ENVS, _KL_STEPS = 256, 40
# A job is an ordinary run in this folder, of which only what others need is kept.
_RUN = "run"


def _train(
    config: AnyConfig, folder: RunFolder, split: str, name: str
) -> tuple[Any, Any, pl.DataFrame, dict[str, Any]]:
    """The experiment, the agent that it trains, its scores and notes."""
    folder.file(f"{_RUN}/agents").mkdir(exist_ok=True)
    processes = Processes(0, 1, torch.device(config.device))
    run = Run(RunFolder(folder.path / _RUN), processes, PhaseProgress(Console(quiet=True)), split)
    experiment = make_experiment(config, run)
    agent = experiment.train(name)
    scores = experiment.score(agent, experiment.tasks(), lambda n: None)
    return experiment, agent, scores, undefined_as_none(experiment.notes(name, agent))


@dataclass(frozen=True)
class BaseJob:
    """Train a base agent and score it on the tasks, of ``split``, on which it will be compared."""

    world: str
    seed: int
    split: str
    inputs: ClassVar[tuple[str, ...]] = ()

    @property
    def home(self) -> str:
        """Folder of the agent; its scores and notes are beside it."""
        return f"bases/{self.world}-{self.seed}"

    @property
    def key(self) -> str:
        return f"{self.home}.parquet"

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        _, _, scores, notes = _train(run_config(sweep, self.world, self.seed), folder, self.split, "base")
        folder.write_json(f"{self.home}.json", notes)
        saved = folder.path / _RUN / "agents" / "base"
        saved.mkdir(exist_ok=True)  # a model that was given by name is not saved
        shutil.move(saved, folder.path / self.home)
        shutil.rmtree(folder.path / _RUN)
        folder.write_table(self.key, scores)


@dataclass(frozen=True)
class FineTuneJob:
    """Fine-tune a base agent with one method, ``weight`` the value of its tuned option if any, and compare the two."""

    world: str
    seed: int
    method: MethodConfig
    weight: float | None
    split: str

    @property
    def base(self) -> BaseJob:
        """The job whose agent it fine-tunes."""
        return BaseJob(self.world, self.seed, self.split)

    @property
    def key(self) -> str:
        weight = "" if self.weight is None else f"-{self.weight:g}"
        return f"{self.split}/{self.world}-{self.seed}-{self.method.name}{weight}.parquet"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.base.home, f"{self.base.home}.json", self.base.key

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        config = run_config(sweep, self.world, self.seed, self.method, self.weight)
        saved = folder.path / self.base.home
        if isinstance(config, LanguageConfig) and not config.model:
            config = replace(config, model=str(saved))
        shutil.copytree(saved, folder.path / _RUN / "agents" / "base")
        experiment, agent, scores, notes = _train(config, folder, self.split, self.method.agent)
        base = pl.read_parquet(folder.path / self.base.key)
        base_notes = json.loads((folder.path / f"{self.base.home}.json").read_text())
        held_out = HeldOutScores(scores, base, experiment.config.evaluation)
        row = {"world": self.world, "seed": self.seed, "method": self.method.name, "weight": self.weight}
        row |= metrics_of(sweep.kind, held_out, notes.get("accuracy"), base_notes.get("accuracy"))
        if sweep.kind == "gridworld":
            row["kl_from_base"] = _kl_from_base(experiment.world, experiment.base, agent, self.seed)
        shutil.rmtree(folder.path / _RUN)
        # The scores themselves stay: figures and later questions need them, and training again is expensive.
        folder.write_table(self.key.replace("/", "/scores/", 1), scores)
        folder.write_table(self.key, pl.DataFrame([row], schema_overrides={"weight": pl.Float64}))


@torch.no_grad()
def _kl_from_base(world: GridWorld, base: ActorCriticPolicy, agent: ActorCriticPolicy, seed: int) -> float:
    """Mean KL(base || agent), nats per step, over the states that the base agent visits on held-out tasks."""
    env = GridVecEnv(world, SPLITS["held_out"].task_ids(2000, seed), _KL_ENVS, seed=seed)
    rng = np.random.default_rng(seed)
    observation, total = env.reset(), 0.0
    for _ in range(_KL_STEPS):
        seen = torch.as_tensor(observation)
        log_base, log_agent = (log_action_probability(policy, seen).double() for policy in (base, agent))
        pi = log_base.exp()
        total += float((pi * (log_base - log_agent)).sum(dim=1).mean())
        above = rng.random((_KL_ENVS, 1)) > pi.numpy().cumsum(axis=1)
        observation, *_ = env.step(above.sum(axis=1).clip(max=pi.shape[1] - 1))
    return total / _KL_STEPS
