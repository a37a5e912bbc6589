"""What a report is made of: the agents of runs and sweeps, each with its scores and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rl_forecast.errors import InputError
from rl_forecast.experiments.command_line import RUNS, read_config
from rl_forecast.experiments.metrics import HeldOutScores, Kind, renamed
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import AnyConfig, Config, EvaluationConfig
from rl_forecast.experiments.sweep.config import read_settings, run_config
from rl_forecast.experiments.sweep.selection import base_metrics

#: Steps and values.
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

# What a run or a sweep is known by.
_RECORDS = ("config.yaml", "sweep.yaml")
# Fields that may differ between runs that are compared.
_NOT_SETTINGS = ("seed", "log_dir", "device", "threads", "agents", "preset", "checkpoint_every")
# Points of a survival curve, evenly spaced in the logarithm of the share: two pixels of a figure's PNG apart.
_CURVE_POINTS = 200
# Plain training of either job and of sweeps: what the others are tested against.
_REFERENCES = ("ppo", "task_only", "sft")


@dataclass(frozen=True, eq=False)
class Unit:
    """One agent of one seed.

    :param metrics: name to value, ``None`` where undefined
    :param scores: columns ``part``, ``task_id``, ``psi``, ``log_p`` and, of gridworlds, ``success`` and ``rare``
    :param source: run or sweep folder it was read from
    """

    agent: str
    seed: int
    metrics: dict[str, Any]
    scores: pl.DataFrame
    source: Path
    config: AnyConfig

    @property
    def evaluation(self) -> EvaluationConfig:
        return self.config.evaluation

    @property
    def events(self) -> Path | None:
        """Folder of the event files of its training; a sweep keeps none."""
        folder = self.source / "tensorboard" / self.agent
        return folder if folder.is_dir() else None

    @property
    def has_policy(self) -> bool:
        """Whether the run kept the agent."""
        return (self.source / "agents" / self.agent / "policy.safetensors").is_file()

    # What several figures and tables need is computed once.

    @cached_property
    def held_out(self) -> HeldOutScores:
        return HeldOutScores(self.scores, self.scores, self.evaluation)

    @cached_property
    def survival(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and the share of deployment tasks at or above each, thinned to what the eye can tell apart."""
        ordered = np.sort(self.held_out.parts["deployment"].ravel())[::-1]
        rank = np.unique(np.round(np.geomspace(1, ordered.size, _CURVE_POINTS)).astype(int))
        return ordered[rank - 1], rank / ordered.size


@dataclass(frozen=True, eq=False)
class Setting:
    """Agents that can be compared: the same world or prompts and the same evaluation, over seeds.

    :param units: its agents, in the order of the table, seeds ascending within each
    :param split: ``held_out``, or ``validation`` of a sweep that has not come further
    """

    name: str
    kind: Kind
    units: tuple[Unit, ...]
    split: str = "held_out"

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents, base first."""
        return tuple(dict.fromkeys(unit.agent for unit in self.units))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({unit.seed for unit in self.units}))

    @property
    def reference(self) -> str:
        """The agent that the others are tested against: plain training, else the base agent."""
        return next((name for name in _REFERENCES if name in self.agents), self.agents[0])

    def of(self, agent: str) -> tuple[Unit, ...]:
        return tuple(unit for unit in self.units if unit.agent == agent)


class Inputs(NamedTuple):
    """The settings, a sentence on each thing left out, and the rows of the tables of chosen weights of sweeps."""

    settings: tuple[Setting, ...]
    notes: list[str]
    weights: list[dict[str, Any]]


# A setting of one seed, before those that are alike are grouped, and what tells it from others of the same name.
_Found = tuple[Setting, str]


def read_inputs(paths: Sequence[str]) -> Inputs:
    """Read run folders of train, sweep folders, and folders of both.

    :raises InputError: a folder is neither, or nothing in them is finished
    """
    found: list[_Found] = []
    notes: list[str] = []
    weights: list[dict[str, Any]] = []
    for folder in _folders(paths):
        if (folder / "sweep.yaml").is_file():
            found += _read_sweep(folder, notes, weights)
        else:
            found += _read_run(folder, notes)
    if not found:
        left_out = f": {notes[0]}" if notes else ""
        raise InputError(f"there is nothing to report in {', '.join(paths)}{left_out}")
    return Inputs(tuple(_group(found, notes)), notes, weights)


def _folders(paths: Sequence[str]) -> Iterable[Path]:
    """Run and sweep folders, each once; a folder that holds some stands for them."""
    seen: dict[Path, Path] = {}
    for name in paths:
        path = Path(name)
        if not path.is_dir():
            raise InputError(f"{name!r} is not a folder: name run folders of train, or the folder of a sweep")
        found = [p for p in (path, *sorted(path.iterdir())) if any((p / record).is_file() for record in _RECORDS)]
        if not found:
            raise InputError(f"{name!r} is no run and holds none: it has neither config.yaml nor sweep.yaml")
        for folder in found[:1] if found[0] == path else found:
            seen.setdefault(folder.resolve(), folder)
    return seen.values()


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read, the file is damaged: delete it and run the job again") from error


def _read_run(folder: Path, notes: list[str]) -> list[_Found]:
    if not (folder / "metrics.json").is_file() or not (folder / "scores.parquet").is_file():
        notes.append(f"{folder} is not finished and was left out.")
        return []
    try:
        config = read_config(folder / "config.yaml", RUNS)
    except InputError as error:
        notes.append(f"{folder} was left out, its config.yaml is not of this version: {error}")
        return []
    metrics = RunFolder(folder).metrics()
    tables = _read_table(folder / "scores.parquet").partition_by("agent", as_dict=True, maintain_order=True)
    units = tuple(
        Unit(agent, config.seed, metrics[agent], table, folder, config)
        for (agent,), table in tables.items()
        if agent in metrics
    )
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_SETTINGS}
    fingerprint = json.dumps(settings, sort_keys=True, default=str)
    if isinstance(config, Config):
        return [(Setting(str(config.world.family), "gridworld", units), fingerprint)]
    label = Path(config.prompts).stem if config.prompts else f"password game, {config.game.level}"
    return [(Setting(label, "language", units), fingerprint)]


def _read_sweep(folder: Path, notes: list[str], weights: list[dict[str, Any]]) -> list[_Found]:
    """Held-out jobs that are done; validation jobs where there is none."""
    sweep = read_settings(folder / "sweep.yaml")
    split = "held_out"
    rows = _rows(folder, split)
    if not rows:
        split, rows = "validation", _rows(folder, "validation")
        if not rows:
            notes.append(f"{folder} has no finished comparison yet and was left out.")
            return []
        notes.append(
            f"{folder} has no held-out results yet: what is shown are the validation tasks on which the weights are "
            "chosen, every weight on its own. Do not read them as results."
        )
    else:
        wanted = len(sweep.worlds) * len(sweep.seeds) * len(sweep.methods)
        if len(rows) < wanted:
            notes.append(f"{folder} is not finished: {len(rows)} of {wanted} held-out jobs are done.")
        if (folder / "weights.json").is_file():
            chosen = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
            weights += [choice | {"sweep": folder} for choice in chosen]
    order = [method.name for method in sweep.methods]
    rows.sort(key=lambda row: (order.index(row["method"]), row["weight"] or 0.0))
    found = []
    for world, seed in sorted({(r["world"], r["seed"]) for r in rows}, key=lambda w: (sweep.worlds.index(w[0]), w[1])):
        config = replace(run_config(sweep, world, seed), preset=sweep.name)
        base = _read_table(folder / f"bases/{world}-{seed}.parquet")
        units = [Unit("base", seed, base_metrics(sweep, folder, world, seed), base, folder, config)]
        for row in rows:
            if (row["world"], row["seed"]) == (world, seed):
                metrics = {key: v for key, v in row.items() if key not in ("world", "seed", "method", "scores")}
                shows_weight = split == "validation" and row["weight"] is not None
                agent = f"{row['method']} {row['weight']:g}" if shows_weight else row["method"]
                units.append(Unit(agent, seed, renamed(metrics), _read_table(row["scores"]), folder, config))
        found.append((Setting(world, sweep.kind, tuple(units), split), f"sweep {sweep.name} {split}"))
    return found


def _rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """Rows of the finished jobs whose scores are there too."""
    return [
        _read_table(path).row(0, named=True) | {"scores": scores}
        for path in sorted((folder / split).glob("*.parquet"))
        if (scores := path.parent / "scores" / path.name).is_file()
    ]


def _group(found: list[_Found], notes: list[str]) -> Iterable[Setting]:
    """One setting for each fingerprint, with names that tell them apart."""
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting, fingerprint in found:
        members = groups.setdefault((setting.name, fingerprint), [])
        known = {(unit.agent, unit.seed) for member in members for unit in member.units}
        new = tuple(unit for unit in setting.units if (unit.agent, unit.seed) not in known)
        if new:
            members.append(replace(setting, units=new))
        else:
            notes.append(f"{setting.units[0].source} repeats settings and seed of another run and was left out.")
    labels, names = [label for label, _ in groups], []
    for (label, _), members in groups.items():
        names.append(label if labels.count(label) == 1 else f"{label} ({members[0].units[0].config.preset})")
        number = names.count(names[-1])
        # The longest list of agents gives the order; a run may have fewer.
        longest = max(members, key=lambda member: len(member.units))
        order = list(dict.fromkeys(unit.agent for member in (longest, *members) for unit in member.units))
        units = [unit for member in members for unit in member.units]
        units.sort(key=lambda unit: (order.index(unit.agent), unit.seed))
        yield replace(members[0], name=names[-1] + (f" {number}" if number > 1 else ""), units=tuple(units))


def read_events(folder: Path) -> tuple[dict[str, Curve], list[tuple[str, str, str]]]:
    """The curves in an agent's folder of event files by log key, and its samples if it has any."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    tags = events.Tags()
    curves = {}
    for tag in tags["scalars"]:
        points = events.Scalars(tag)
        curves[tag] = np.array([p.step for p in points], dtype=float), np.array([p.value for p in points])
    if "samples/text_summary" not in tags["tensors"]:
        return curves, []
    text = events.Tensors("samples/text_summary")[-1].tensor_proto.string_val[0]
    return curves, sample_rows(text.decode("utf-8", "replace"))


def sample_rows(markdown: str) -> list[tuple[str, str, str]]:
    """Rows of the table of samples of a language-model run: P(forbidden answer), prompt, greedy answer; worst first."""
    rows = []
    for line in markdown.splitlines()[2:]:
        cells = [cell.strip().replace("\\|", "|").strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3:
            rows.append((cells[0], cells[1], cells[2]))
    return rows
