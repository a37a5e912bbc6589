"""The jobs of a sweep. Each is a function of its arguments and the files of earlier jobs, and leaves one table last."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from rich.console import Console

from agents.risk.base import log_action_probability
from envs.gridworld.vec_env import GridVecEnv
from rl_forecast.experiments.experiment import Run, make_experiment
from rl_forecast.experiments.metrics import HeldOutScores, metrics_of, undefined_as_none
from rl_forecast.experiments.processes import Processes
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import LanguageConfig
from rl_forecast.experiments.sweep.config import MethodConfig, SweepConfig, run_config
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from stable_baselines3.common.policies import ActorCriticPolicy

    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.experiment import Experiment
    from rl_forecast.experiments.settings import AnyConfig

__all__ = ["BaseJob", "FineTuneJob"]

# States of the base agent on which the distance from it is measured.
_KL_ENVS, _KL_STEPS = 256, 40
# A job is an ordinary run in this folder, of which only what others need is kept.
_RUN = "run"


def _experiment(config: AnyConfig, folder: RunFolder, split: str) -> Experiment:
    folder.file(f"{_RUN}/agents").mkdir(exist_ok=True)
    processes = Processes(0, 1, torch.device(config.device))
    run = Run(RunFolder(folder.path / _RUN), processes, PhaseProgress(Console(quiet=True)), split)
    return make_experiment(config, run)


def _scores(experiment: Experiment, agent: Any) -> pl.DataFrame:
    return experiment.score(agent, experiment.tasks(), lambda n: None)


@dataclass(frozen=True)
class BaseJob:
    """Train a base agent and score it on the tasks on which it will be compared.

    :param world: world
    :param seed: seed
    :param split: split of those tasks
    """

    world: str
    seed: int
    split: str

    @property
    def home(self) -> str:
        """Folder of the agent; its scores and notes are beside it."""
        return f"bases/{self.world}-{self.seed}"

    @property
    def key(self) -> str:
        """Name of the job's file."""
        return f"{self.home}.parquet"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files of earlier jobs that it reads."""
        return ()

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Do it."""
        experiment = _experiment(run_config(sweep, self.world, self.seed), folder, self.split)
        agent = experiment.train("base")
        scores = _scores(experiment, agent)
        folder.write_json(f"{self.home}.json", undefined_as_none(experiment.notes("base", agent)))
        saved = folder.path / _RUN / "agents" / "base"
        saved.mkdir(exist_ok=True)  # a model that was given by name is not saved
        shutil.move(saved, folder.path / self.home)
        shutil.rmtree(folder.path / _RUN)
        folder.write_table(self.key, scores)


@dataclass(frozen=True)
class FineTuneJob:
    """Fine-tune a base agent with one method and compare it with the base agent.

    :param world: world
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
    def base(self) -> BaseJob:
        """The job whose agent it fine-tunes."""
        return BaseJob(self.world, self.seed, self.split)

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
        return self.base.home, f"{self.base.home}.json", self.base.key

    @property
    def _name(self) -> str:
        weight = "" if self.weight is None else f"-{self.weight:g}"
        return f"{self.world}-{self.seed}-{self.method.name}{weight}"

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Do it and write one row."""
        config = run_config(sweep, self.world, self.seed, self.method, self.weight)
        saved = folder.path / self.base.home
        if isinstance(config, LanguageConfig) and not config.model:
            config = replace(config, model=str(saved))
        experiment = _experiment(config, folder, self.split)
        shutil.copytree(saved, folder.path / _RUN / "agents" / "base")
        agent = experiment.train(self.method.agent)
        scores = _scores(experiment, agent)
        base = pl.read_parquet(folder.path / self.base.key)
        notes = undefined_as_none(experiment.notes(self.method.agent, agent))
        base_notes = json.loads((folder.path / f"{self.base.home}.json").read_text())
        held_out = HeldOutScores(scores, base, experiment.config.evaluation)
        row = {"world": self.world, "seed": self.seed, "method": self.method.name, "weight": self.weight}
        row |= metrics_of(sweep.kind, held_out, notes.get("accuracy"), base_notes.get("accuracy"))
        if sweep.kind == "gridworld":
            parts: Any = experiment
            row["kl_from_base"] = _kl_from_base(parts.world, parts.base, agent, self.seed)
        shutil.rmtree(folder.path / _RUN)
        # The scores themselves stay: figures and later questions need them, and training again is expensive.
        folder.write_table(self.scores_key, scores)
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
