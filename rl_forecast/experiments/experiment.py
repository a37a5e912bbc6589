"""What a run is: train each agent, score it on held-out tasks, compare forecasts with what these show.

:class:`Experiment` is what differs between gridworlds and language models; the functions here do the rest for both.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from rl_forecast.degeneracy import find_degeneracy
from rl_forecast.errors import InputError
from rl_forecast.experiments.figures import survival_figure
from rl_forecast.experiments.metrics import (
    KINDS,
    LEGEND,
    METRICS,
    HeldOutScores,
    Kind,
    metrics_of,
    title_of,
    undefined_as_none,
)
from rl_forecast.experiments.processes import Processes
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import AnyConfig, LanguageConfig
from rl_forecast.experiments.tensorboard import drawn, outcome_logger, record_outcome

# Columns of a terminal that hold one agent a row without cutting numbers.
_WIDE = 165


@dataclass(frozen=True)
class Run:
    """Where a run writes, and what it prints.

    :param folder: its folder
    :param processes: one process, or several that work on it together
    :param progress: bars and lines
    :param split: split of the tasks that are scored, ``held_out`` or ``validation``
    """

    folder: RunFolder
    processes: Processes
    progress: PhaseProgress
    split: str = "held_out"


class Experiment(Protocol):
    """A job. An agent is whatever :meth:`score` needs of it: a policy, or the scorer of a language model."""

    #: Which job.
    kind: Kind
    #: Its configuration; the sizes of the sets are those that the tasks can fill.
    config: AnyConfig

    def train(self, name: str) -> Any:
        """Train an agent, or resume its training where an earlier process left it, and save it."""

    def load(self, name: str) -> Any:
        """An agent that a finished run has saved."""

    def tasks(self) -> pl.DataFrame:
        """Tasks to score: ``part``, ``task_id``, and what is known of them whatever the agent."""

    def score(self, agent: Any, tasks: pl.DataFrame, report: Callable[[int], None]) -> pl.DataFrame:
        """The tasks with ``log_p``, ``psi`` and what else is known of the agent in them.

        :param agent: of :meth:`train` or :meth:`load`
        :param tasks: rows of :meth:`tasks`
        :param report: called with the number of tasks scored since the last call
        """

    def notes(self, name: str, agent: Any) -> dict[str, float]:
        """``steps`` of training; language models also ``accuracy``."""

    def pictures(self, name: str, agent: Any, scores: pl.DataFrame) -> dict[str, Any]:
        """What TensorBoard shows of an agent's tasks, by tag."""

    def hyper_parameters(self, name: str) -> dict[str, Any]:
        """What distinguishes an agent, flat, for TensorBoard's HParams page."""


def make_experiment(config: AnyConfig, run: Run) -> Experiment:
    """The experiment of a configuration.

    :raises InputError: settings that cannot be used
    """
    torch.set_num_threads(config.threads)
    # Imported here: gridworlds need no transformers.
    if isinstance(config, LanguageConfig):
        from rl_forecast.experiments.language_model.language_experiment import LanguageExperiment

        return LanguageExperiment(config, run)
    from rl_forecast.experiments.gridworld.gridworld_experiment import GridworldExperiment

    return GridworldExperiment(config, run)


def run_experiment(config: AnyConfig, folder: RunFolder, processes: Processes) -> None:
    """Run it and fill the run folder, resume an interrupted run, or print the table of a finished one.

    :param config: the configuration
    :param folder: folder of the run; the main process holds it
    :param processes: one process or several
    """
    console = Console(quiet=not processes.is_main)
    end = ": finished before, nothing to do" if folder.is_finished else ""
    console.print(f"run folder: {folder.path}{end}", highlight=False, soft_wrap=True)
    if processes.count > 1:
        console.print(f"processes: {processes.count}", highlight=False)
    with PhaseProgress(console) as progress:
        run = Run(folder, processes, progress)
        experiment = make_experiment(config, run)
        names = list(dict.fromkeys(("base", *config.agents)))
        if folder.is_finished:
            found = folder.metrics()
            metrics = {name: found[name] for name in names if name in found}
        else:
            for name in names:
                _train_and_score(experiment, run, name)
            processes.wait()
            metrics = _results(experiment, folder, names) if processes.is_main else {}
    if not processes.is_main:
        return
    _print(console, experiment, metrics)
    where = f"curves and figures: tensorboard --logdir {folder.path / 'tensorboard'}"
    console.print(where, highlight=False, soft_wrap=True)
    if not folder.is_finished:
        folder.finish(progress.seconds)


def _train_and_score(experiment: Experiment, run: Run, name: str) -> None:
    folder, kept = run.folder, f"checkpoints/scores-{name}"
    if (folder.path / f"{kept}.json").is_file():
        run.progress.say(f"{title_of(name)}: done before")
        return
    agent = experiment.train(name)
    tasks = experiment.tasks()
    with run.progress.phase(f"score {title_of(name)}", len(tasks)) as phase:
        scores = experiment.score(agent, tasks, phase.advance)
        notes = experiment.notes(name, agent)
    if not run.processes.is_main:
        return
    logger = outcome_logger(folder, name, "pictures")
    for tag, picture in experiment.pictures(name, agent, scores).items():
        logger.record(tag, picture)
    logger.dump(int(notes["steps"]))
    logger.close()
    folder.write_table(f"{kept}.parquet", scores.select(pl.lit(name).alias("agent"), pl.all()))
    # Last: an agent that has it is done.
    folder.write_json(f"{kept}.json", undefined_as_none(notes))
    (folder.path / f"checkpoints/{name}.safetensors").unlink(missing_ok=True)


def _results(experiment: Experiment, folder: RunFolder, names: list[str]) -> dict[str, dict[str, Any]]:
    """Scores, metrics, figure and each agent's outcome, from what was kept of all agents."""
    kept = {name: f"checkpoints/scores-{name}" for name in names}
    again = "delete it and the json beside it to score this agent again"
    tables = {name: folder.read_table(f"{stem}.parquet", again) for name, stem in kept.items()}
    notes = {name: json.loads((folder.path / f"{stem}.json").read_text()) for name, stem in kept.items()}
    folder.write_table("scores.parquet", pl.concat(tables.values()))
    held_out, metrics = _metrics(experiment, tables, {name: note.get("accuracy") for name, note in notes.items()})
    folder.write_json("metrics.json", metrics)
    figure = survival_figure({title_of(name): one for name, one in held_out.items()})
    folder.write("survival.png", lambda path: figure.savefig(path, dpi=150))
    survival = {"survival_and_forecast": drawn(figure)}
    for name, row in metrics.items():
        logger = outcome_logger(folder, name)
        record_outcome(logger, notes[name]["steps"], experiment.hyper_parameters(name), row, survival)
    return metrics


def _metrics(
    experiment: Experiment, tables: dict[str, pl.DataFrame], accuracy: dict[str, float | None]
) -> tuple[dict[str, HeldOutScores], dict[str, dict[str, Any]]]:
    base, evaluation = tables["base"], experiment.config.evaluation
    held_out = {name: HeldOutScores(table, base, evaluation) for name, table in tables.items()}
    return held_out, {
        name: metrics_of(experiment.kind, one, accuracy[name], accuracy["base"]) for name, one in held_out.items()
    }


def evaluate_run(
    config: AnyConfig, evaluation: Any, folder: RunFolder, processes: Processes
) -> dict[str, dict[str, Any]]:
    """Evaluate every agent of a finished run again and write ``evaluations/<settings>.json``.

    Tasks that the run has scored are read, others are scored with the saved agents.

    :param config: configuration of the run
    :param evaluation: what to evaluate now
    :param folder: folder of the run
    :param processes: this process
    :return: agent name to metrics
    :raises InputError: the run is not finished, or its files cannot be read
    """
    console = Console()
    changed = folder.changed_versions()
    if changed:
        console.print(f"note: the run was made with other versions ({', '.join(changed)})", highlight=False)
    with PhaseProgress(console) as progress:
        config = replace(config, evaluation=evaluation)
        experiment = make_experiment(config, Run(folder, processes, progress))
        known = _known_scores(experiment, folder)
        agents = known["agent"].unique(maintain_order=True).to_list()
        tables = {name: _scores(experiment, name, known.filter(pl.col("agent") == name), progress) for name in agents}
    of_run = folder.metrics()
    accuracy = {name: of_run.get(name, {}).get("accuracy") for name in agents}
    _, metrics = _metrics(experiment, tables, accuracy)
    settings = asdict(experiment.config.evaluation)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"evaluations/{evaluation.forecaster}-m{settings['n_eval']}-n{settings['n_deploy']}-{digest}.json"
    written = folder.write_json(name, {"settings": settings, "agents": metrics})
    _print(console, experiment, metrics)
    console.print(f"written: {written}", highlight=False, soft_wrap=True)
    return metrics


def _known_scores(experiment: Experiment, folder: RunFolder) -> pl.DataFrame:
    path = folder.path / "scores.parquet"
    if not path.is_file():
        raise InputError(f"the run is not finished: python -m rl_forecast.train --resume {folder.path}")
    known = folder.read_table(path.name, "it is damaged")
    wanted = {**experiment.tasks().schema, "agent": pl.String, "log_p": pl.Float64, "psi": pl.Float64}
    if any(known.schema.get(name) != kind for name, kind in wanted.items()) or "base" not in known["agent"]:
        raise InputError(f"{path} is not the table of a run: it lacks a column, the base agent, or has other types")
    return known


def _scores(experiment: Experiment, name: str, known: pl.DataFrame, progress: PhaseProgress) -> pl.DataFrame:
    """Scores of exactly the tasks that the evaluation asks for, read where known and computed where not."""
    tasks = experiment.tasks()
    missing = tasks.join(known, on=["part", "task_id"], how="anti", maintain_order="left")
    if len(missing):
        agent = experiment.load(name)
        with progress.phase(f"score {title_of(name)}", len(missing)) as phase:
            new = experiment.score(agent, missing, phase.advance)
        known = pl.concat([known, new.with_columns(pl.lit(name).alias("agent")).select(known.columns)])
    keys = tasks.select("part", "task_id")
    return keys.join(known, on=["part", "task_id"], how="left", maintain_order="left").select(known.columns)


def _print(console: Console, experiment: Experiment, metrics: dict[str, dict[str, Any]]) -> None:
    """The table of all agents, and what should be known of them."""
    evaluation, kind = experiment.config.evaluation, experiment.kind
    title = (
        f"{evaluation.forecaster}, k = {evaluation.tail_k}: forecast from m = {evaluation.n_eval} "
        f"{KINDS[kind].queries} ({evaluation.n_eval_sets} sets) against the worst of n = {evaluation.n_deploy} "
        f"({evaluation.n_deploy_sets} sets), seed {experiment.config.seed}"
    )
    # Away from a terminal rich assumes 80 columns; a file has no width.
    target = console if console.is_terminal else Console(width=_WIDE)
    target.print(metrics_table(metrics, title, kind, tall=target.width < _WIDE))
    for name, row in metrics.items():
        for finding in find_degeneracy(row, metrics["base"]):
            line = f"{finding.severity}: {title_of(name)}: {finding.sentence}"
            console.print(line, highlight=False, soft_wrap=True)


def metrics_table(metrics: dict[str, dict[str, Any]], title: str, kind: Kind, tall: bool = False) -> Table:
    """The table people see.

    :param metrics: agent name to its metrics
    :param title: what was evaluated
    :param kind: which job
    :param tall: one row per metric instead of one row per agent, for narrow terminals
    """
    shown = [METRICS[name] for name in KINDS[kind].table]
    legend = "; ".join(text for word, text in LEGEND.items() if any(word in metric.heading for metric in shown))
    table = Table(title=title, title_justify="left", caption=legend, caption_justify="left", header_style="bold")
    if tall:
        table.add_column("")
        for agent in metrics:
            table.add_column(title_of(agent), justify="right")
        for metric in shown:
            table.add_row(metric.heading, *(metric.text(row) for row in metrics.values()))
        return table
    table.add_column("agent", no_wrap=True)
    for metric in shown:
        table.add_column(textwrap.fill(metric.heading, 8, break_long_words=False), justify="right", no_wrap=True)
    for agent, row in metrics.items():
        table.add_row(title_of(agent), *(metric.text(row) for metric in shown))
    return table
