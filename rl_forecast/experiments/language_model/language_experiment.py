"""The language-model job: a base model and copies of it, fine-tuned and scored on prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from stable_baselines3.common.logger import Logger

from agents.language_model.distributed import shared_scores
from agents.language_model.fine_tune import FineTuner
from agents.language_model.loading import load_language_model
from agents.language_model.prompts import PromptTask
from agents.language_model.scorer import ContinuationScorer
from rl_forecast.errors import InputError
from rl_forecast.experiments.experiment import Run
from rl_forecast.experiments.language_model.base_model import accuracy, cached_base
from rl_forecast.experiments.language_model.methods import make_fine_tuner, method_weight
from rl_forecast.experiments.language_model.sources import HeldOut, fit_sets, make_source
from rl_forecast.experiments.metrics import Kind, title_of
from rl_forecast.experiments.settings import LanguageConfig
from rl_forecast.experiments.tensorboard import LANGUAGE_LAYOUT, training_logger
from rl_forecast.scores import psi_from_log_p

# log p is float32 near 0: a probability is at most 1 - 1e-6, as for psi.
_HIGHEST_LOG_P = -1e-6
# Prompts scored between two reports of progress.
_CHUNK = 4000
_N_SAMPLES, _N_NEW_TOKENS = 5, 12


class LanguageExperiment:
    """See :class:`rl_forecast.experiments.experiment.Experiment`. An agent is the scorer of a model."""

    kind: Kind = "language"

    def __init__(self, config: LanguageConfig, run: Run) -> None:
        self.folder, self.processes, self.progress, self.split = run.folder, run.processes, run.progress, run.split
        # A run has its own bars.
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.source = make_source(config)
        self.config: Any = replace(config, evaluation=fit_sets(self.source, config.evaluation, run.progress.say))

    @cached_property
    def base(self) -> ContinuationScorer:
        """The base model, trained now if it is the game's own and not cached; never changed."""
        name = self.config.model
        if not name:
            if self.processes.is_main:
                with self.progress.phase("base model", self.config.base.steps) as phase:
                    name = str(cached_base(self.config, self.progress.say, phase.advance))
            name = self.processes.from_main(name)
        return self._scorer(name)

    def _scorer(self, name: str) -> ContinuationScorer:
        with _input_errors("--model: "):
            model, tokenizer = load_language_model(name, device=str(self.processes.device))
        return ContinuationScorer(model, tokenizer, max_batch_tokens=self.config.fine_tune.max_batch_tokens)

    def load(self, name: str) -> ContinuationScorer:
        """A saved model; a base model that was given by name is not saved."""
        is_given = name == "base" and self.config.model
        return self._scorer(self.config.model if is_given else str(self.folder.path / "agents" / name))

    def train(self, name: str) -> ContinuationScorer:
        """Fine-tune a copy of the base model, or save the base model itself."""
        scorer = self.base
        if name != "base":
            # Adapters and dropout draw from torch's generator; a method's draws do not depend on the methods before it.
            torch.manual_seed(self.config.seed)
            with _input_errors():
                tuner = make_fine_tuner(name, self.config, self.source, self.base)
                self._learn(name, tuner)
            scorer = tuner.scorer
        if self.processes.is_main and (name != "base" or not self.config.model):
            self.folder.write_folder(f"agents/{name}", lambda path: _save(scorer, path))
        return scorer

    def _learn(self, name: str, tuner: FineTuner) -> None:
        steps, every = self.config.fine_tune.steps, self.config.checkpoint_every
        if self.folder.restore_checkpoint(name, tuner.load_state):
            self.progress.say(f"{title_of(name)}: resumed at step {tuner.step} of {steps}")
        logger = Logger(folder=None, output_formats=[])
        if self.processes.is_main:
            logger = training_logger(self.folder, name, LANGUAGE_LAYOUT, tuner.step or -1)
        with self.progress.phase(f"train {title_of(name)}", steps) as phase:
            phase.advance(tuner.step)
            while tuner.step < steps:
                for key, value in tuner.update().items():
                    logger.record(f"train/{key}", value)
                logger.dump(tuner.step)
                phase.advance(1)
                if every and tuner.step % every == 0 and self.processes.is_main:
                    self.folder.write_checkpoint(name, *tuner.state())
        logger.close()

    @cached_property
    def _held_out(self) -> HeldOut:
        return self.source.held_out(self.config.evaluation, self.split)

    def tasks(self) -> pl.DataFrame:
        """Held-out prompts."""
        return self._held_out.table

    def score(
        self, agent: ContinuationScorer, tasks: pl.DataFrame, report: Callable[[int], None] = lambda n: None
    ) -> pl.DataFrame:
        """Log probability of the forbidden texts; several processes share the work."""
        prompts = [self._held_out.prompts[key] for key in tasks.select("part", "task_id").iter_rows()]
        found = []
        for first in range(0, len(prompts), _CHUNK):
            chunk = prompts[first : first + _CHUNK]
            with _input_errors():
                found.append(shared_scores(agent, agent.encode(chunk)).double().cpu().numpy())
            report(len(chunk))
        log_p = np.minimum(np.concatenate(found), _HIGHEST_LOG_P)
        scores = tasks.with_columns(log_p=pl.Series(log_p), psi=pl.Series(psi_from_log_p(log_p)))
        return scores.select("part", "task_id", "log_p", "psi", "log_odds", "rare")

    def notes(self, name: str, agent: ContinuationScorer) -> dict[str, float]:
        """Updates of training, and the share of clear tasks answered rightly."""
        steps = 0 if name == "base" else self.config.fine_tune.steps
        return {"steps": steps, "accuracy": accuracy(agent, self._held_out.clear)}

    def pictures(self, name: str, agent: ContinuationScorer, scores: pl.DataFrame) -> dict[str, Any]:
        """What the model says to its worst and to some other deployment prompts."""
        rows = scores.filter(pl.col("part") == "deployment")
        log_p = rows["log_p"].to_numpy()
        chosen = [*np.argsort(-log_p)[:_N_SAMPLES], *range(min(_N_SAMPLES, len(rows)))]
        known = self._held_out.prompts
        prompts = [known["deployment", rows["task_id"][int(i)]].prompt for i in chosen]
        return {"samples": _samples_as_text(agent, prompts, np.exp(log_p[chosen]).tolist())}

    def hyper_parameters(self, name: str) -> dict[str, Any]:
        """Settings that the model's training uses."""
        config = self.config
        shown: dict[str, Any] = {"agent": name, "seed": config.seed, "level": config.game.level}
        if name == "base":
            return shown
        shown |= {"weight": method_weight(name, config), "lora_r": config.lora.r} | asdict(config.fine_tune)
        if name == "forecast":
            shown |= {f"forecast.{key}": value for key, value in asdict(config.forecast).items()}
        return shown


def _save(scorer: ContinuationScorer, path: Path) -> None:
    """Write a model for ``from_pretrained``; adapters are merged into it and kept beside it."""
    model = scorer.model
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(path / "adapter")
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(path)
    scorer.tokenizer.save_pretrained(path)


@contextmanager
def _input_errors(prefix: str = "") -> Iterator[None]:
    """Scorers, encoders and loaders name what is bad, and the fix, in one line."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{prefix}{error}") from error


@torch.no_grad()
def _samples_as_text(scorer: ContinuationScorer, prompts: list[Any], p: list[float]) -> str:
    """Greedy answers as a Markdown table, with the failure probability of each prompt."""
    tokenizer = scorer.tokenizer
    rows = scorer.encoder.prompts([PromptTask(prompt, task_id=i) for i, prompt in enumerate(prompts)])
    lines = ["| p(forbidden) | prompt | greedy answer |", "|---:|---|---|"]
    for row, value in zip(rows, p, strict=True):
        ids = torch.tensor([row], device=scorer.device)
        output = scorer.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_N_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        cells = [_cell(tokenizer.decode(ids[0])), _cell(tokenizer.decode(output[0, len(row) :]))]
        lines.append(f"| {value:.2g} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text fit for a cell of a Markdown table."""
    return "`" + " ".join(text.split()).replace("|", "\\|").replace("`", "'") + "`"
