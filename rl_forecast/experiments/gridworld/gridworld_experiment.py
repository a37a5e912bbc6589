"""The gridworld job: PPO agents, scored exactly by dynamic programming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from agents.callbacks import ForecastEvalCallback
from rl_forecast.experiments.experiment import Run
from rl_forecast.experiments.gridworld.agent_files import (
    KeepCheckpoint,
    has_agent,
    load_policy,
    restore,
    save_agent,
    steps_of,
)
from rl_forecast.experiments.gridworld.agents import make_base, make_fine_tuned
from rl_forecast.experiments.gridworld.task_pictures import worst_tasks_sheet
from rl_forecast.experiments.gridworld.worlds import held_out_tasks, make_world, score_tasks
from rl_forecast.experiments.metrics import Kind, title_of
from rl_forecast.experiments.progress import Phase
from rl_forecast.experiments.settings import Config
from rl_forecast.experiments.tensorboard import GRIDWORLD_LAYOUT, drawn, training_logger
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.tasks import SPLITS

# Tasks on an agent's sheet of riskiest ones.
_N_WORST = 9


class GridworldExperiment:
    """See :class:`rl_forecast.experiments.experiment.Experiment`."""

    kind: Kind = "gridworld"

    def __init__(self, config: Config, run: Run) -> None:
        self.config: Any = config
        self.folder, self.progress, self.device = run.folder, run.progress, run.processes.device
        self.split = run.split
        self.world = make_world(config.world)

    @cached_property
    def base(self) -> ActorCriticPolicy:
        """The base agent, which the others start from."""
        return load_policy(self.folder, "base", self.config.base).to(self.device)

    def train(self, name: str) -> ActorCriticPolicy:
        """Train an agent, unless that has been done."""
        if has_agent(self.folder, name):
            self.progress.say(f"{title_of(name)}: done before")
            return self.load(name)
        # What an agent draws at random depends on its seed alone, not on the agents before it.
        if name == "base":
            model = make_base(self.config, self.world, self.device)
        else:
            model = make_fine_tuned(name, self.config, self.world, self.base, self.device)
        start = self._resume(name, model)
        if name == "base":
            self._train_base(model, start)
        else:
            self._learn(name, model, 0, self.config.fine_tune.total_timesteps, start)
        model.logger.close()
        save_agent(self.folder, name, model)
        return model.policy

    def load(self, name: str) -> ActorCriticPolicy:
        """A saved agent."""
        return load_policy(self.folder, name, self.config.base).to(self.device)

    def _train_base(self, model: PPO, start: int | None) -> None:
        config = self.config.base
        # A round ends with the rollout in which it reaches its steps.
        rollout = config.n_envs * config.n_steps
        steps = -(-config.total_timesteps // rollout) * rollout
        first = 0 if start is None else (start - 1) // steps
        for round_ in range(first, config.max_rounds):
            begin = round_ * steps
            self._learn("base", model, begin, begin + config.total_timesteps, start if round_ == first else None)
            table = score_tasks(self.world, model.policy, self._validation_tasks())
            success = float(table["success"].to_numpy().mean())
            if success >= config.success_threshold:
                break
            last = round_ + 1 == config.max_rounds
            self.progress.say(
                f"success on validation tasks is {success:.3f}, below {config.success_threshold}: "
                + ("it is used nevertheless, this was the last round" if last else "training another round")
            )

    def _resume(self, name: str, model: PPO) -> int | None:
        """Give an agent its logger and, if an earlier process has trained it, the state it was left in.

        :return: environment step at which it resumes, ``None`` if it begins
        """
        recorded: dict[str, float] = {}
        if not self.folder.restore_checkpoint(name, lambda *state: recorded.update(restore(model, *state))):
            if (self.folder.path / f"tensorboard/{name}").is_dir():
                self.progress.say(f"{title_of(name)}: beginning again, it had no checkpoint yet")
            model.set_logger(training_logger(self.folder, name, GRIDWORLD_LAYOUT))
            return None
        logger = training_logger(self.folder, name, GRIDWORLD_LAYOUT, model.num_timesteps)
        for key, value in recorded.items():
            logger.record(key, value)
        model.set_logger(logger)
        return model.num_timesteps

    def _learn(self, name: str, model: PPO, begin: int, end: int, start: int | None) -> None:
        """Train an agent from environment step ``begin`` to ``end``, resuming at ``start`` unless that is ``None``."""
        evaluation = self.config.evaluation
        evaluate = ForecastEvalCallback(
            self._validation_scores,
            make_forecaster(evaluation.forecaster, evaluation.tail_k),
            self.config.validation.every,
            None if start is None else begin,
        )
        if start is not None:
            self.progress.say(f"{title_of(name)}: resumed at step {start} of {end}")
        with self.progress.phase(f"train {title_of(name)}", end - begin) as phase:
            phase.advance(model.num_timesteps - begin)
            callbacks: list[BaseCallback] = [_Steps(phase)]
            if self.config.checkpoint_every:
                # Before the evaluation, which does its work again when the training resumes.
                callbacks.append(KeepCheckpoint(self.folder, name, self.config.checkpoint_every))
            model.learn(
                max(0, end - model.num_timesteps),
                callback=[*callbacks, evaluate],
                reset_num_timesteps=model.num_timesteps == 0,
            )

    def _validation_tasks(self) -> NDArray[np.int64]:
        v = self.config.validation
        return SPLITS["validation"].task_ids(v.n_eval * v.n_eval_sets + v.n_deploy, self.config.seed)

    def _validation_scores(self, policy: BasePolicy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        v = self.config.validation
        psi = score_tasks(self.world, policy, self._validation_tasks())["psi"].to_numpy()  # type: ignore[arg-type]
        n_evaluation = v.n_eval * v.n_eval_sets
        return psi[:n_evaluation].reshape(v.n_eval_sets, -1), psi[None, n_evaluation:]

    def tasks(self) -> pl.DataFrame:
        """Columns ``part`` and ``task_id``."""
        return held_out_tasks(self.config, self.world, self.split)

    def score(
        self, agent: ActorCriticPolicy, tasks: pl.DataFrame, report: Callable[[int], None] = lambda n: None
    ) -> pl.DataFrame:
        """Exact risk of a policy."""
        return tasks.select("part").hstack(score_tasks(self.world, agent, tasks["task_id"].to_numpy(), report))

    def notes(self, name: str, agent: ActorCriticPolicy) -> dict[str, float]:
        """Environment steps of training."""
        return {"steps": steps_of(self.folder, name)}

    def pictures(self, name: str, agent: ActorCriticPolicy, scores: pl.DataFrame) -> dict[str, Any]:
        """The riskiest tasks."""
        return {"final/worst_tasks": drawn(worst_tasks_sheet(self.world, scores, agent, title_of(name), _N_WORST))}

    def hyper_parameters(self, name: str) -> dict[str, Any]:
        """Settings that the agent uses."""
        config = self.config
        shown = {"agent": name, "seed": config.seed, "world": self.world.family, "severity": self.world.shown_severity}
        shown |= asdict(config.base if name == "base" else config.fine_tune)
        if name == "forecast_ppo":
            shown |= {f"forecast.{key}": value for key, value in asdict(config.forecast).items()}
        if name not in ("base", "ppo", "forecast_ppo", "anchor"):
            shown |= {f"penalty.{key}": value for key, value in asdict(config.penalty).items()}
        return shown


class _Steps(BaseCallback):
    """Reports environment steps."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self._phase = phase

    def _on_step(self) -> bool:
        self._phase.advance(self.training_env.num_envs)
        return True
