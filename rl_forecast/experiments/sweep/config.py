"""What a sweep compares. Nothing heavy is imported here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import yaml

from rl_forecast.errors import InputError, unknown_name
from rl_forecast.experiments.command_line import read_config
from rl_forecast.experiments.settings import (
    RENAMED,
    AgentName,
    AnyConfig,
    Config,
    LanguageConfig,
    MethodName,
    check_config,
)

if TYPE_CHECKING:  # it loads polars
    from rl_forecast.experiments.metrics import Kind

ConfigT = TypeVar("ConfigT")

# How and where the jobs are run is not part of what a sweep is. Earlier versions had retries.
_NOT_SETTINGS = ("n_jobs", "log_dir", "backend", "address", "report", "retries")


@dataclass(frozen=True)
class MethodConfig:
    """One method of a comparison.

    :param name: name in files and tables
    :param agent: agent of the run, as in ``--agents`` of train
    :param options: options of a run, dotted names to values, that distinguish the method
    :param weight: dotted name of the option that is tuned; empty if there is nothing to tune
    :param weights: its values, the same number for every method that is tuned
    """

    name: str
    agent: str
    options: dict[str, Any] = field(default_factory=dict)
    weight: str = ""
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class SweepConfig:
    """A sweep of gridworlds.

    :param job: which job is run
    :param preset: named settings that the other options override
    :param name: folder of the sweep in log_dir, found again to resume it
    :param log_dir: folder of runs
    :param n_jobs: processes on this machine, each with one thread; a Ray cluster that is there already has its own
    :param backend: where jobs run: local processes, or a Ray cluster (needs rl-forecast[ray])
    :param address: of the Ray cluster, such as auto or ray://head:10001; empty for $RAY_ADDRESS, or else a cluster of
        n_jobs cores on this machine
    :param report: whether to write the report at the end; rl-forecast report does so later
    :param worlds: families of gridworlds; of language models levels of the password game
    :param seeds: seeds of the comparison: base agent, training pool, fine-tuning and held-out tasks
    :param tuning_seeds: seeds on whose validation tasks the weights are chosen; never those of the comparison
    :param methods: the methods; one of them is called task_only and has no term of its own
    :param success_margin: success probability (accuracy) that a weight may cost against task_only
    :param limits: metric to the largest value that its mean over the tuning seeds may have for a weight to be chosen
    :param run: settings that all runs share
    """

    job: Literal["gridworld"] = "gridworld"
    preset: str = "rl-study"
    name: str = "rl-study"
    log_dir: str = "runs"
    n_jobs: int = 2
    backend: Literal["local", "ray"] = "local"
    address: str = ""
    report: bool = True
    worlds: tuple[str, ...] = ("recolor",)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning_seeds: tuple[int, ...] = (100, 101)
    methods: tuple[MethodConfig, ...] = (MethodConfig("task_only", "ppo"),)
    success_margin: float = 0.005
    limits: dict[str, float] = field(default_factory=dict)
    run: Config = field(default_factory=Config)

    @property
    def kind(self) -> Kind:
        """Which job is run."""
        return self.job


@dataclass(frozen=True)
class LanguageSweepConfig(SweepConfig):
    """A sweep of language models."""

    job: Literal["language"] = "language"  # type: ignore[assignment]
    preset: str = "lm-study"
    name: str = "lm-study"
    worlds: tuple[str, ...] = ("tension",)
    methods: tuple[MethodConfig, ...] = (MethodConfig("task_only", "sft"),)
    run: LanguageConfig = field(default_factory=LanguageConfig)  # type: ignore[assignment]


#: Job to the configuration of its sweeps.
SWEEPS: dict[str, type[SweepConfig]] = {"gridworld": SweepConfig, "language": LanguageSweepConfig}


def run_config(
    sweep: SweepConfig, world: str, seed: int, method: MethodConfig | None = None, weight: float | None = None
) -> AnyConfig:
    """Settings of one run of a sweep: of the base agent, or of a method with a value of its tuned option."""
    options: dict[str, Any] = {"world.family" if sweep.kind == "gridworld" else "game.level": world}
    if method is not None:
        options |= method.options | ({} if weight is None else {method.weight: weight})
    return replace(with_options(sweep.run, options), seed=seed, threads=1, checkpoint_every=0)


def with_options(config: ConfigT, options: dict[str, Any]) -> ConfigT:
    """A configuration with other values of the fields with these dotted names.

    :raises InputError: an unknown name, or a value that its group refuses
    """
    for given, value in options.items():
        name = RENAMED.get(given, given)
        config = _with_option(config, name, name, value)
    return config


def _with_option(part: Any, whole_name: str, name: str, value: Any) -> Any:
    head, _, rest = name.partition(".")
    names = [f.name for f in fields(part)]
    if head not in names:
        raise InputError(unknown_name("option", whole_name, names))
    if rest:
        if not is_dataclass(getattr(part, head)):
            raise InputError(f"option {whole_name!r} has no part {rest!r}")
        value = _with_option(getattr(part, head), whole_name, rest, value)
    try:
        return replace(part, **{head: value})
    except ValueError as error:
        raise InputError(f"option {whole_name!r}: {error}") from error


def settings_text(sweep: SweepConfig) -> str:
    """What a sweep is, as YAML."""
    settings = {key: value for key, value in asdict(sweep).items() if key not in _NOT_SETTINGS}
    return yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)


def read_settings(path: Path) -> SweepConfig:
    """The inverse of :func:`settings_text`, also of earlier versions; :class:`InputError` if it is none."""
    return read_config(path, SWEEPS, _NOT_SETTINGS)


def check_sweep(config: SweepConfig) -> None:
    """Refuse, with an :class:`InputError`, what could not run or would not be a fair comparison."""
    check_config(config.run)
    if config.n_jobs < 1:
        raise InputError(f"n_jobs must be at least 1, it is {config.n_jobs}")
    if config.address and config.backend != "ray":
        raise InputError("--address is that of a Ray cluster: add --backend ray")
    for name in ("worlds", "seeds", "methods"):
        values = getattr(config, name)
        if not values:
            raise InputError(f"{name} is empty")
        if len({getattr(v, "name", v) for v in values}) < len(values):
            raise InputError(f"{name} holds something twice")
    for seed in sorted(set(config.seeds) & set(config.tuning_seeds)):
        raise InputError(f"seed {seed} is in seeds and in tuning_seeds: weights are never chosen on the comparison's")
    if "task_only" not in {method.name for method in config.methods}:
        raise InputError("methods must hold one named task_only, against which the cost in success is measured")
    tuned = [method for method in config.methods if method.weights]
    if tuned and not config.tuning_seeds:
        raise InputError("tuning_seeds is empty, but there are weights to choose")
    if len({len(method.weights) for method in tuned}) > 1:
        raise InputError("every method that is tuned must try equally many weights")
    agents = [name for name in get_args(AgentName if config.kind == "gridworld" else MethodName) if name != "base"]
    for method in config.methods:
        if bool(method.weight) != bool(method.weights):
            raise InputError(f"method {method.name!r} needs both weight and weights, or neither")
        if method.agent not in agents:
            raise InputError(unknown_name("agent", method.agent, agents))
        for weight in method.weights or (None,):
            check_config(run_config(config, config.worlds[0], config.seeds[0], method, weight))
