"""The main job: train, fine-tune, forecast, check."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from rich.console import Console

from agents.callbacks import ForecastEvalCallback
from rl_forecast.errors import InputError
from rl_forecast.experiments.event_files import outcome_logger, training_logger
from rl_forecast.experiments.figures import survival_figure
from rl_forecast.experiments.gridworld.agent_files import has_agent, load_agent, save_agent
from rl_forecast.experiments.gridworld.checkpoints import KeepCheckpoint, checkpoint_path, restore_checkpoint
from rl_forecast.experiments.gridworld.models import make_base, make_fine_tuned
from rl_forecast.experiments.gridworld.task_pictures import worst_tasks_sheet
from rl_forecast.experiments.gridworld.worlds import make_world, score_tasks
from rl_forecast.experiments.held_out import evaluation_title, held_out_tasks, print_metrics
from rl_forecast.experiments.metrics import PARTS, TITLES, HeldOutScores, metrics_of
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.settings import Config
from rl_forecast.experiments.tensorboard import GRIDWORLD_LAYOUT, drawn, record_outcome
from rl_forecast.forecasting.methods import make_forecaster
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.policies import BasePolicy

    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.run_folder import RunFolder
    from rl_forecast.experiments.settings import AgentName

__all__ = ["print_outcome", "run_gridworld_job"]

# Tasks on an agent's sheet of riskiest ones.
_N_WORST = 9


def run_gridworld_job(config: Config, folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Run it and fill the run folder, or go on where an interrupted run stopped.

    :param config: the configuration
    :param folder: a new run folder, or that of an interrupted run
    :return: agent name to metrics, as in ``metrics.json``
    """
    console = Console()
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
    with PhaseProgress(console) as progress:
        metrics = _Job(config, folder, progress).run()
    _print(console, config, folder, metrics)
    folder.finish(progress.seconds)
    return metrics


def print_outcome(config: Config, folder: RunFolder) -> None:
    """Print the table of a finished run.

    :param config: its configuration
    :param folder: its folder
    """
    console = Console()
    console.print(f"run folder: {folder.path}: finished before, nothing to do", highlight=False, soft_wrap=True)
    rows = folder.metrics()
    # The file is sorted by name; the table is in the order of the agents.
    names = dict.fromkeys(("base", *config.agents))
    _print(console, config, folder, {name: rows[name] for name in names if name in rows})


def _print(console: Console, config: Config, folder: RunFolder, metrics: dict[str, dict[str, Any]]) -> None:
    print_metrics(console, metrics, evaluation_title(config.evaluation, config.seed))
    console.print(
        f"curves and figures: tensorboard --logdir {folder.path / 'tensorboard'}", highlight=False, soft_wrap=True
    )


class _Job:
    """State of one run; its methods are the steps in order."""

    def __init__(self, config: Config, folder: RunFolder, progress: PhaseProgress) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress
        torch.set_num_threads(config.threads)
        try:
            self.device = torch.device(config.device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {config.device!r} is not available here: use cpu") from error
        self.world: GridWorld = make_world(config.world)

    def run(self) -> dict[str, dict[str, Any]]:
        models = self._train()
        scores = self._score(models)
        self.folder.write_table("scores.parquet", pl.concat(scores.values()))
        held_out = {
            name: HeldOutScores(table, scores["base"], self.config.evaluation) for name, table in scores.items()
        }
        metrics: dict[str, dict[str, Any]] = {name: metrics_of("gridworld", one) for name, one in held_out.items()}
        self.folder.write_json("metrics.json", metrics)
        self._illustrate(models, held_out, metrics)
        return metrics

    def _illustrate(
        self,
        models: dict[AgentName, PPO],
        held_out: dict[AgentName, HeldOutScores],
        metrics: dict[str, dict[str, Any]],
    ) -> None:
        """The figures, and each agent's outcome in TensorBoard."""
        figure = survival_figure(
            {TITLES[name]: (one.parts["deployment"].ravel(), one.errors) for name, one in held_out.items()},
            n_eval=self.config.evaluation.n_eval,
            n_deploy=self.config.evaluation.n_deploy,
        )
        self.folder.write("survival.png", lambda path: figure.savefig(path, dpi=150))
        survival = drawn(figure)
        for name, one in held_out.items():
            model = models[name]
            worst = worst_tasks_sheet(
                self.world,
                one.scores["task_id"].to_numpy(),
                one.scores["psi"].to_numpy(),
                model.policy,
                TITLES[name],
                _N_WORST,
            )
            figures = {"survival_and_forecast": survival, "worst_tasks": drawn(worst)}
            logger = outcome_logger(self.folder, name)
            record_outcome(logger, model.num_timesteps, self._hyper_parameters(name), metrics[name], figures)

    # -- training -------------------------------------------------------------------------------------------------

    def _train(self) -> dict[AgentName, PPO]:
        """All agents, the base first; each is saved when it is done, and not trained again."""
        models: dict[AgentName, PPO] = {}
        names: list[AgentName] = ["base", *(name for name in self.config.agents if name != "base")]
        for name in names:
            model = self._make(name, models)
            if has_agent(self.folder, name):
                load_agent(self.folder, name, model)
                self.progress.say(f"{TITLES[name]}: done before")
            else:
                start = self._go_on(name, model)
                if name == "base":
                    self._train_base(model, start)
                else:
                    self._learn(name, model, 0, self.config.fine_tune.total_timesteps, start)
                model.logger.close()
                save_agent(self.folder, name, model)
            checkpoint_path(self.folder, name).unlink(missing_ok=True)
            models[name] = model
        return models

    def _make(self, name: AgentName, models: dict[AgentName, PPO]) -> PPO:
        """The untrained agent. What it draws at random depends on its seed alone, not on the agents before it."""
        if name == "base":
            return make_base(self.config, self.world, self.device)
        return make_fine_tuned(name, self.config, self.world, models["base"], self.device)

    def _train_base(self, model: PPO, start: int | None) -> None:
        config = self.config.base
        # A round ends with the rollout in which it reaches its steps.
        rollout = config.n_envs * config.n_steps
        steps = -(-config.total_timesteps // rollout) * rollout
        first = 0 if start is None else (start - 1) // steps
        for round_ in range(first, config.max_rounds):
            begin = round_ * steps
            self._learn("base", model, begin, begin + config.total_timesteps, start if round_ == first else None)
            success = self._validation_success(model)
            if success >= config.success_threshold:
                break
            last = round_ + 1 == config.max_rounds
            self.progress.say(
                f"success on validation tasks is {success:.3f}, below {config.success_threshold}: "
                + ("going on with it after the last round" if last else "training another round")
            )

    def _go_on(self, name: AgentName, model: PPO) -> int | None:
        """Give an agent its logger and, if an earlier process has trained it, the state it was left in.

        :return: environment step it goes on from, ``None`` if it begins
        """
        path = checkpoint_path(self.folder, name)
        if not path.is_file():
            if (self.folder.path / f"tensorboard/{name}").is_dir():
                self.progress.say(f"{TITLES[name]}: beginning again, it had no checkpoint yet")
            model.set_logger(training_logger(self.folder, name, GRIDWORLD_LAYOUT))
            return None
        recorded = restore_checkpoint(path, model)
        logger = training_logger(self.folder, name, GRIDWORLD_LAYOUT, model.num_timesteps)
        for key, value in recorded.items():
            logger.record(key, value)
        model.set_logger(logger)
        return model.num_timesteps

    def _learn(self, name: AgentName, model: PPO, begin: int, end: int, start: int | None) -> None:
        """Train an agent.

        :param name: which one
        :param model: the agent
        :param begin: environment step at which this training begins
        :param end: environment step at which it ends
        :param start: environment step at which to go on with it, ``None`` where no earlier process has begun it
        """
        validation = self.config.validation
        forecaster = make_forecaster(self.config.evaluation.forecaster, self.config.evaluation.tail_k)
        evaluate = ForecastEvalCallback(
            self._validation_scores, forecaster, validation.every, None if start is None else begin
        )
        if start is not None:
            self.progress.say(f"{TITLES[name]}: going on from step {start} of {end}")
        with self.progress.phase(f"train {TITLES[name]}", end - begin) as phase:
            phase.advance(model.num_timesteps - begin)
            callbacks: list[BaseCallback] = [phase.callback()]
            if self.config.checkpoint_every:
                # Before the evaluation, which does its work again when the training goes on.
                callbacks.append(KeepCheckpoint(self.folder, name, self.config.checkpoint_every))
            model.learn(
                max(0, end - model.num_timesteps),
                callback=[*callbacks, evaluate],
                reset_num_timesteps=model.num_timesteps == 0,
            )

    def _hyper_parameters(self, name: AgentName) -> dict[str, Any]:
        """What distinguishes an agent, flat, for TensorBoard's HParams page."""
        shown: dict[str, Any] = {
            "agent": name,
            "seed": self.config.seed,
            "world": self.world.family,
            "severity": self.world.shown_severity,
        }
        settings: Any = self.config.base if name == "base" else self.config.fine_tune
        shown |= asdict(settings)
        if name == "forecast_ppo":
            shown |= {f"forecast.{key}": value for key, value in asdict(self.config.forecast).items()}
        if name not in ("base", "ppo", "forecast_ppo", "anchor"):
            shown |= {f"penalty.{key}": value for key, value in asdict(self.config.penalty).items()}
        return shown

    # -- scores ---------------------------------------------------------------------------------------------------

    def _validation_tasks(self) -> NDArray[np.int64]:
        v = self.config.validation
        return SPLITS["validation"].task_ids(v.n_eval * v.n_eval_sets + v.n_deploy, self.config.seed)

    def _validation_scores(self, policy: BasePolicy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        v = self.config.validation
        psi = score_tasks(self.world, policy, self._validation_tasks())["psi"].to_numpy()  # type: ignore[arg-type]
        n_evaluation = v.n_eval * v.n_eval_sets
        return psi[:n_evaluation].reshape(v.n_eval_sets, -1), psi[None, n_evaluation:]

    def _validation_success(self, model: PPO) -> float:
        table = score_tasks(self.world, model.policy, self._validation_tasks())
        return float(table["success"].to_numpy().mean())

    def _score(self, models: dict[AgentName, PPO]) -> dict[AgentName, pl.DataFrame]:
        """Scores of every agent on the held-out tasks; an agent's are kept until the run is finished."""
        tasks = held_out_tasks(self.config.evaluation, self.config.seed, self.world.evaluation_split)
        n_tasks = sum(len(ids) for ids in tasks.values())
        scores: dict[AgentName, pl.DataFrame] = {}
        with self.progress.phase("score held-out tasks", len(models) * n_tasks) as phase:
            for name, model in models.items():
                kept = f"checkpoints/scores-{name}.parquet"
                if (self.folder.path / kept).is_file():
                    scores[name] = _read_table(self.folder.path / kept)
                    phase.advance(n_tasks)
                    continue
                parts = [
                    score_tasks(self.world, model.policy, tasks[part], phase.advance).select(
                        pl.lit(name).alias("agent"), pl.lit(part).alias("part"), pl.all()
                    )
                    for part in PARTS
                ]
                scores[name] = pl.concat(parts)
                self.folder.write_table(kept, scores[name])
        return scores


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read: {error}; delete it to score this agent again") from error
