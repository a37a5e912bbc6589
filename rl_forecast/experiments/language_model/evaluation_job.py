"""Evaluating a finished run of language models again, from its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from rich.console import Console

from agents.language_model.scorer import ContinuationScorer
from rl_forecast.errors import InputError
from rl_forecast.experiments.held_out import evaluation_title, print_metrics
from rl_forecast.experiments.language_model.base_model import load_model
from rl_forecast.experiments.language_model.held_out import score_table
from rl_forecast.experiments.language_model.sources import fit_sets, make_source
from rl_forecast.experiments.metrics import HeldOutScores, metrics_of
from rl_forecast.experiments.progress import PhaseProgress

if TYPE_CHECKING:
    from rl_forecast.experiments.language_model.config import LanguageConfig, LanguageEvaluationConfig
    from rl_forecast.experiments.language_model.sources import HeldOut
    from rl_forecast.experiments.run_folder import RunFolder

__all__ = ["run_language_evaluation"]


def run_language_evaluation(
    folder: RunFolder, config: LanguageConfig, evaluation: LanguageEvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Evaluate every model of a run and write ``evaluations/<settings>.json``.

    Prompts that the run has scored are read, others are scored with the saved models. The accuracy is the run's.

    :param folder: a finished run
    :param config: its configuration
    :param evaluation: what to evaluate now
    :return: agent name to metrics
    :raises InputError: the run is not finished, or its files cannot be read
    """
    try:
        known = pl.read_parquet(folder.path / "scores.parquet")
        metrics_of_run = json.loads((folder.path / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{folder.path} has no readable scores, so the run is not finished: go on with it by --resume"
        ) from error
    torch.set_num_threads(config.threads)
    agents = known["agent"].unique(maintain_order=True).to_list()
    console = Console()
    source = make_source(config)
    evaluation = fit_sets(source, evaluation, console.print)
    prompts = source.held_out(evaluation)
    with PhaseProgress(console) as progress:
        scores = {name: _scores(folder, config, name, known, prompts, progress) for name in agents}
    accuracy = {name: metrics_of_run[name]["accuracy"] for name in agents}
    metrics = {
        name: metrics_of("language", HeldOutScores(table, scores["base"], evaluation), accuracy[name], accuracy["base"])
        for name, table in scores.items()
    }
    settings = asdict(evaluation)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"evaluations/{evaluation.forecaster}-m{evaluation.n_eval}-n{evaluation.n_deploy}-{digest}.json"
    written = folder.write_json(name, {"settings": settings, "agents": metrics})
    print_metrics(console, metrics, evaluation_title(evaluation, config.seed, "attacks"), "language")
    console.print(f"written: {written}", highlight=False, soft_wrap=True)
    return metrics


def _scores(
    folder: RunFolder,
    config: LanguageConfig,
    agent: str,
    known: pl.DataFrame,
    prompts: HeldOut,
    progress: PhaseProgress,
) -> pl.DataFrame:
    """Scores of exactly the prompts that the evaluation asks for, read where known and computed where not."""
    tables = []
    scorer: ContinuationScorer | None = None
    for part, tasks in prompts.tasks.items():
        table = known.filter((pl.col("agent") == agent) & (pl.col("part") == part))
        have = set(table["task_id"].to_list())
        missing = [i for i, task in enumerate(tasks) if str(task.task_id) not in have]
        if missing:
            if scorer is None:
                source = config.model if agent == "base" and config.model else str(folder.path / "agents" / agent)
                scorer = ContinuationScorer(*load_model(source, torch.device(config.device)))
            with progress.phase(f"score {agent}, {part}", len(missing)):
                log_p = scorer.score(scorer.encode([tasks[i] for i in missing])).double().cpu().numpy()
            log_odds, rare = prompts.log_odds.get(part), prompts.rare.get(part)
            new = score_table(
                agent,
                part,
                [str(tasks[i].task_id) for i in missing],
                log_p,
                None if log_odds is None else log_odds[missing],
                None if rare is None else rare[missing],
            )
            table = pl.concat([table, new])
        order = pl.DataFrame({"task_id": [str(task.task_id) for task in tasks]})
        tables.append(order.join(table, on="task_id", how="left", maintain_order="left").select(known.columns))
    return pl.concat(tables)
