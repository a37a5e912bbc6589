"""The main job: train, fine-tune, forecast, check."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from rich.console import Console
from stable_baselines3.common.logger import configure

from agents.callbacks import ForecastEvalCallback
from rl_forecast.experiments.config import Config
from rl_forecast.experiments.gridworld.agent_files import save_agent
from rl_forecast.experiments.gridworld.models import make_base, make_fine_tuned
from rl_forecast.experiments.gridworld.task_pictures import worst_tasks_sheet
from rl_forecast.experiments.gridworld.worlds import make_world, score_tasks
from rl_forecast.experiments.held_out import (
    PARTS,
    TITLES,
    AgentResult,
    agent_result,
    evaluation_title,
    held_out_tasks,
    print_metrics,
)
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.tensorboard import record_outcome
from rl_forecast.figures import survival_figure
from rl_forecast.forecasters import make_forecaster
from rl_forecast.tasks import SPLITS
from rl_forecast.usage import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from stable_baselines3 import PPO
    from stable_baselines3.common.policies import BasePolicy

    from envs.gridworld.world import GridWorld
    from rl_forecast.experiments.config import AgentName
    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["run_gridworld_job"]

# Tasks on an agent's sheet of riskiest ones.
_N_WORST = 9


def run_gridworld_job(config: Config, folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Run it and fill the run folder.

    :param config: the configuration
    :param folder: an empty run folder
    :return: agent name to metrics, as in ``metrics.json``
    """
    console = Console()
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
    with PhaseProgress(console) as progress:
        results = _Job(config, folder, progress).run()
    metrics: dict[str, dict[str, Any]] = {name: result.metrics for name, result in results.items()}
    print_metrics(console, metrics, evaluation_title(config.evaluation, config.seed))
    console.print(
        f"curves and figures: tensorboard --logdir {folder.path / 'tensorboard'}", highlight=False, soft_wrap=True
    )
    folder.write_json("timings.json", progress.seconds)
    return metrics


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
            raise UsageError(f"--device {config.device!r} is not available here: use cpu") from error
        self.world: GridWorld = make_world(config.world)

    def run(self) -> dict[AgentName, AgentResult]:
        models = self._train()
        scores = self._score(models)
        self.folder.write_table("scores.parquet", pl.concat(scores.values()))
        results = {name: agent_result(table, scores["base"], self.config.evaluation) for name, table in scores.items()}
        self.folder.write_json("metrics.json", {name: result.metrics for name, result in results.items()})
        self._illustrate(models, scores, results)
        return results

    def _illustrate(
        self, models: dict[AgentName, PPO], scores: dict[AgentName, pl.DataFrame], results: dict[AgentName, AgentResult]
    ) -> None:
        """The figures, and each agent's outcome in TensorBoard."""
        deployed = {name: t.filter(pl.col("part") == "deployment")["psi"].to_numpy() for name, t in scores.items()}
        figure = survival_figure(
            {TITLES[name]: (deployed[name], result.errors) for name, result in results.items()},
            n_eval=self.config.evaluation.n_eval,
            n_deploy=self.config.evaluation.n_deploy,
        )
        self.folder.write("survival.png", lambda path: figure.savefig(path, dpi=150))
        for name, result in results.items():
            model = models[name]
            worst = worst_tasks_sheet(
                self.world,
                scores[name]["task_id"].to_numpy(),
                scores[name]["psi"].to_numpy(),
                model.policy,
                TITLES[name],
                _N_WORST,
            )
            figures = {"survival_and_forecast": figure, "worst_tasks": worst}
            record_outcome(model.logger, model.num_timesteps, self._hyper_parameters(name), result.metrics, figures)

    # -- training -------------------------------------------------------------------------------------------------

    def _train(self) -> dict[AgentName, PPO]:
        """All agents, the base first; each is saved when it is done."""
        models: dict[AgentName, PPO] = {"base": self._train_base()}
        save_agent(self.folder, "base", models["base"])
        for name in self.config.agents:
            if name != "base":
                models[name] = self._fine_tune(name, models["base"])
                save_agent(self.folder, name, models[name])
        return models

    def _train_base(self) -> PPO:
        config = self.config.base
        model = make_base(self.config, self.world, self.device)
        for round_ in range(config.max_rounds):
            self._learn("base", model, config.total_timesteps)
            success = self._validation_success(model)
            if success >= config.success_threshold:
                break
            last = round_ + 1 == config.max_rounds
            self.progress.say(
                f"success on validation tasks is {success:.3f}, below {config.success_threshold}: "
                + ("going on with it after the last round" if last else "training another round")
            )
        return model

    def _fine_tune(self, name: AgentName, base: PPO) -> PPO:
        model = make_fine_tuned(name, self.config, self.world, base, self.device)
        self._learn(name, model, self.config.fine_tune.total_timesteps)
        return model

    def _learn(self, name: AgentName, model: PPO, total_timesteps: int) -> None:
        if model.num_timesteps == 0:
            model.set_logger(configure(str(self.folder.file(f"tensorboard/{name}")), ["tensorboard"]))
        validation = self.config.validation
        forecaster = make_forecaster(self.config.evaluation.forecaster, self.config.evaluation.tail_k)
        with self.progress.phase(f"train {TITLES[name]}", total_timesteps) as phase:
            model.learn(
                total_timesteps,
                callback=[
                    phase.callback(),
                    ForecastEvalCallback(self._validation_scores, forecaster, validation.every),
                ],
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
        tasks = held_out_tasks(self.config.evaluation, self.config.seed, self.world.evaluation_split)
        total = len(models) * sum(len(ids) for ids in tasks.values())
        scores: dict[AgentName, pl.DataFrame] = {}
        with self.progress.phase("score held-out tasks", total) as phase:
            for name, model in models.items():
                parts = [
                    score_tasks(self.world, model.policy, tasks[part], phase.advance).select(
                        pl.lit(name).alias("agent"), pl.lit(part).alias("part"), pl.all()
                    )
                    for part in PARTS
                ]
                scores[name] = pl.concat(parts)
        return scores
