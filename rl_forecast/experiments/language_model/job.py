"""The language-model job: base model, fine-tune, forecast, check."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.logger import Logger

from agents.language_model.scorer import ContinuationScorer
from rl_forecast.degeneracy import find_degeneracy
from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.event_files import outcome_logger, training_logger
from rl_forecast.experiments.figures import survival_figure
from rl_forecast.experiments.held_out import evaluation_title, print_metrics
from rl_forecast.experiments.language_model.base_model import cached_base, load_model, without_progress_bars
from rl_forecast.experiments.language_model.methods import BaseModel, make_fine_tuner, method_weight
from rl_forecast.experiments.language_model.scoring import HeldOutPrompts
from rl_forecast.experiments.language_model.sources import fit_sets, make_source
from rl_forecast.experiments.metrics import TITLES, HeldOutScores, metrics_of, undefined_as_none
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.tensorboard import LANGUAGE_LAYOUT, drawn, record_outcome

if TYPE_CHECKING:
    from pathlib import Path

    from agents.language_model.fine_tune import FineTuner
    from rl_forecast.experiments.language_model.config import LanguageConfig, MethodName
    from rl_forecast.experiments.language_model.processes import Processes
    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["print_outcome", "run_language_job"]


def run_language_job(config: LanguageConfig, folder: RunFolder, processes: Processes) -> dict[str, dict[str, Any]]:
    """Run it and fill the run folder, or go on where an interrupted run stopped.

    :param config: the configuration
    :param folder: a new run folder, or that of an interrupted run
    :param processes: one process or several
    :return: agent name to metrics, as in ``metrics.json``
    :raises InputError: prompts, model or settings that cannot be used
    """
    console = Console(quiet=not processes.is_main)
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
    if processes.count > 1:
        console.print(f"processes: {processes.count}", highlight=False)
    with PhaseProgress(console) as progress:
        job = _Job(config, folder, processes, progress)
        try:
            metrics = job.run()
        except ValueError as error:
            # The scorer and the encoder name the prompt and the fix in one line.
            raise InputError(str(error)) from error
    if processes.is_main:
        _print(console, job.config, folder, metrics)
        folder.finish(progress.seconds)
    return metrics


def print_outcome(config: LanguageConfig, folder: RunFolder) -> None:
    """Print the table of a finished run.

    :param config: its configuration
    :param folder: its folder
    """
    console = Console()
    console.print(f"run folder: {folder.path}: finished before, nothing to do", highlight=False, soft_wrap=True)
    config = replace(config, evaluation=fit_sets(make_source(config), config.evaluation, console.print))
    rows = folder.metrics()
    # The file is sorted by name; the table is in the order of the agents.
    names = dict.fromkeys(("base", *config.agents))
    _print(console, config, folder, {name: rows[name] for name in names if name in rows})


def _print(console: Console, config: LanguageConfig, folder: RunFolder, metrics: dict[str, dict[str, Any]]) -> None:
    print_metrics(console, metrics, evaluation_title(config.evaluation, config.seed, "attacks"), "language")
    for name, row in metrics.items():
        for finding in find_degeneracy(row, metrics["base"]):
            console.print(f"{finding.severity}: {TITLES[name]}: {finding.sentence}", highlight=False, soft_wrap=True)
    console.print(
        f"curves, figures, samples: tensorboard --logdir {folder.path / 'tensorboard'}", highlight=False, soft_wrap=True
    )


class _Job:
    """State of one run; its methods are the steps in order."""

    def __init__(
        self, config: LanguageConfig, folder: RunFolder, processes: Processes, progress: PhaseProgress
    ) -> None:
        self.folder = folder
        self.processes = processes
        self.progress = progress
        torch.set_num_threads(config.threads)
        without_progress_bars()
        self.source = make_source(config)
        self.config = replace(config, evaluation=fit_sets(self.source, config.evaluation, progress.say))

    def run(self) -> dict[str, dict[str, Any]]:
        base = self._base()
        with self.progress.phase("read held-out prompts", 1):
            prompts = HeldOutPrompts.encode(base.scorer, self.source.held_out(self.config.evaluation))
        names: list[MethodName] = ["base", *(name for name in self.config.agents if name != "base")]
        for name in names:
            self._agent(name, base, prompts)
        self.processes.wait()
        return self._results(names) if self.processes.is_main else {}

    # -- models ---------------------------------------------------------------------------------------------------

    def _base(self) -> BaseModel:
        config = self.config
        name = config.model
        if not name:
            if self.processes.is_main:
                total = config.base.steps
                with self.progress.phase("base model", total) as phase:
                    name = str(cached_base(config, self.progress.say, phase.advance))
            name = self.processes.from_main(name)
        model, tokenizer = load_model(name, self.processes.device)
        model.eval()
        scorer = ContinuationScorer(model, tokenizer, max_batch_tokens=config.fine_tune.max_batch_tokens)
        return BaseModel(model, tokenizer, scorer)

    def _agent(self, name: MethodName, base: BaseModel, prompts: HeldOutPrompts) -> None:
        """Train, score and save one agent, or find that this has been done."""
        if (self.folder.path / f"scores/{name}.json").is_file():
            self.progress.say(f"{TITLES[name]}: done before")
            return
        if name == "base":
            scorer, steps = base.scorer, 0
        else:
            # Adapters and dropout draw from torch's generator; a method's draws do not depend on the methods before it.
            torch.manual_seed(self.config.seed)
            tuner = make_fine_tuner(name, self.config, self.source, base)
            self._train(name, tuner)
            scorer, steps = tuner.scorer, tuner.step
        with self.progress.phase(f"score {TITLES[name]}", len(prompts)) as phase:
            table, accuracy = prompts.score(name, scorer, phase.advance)
        if self.processes.is_main:
            if name != "base" or not self.config.model:
                self._save(name, scorer)
            logger = outcome_logger(self.folder, name, "samples")
            logger.record("samples", prompts.samples(scorer, table))
            logger.dump(steps)
            logger.close()
            self.folder.write_table(f"scores/{name}.parquet", table)
            self.folder.write_json(f"scores/{name}.json", undefined_as_none({"accuracy": accuracy, "steps": steps}))
            self._checkpoint_path(name).unlink(missing_ok=True)

    def _train(self, name: MethodName, tuner: FineTuner) -> None:
        tune = self.config.fine_tune
        path = self._checkpoint_path(name)
        if path.is_file():
            _load_checkpoint(path, tuner)
            self.progress.say(f"{TITLES[name]}: going on from step {tuner.step} of {tune.steps}")
        logger = Logger(folder=None, output_formats=[])
        if self.processes.is_main:
            logger = training_logger(self.folder, name, LANGUAGE_LAYOUT, tuner.step or -1)
        with self.progress.phase(f"train {TITLES[name]}", tune.steps) as phase:
            phase.advance(tuner.step)
            while tuner.step < tune.steps:
                for key, value in tuner.update().items():
                    logger.record(f"train/{key}", value)
                logger.dump(tuner.step)
                phase.advance(1)
                if tune.checkpoint_every and tuner.step % tune.checkpoint_every == 0 and self.processes.is_main:
                    tensors, text = tuner.state()
                    self.folder.write(
                        f"checkpoints/{path.name}",
                        lambda target, t=tensors, m=text: save_file(t, target, metadata=m),  # type: ignore[misc]
                    )
        logger.close()

    def _checkpoint_path(self, name: MethodName) -> Path:
        return self.folder.path / "checkpoints" / f"{name}.safetensors"

    def _save(self, name: MethodName, scorer: ContinuationScorer) -> None:
        """A folder for ``from_pretrained``; adapters are merged into it and kept beside it."""
        model = scorer.model

        def write(path: Path) -> None:
            merged = model
            if hasattr(model, "merge_and_unload"):
                import copy

                model.save_pretrained(path / "adapter")
                merged = copy.deepcopy(model).merge_and_unload()
            merged.save_pretrained(path)
            scorer.tokenizer.save_pretrained(path)

        self.folder.write_folder(f"agents/{name}", write)

    # -- results --------------------------------------------------------------------------------------------------

    def _results(self, names: list[MethodName]) -> dict[str, dict[str, Any]]:
        tables = {name: pl.read_parquet(self.folder.path / f"scores/{name}.parquet") for name in names}
        notes = {name: json.loads((self.folder.path / f"scores/{name}.json").read_text()) for name in names}
        self.folder.write_table("scores.parquet", pl.concat(tables.values()))
        held_out = {
            name: HeldOutScores(table, tables["base"], self.config.evaluation) for name, table in tables.items()
        }
        metrics: dict[str, dict[str, Any]] = {
            name: metrics_of("language", one, notes[name]["accuracy"], notes["base"]["accuracy"])
            for name, one in held_out.items()
        }
        self.folder.write_json("metrics.json", metrics)
        figure = survival_figure(
            {TITLES[name]: (one.parts["deployment"].ravel(), one.errors) for name, one in held_out.items()},
            n_eval=self.config.evaluation.n_eval,
            n_deploy=self.config.evaluation.n_deploy,
        )
        self.folder.write("survival.png", lambda path: figure.savefig(path, dpi=150))
        figures = {"survival_and_forecast": drawn(figure)}
        for name in names:
            logger = outcome_logger(self.folder, name)
            record_outcome(logger, notes[name]["steps"], self._hyper_parameters(name), metrics[name], figures)
        return metrics

    def _hyper_parameters(self, name: MethodName) -> dict[str, Any]:
        """What distinguishes an agent, flat, for TensorBoard's HParams page."""
        config = self.config
        shown: dict[str, Any] = {"agent": name, "seed": config.seed, "level": config.game.level}
        if name == "base":
            return shown
        shown |= {"weight": method_weight(name, config), "lora_r": config.lora.r} | asdict(config.fine_tune)
        if name == "forecast":
            shown |= {f"forecast.{key}": value for key, value in asdict(config.forecast).items()}
        return shown


def _load_checkpoint(path: Path, tuner: FineTuner) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        tuner.load_state(tensors, text)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = one_line(str(error), 200)
        raise InputError(f"checkpoint {path} cannot be used: {reason}; delete it to train this agent again") from error
