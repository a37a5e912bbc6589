"""The password-game study: does forecastability training make a language model's failure tail more forecastable than
supervised safety penalties do, at matched capability?

``python -m benchmarks.lm_study`` trains every (base seed, method, weight), judges it on validation prompts, chooses one
weight a method under a budget, evaluates the chosen ones on held-out prompts once, and writes tables and figures. Every
finished job is kept under ``--out`` and skipped the next time, so a study may be stopped and resumed at any moment.

The independent unit is the base seed: it decides the base model, its training prompts and the fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch
from safetensors.torch import load_file, save_file

from agents.language_model.prompts import EncodedTask
from agents.language_model.scorer import ContinuationScorer
from rl_forecast.experiments.command_line import parse_config
from rl_forecast.experiments.language_model.base_model import accuracy, cached_base, load_model
from rl_forecast.experiments.language_model.language_experiment import score_prompts, task_table
from rl_forecast.experiments.language_model.methods import make_fine_tuner, with_weight
from rl_forecast.experiments.language_model.sources import HeldOut, make_source
from rl_forecast.experiments.metrics import HeldOutScores, metrics_of
from rl_forecast.experiments.settings import LanguageConfig, LanguageEvaluationConfig, MethodName

#: Method of the study to (method, error space of the loss, weights).
METHODS: dict[str, tuple[MethodName, str, tuple[float, ...]]] = {
    "sft": ("sft", "", (0.0,)),
    "refusal_sft": ("refusal_sft", "", (0.03, 0.1, 0.3)),
    "mean_log_p": ("mean_log_p", "", (0.0001, 0.0003, 0.001)),
    "top_k": ("top_k", "", (0.0003, 0.001, 0.003)),
    "forecast_log10_p": ("forecast", "log10_p", (0.003, 0.01, 0.03)),
    "anchor": ("anchor", "", (0.1, 1.0, 10.0)),
    "forecast_psi": ("forecast", "psi", (0.0003, 0.001, 0.003)),
}

#: Weights of a level are those of :data:`METHODS` times this: where nothing opposes refusal, stronger terms are used.
WEIGHT_FACTOR = {"easy": 10.0, "hard": 10.0}

#: What is varied at the chosen weight of forecastability in log10 p.
VARIANTS: dict[str, tuple[str, ...]] = {
    "adapters, r = 8": ("--lora.r=8",),
    "one pool": ("--fine-tune.pools=1",),
    "10 pools, which repeat": ("--fine-tune.pools=10",),
    "a pool serves 4 updates": ("--fine-tune.pool-steps=4",),
}

VALIDATION = LanguageEvaluationConfig(
    n_eval=200, n_eval_sets=20, n_deploy=5000, n_deploy_sets=1, n_legitimate=2000, n_clear=500
)
HELD_OUT = LanguageEvaluationConfig(
    n_eval=200, n_eval_sets=50, n_deploy=10_000, n_deploy_sets=2, n_legitimate=4000, n_clear=1000
)


@dataclass(frozen=True)
class Job:
    """One fine-tuning run.

    :param level: level of the game
    :param seed: base seed
    :param method: key of :data:`METHODS`
    :param weight: of the method's term
    :param options: further options as on the command line, for ablations
    """

    level: str
    seed: int
    method: str
    weight: float
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """File name of the job's results."""
        extra = "".join(f"_{o.lstrip('-')}" for o in self.options)
        return f"{self.level}/{self.method}-{self.weight:g}-{self.seed}{extra}"

    def config(self) -> LanguageConfig:
        """Resolved configuration."""
        argv = ["--preset", "password-game", "--seed", str(self.seed), "--game.level", self.level, *self.options]
        config = parse_config(LanguageConfig, argv, "lm_study", "")
        if self.method == "base":
            return config
        method, space, _ = METHODS[self.method]
        if space:
            config = replace(config, forecast=replace(config.forecast, error_space=space))  # type: ignore[arg-type]
        return with_weight(method, config, self.weight)


@lru_cache(maxsize=4)
def _base(level: str, seed: int) -> ContinuationScorer:
    torch.set_num_threads(1)
    config = Job(level, seed, "base", 0.0).config()
    model, tokenizer = load_model(str(cached_base(config, print)), torch.device("cpu"))
    model.eval()
    return ContinuationScorer(model, tokenizer)


class _Source:
    """The source of a base seed, which tokenizes each pool once for all methods and weights."""

    def __init__(self, config: LanguageConfig, scorer: ContinuationScorer) -> None:
        self._source = make_source(config)
        self._scorer = scorer
        self._pools: dict[tuple[int, int], list[EncodedTask]] = {}
        self.examples = lru_cache(self._source.examples)
        self.refusals = lru_cache(self._source.refusals)

    def pool(self, number: int, count: int) -> list[EncodedTask]:
        """A pool of training attacks."""
        if (number, count) not in self._pools:
            self._pools[number, count] = self._scorer.encode(self._source.pool(number, count))
        return self._pools[number, count]


@lru_cache(maxsize=4)
def _source(level: str, seed: int) -> Any:
    return _Source(Job(level, seed, "base", 0.0).config(), _base(level, seed))


@lru_cache(maxsize=4)
def _prompts(level: str, seed: int, split: str) -> tuple[HeldOut, Any, float]:
    """Prompts of a split, and the base model's scores and accuracy on them."""
    base = _base(level, seed)
    source = make_source(Job(level, seed, "base", 0.0).config())
    prompts = source.held_out(_sizes(split), split)
    return prompts, score_prompts(base, prompts, task_table(prompts)), accuracy(base, prompts.clear)


def _sizes(split: str) -> LanguageEvaluationConfig:
    return VALIDATION if split == "validation" else HELD_OUT


def _judge(job: Job, scorer: ContinuationScorer, split: str) -> dict[str, Any]:
    prompts, base, base_accuracy = _prompts(job.level, job.seed, split)
    held_out = HeldOutScores(score_prompts(scorer, prompts, task_table(prompts)), base, _sizes(split))
    return metrics_of("language", held_out, accuracy(scorer, prompts.clear), base_accuracy)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def train(job: Job, out: Path) -> None:
    """Fine-tune and judge on validation prompts, unless that has been done."""
    path = out / "validation" / f"{job.name}.json"
    if path.is_file():
        return
    started = time.perf_counter()
    base = _base(job.level, job.seed)
    trained = time.perf_counter()
    scorer = base
    if job.method != "base":
        config = job.config()
        torch.manual_seed(job.seed)
        tuner = make_fine_tuner(METHODS[job.method][0], config, _source(job.level, job.seed), base)
        while tuner.step < config.fine_tune.steps:
            tuner.update()
        trained = time.perf_counter()
        scorer = tuner.scorer
        weights = {n: p.detach().contiguous() for n, p in scorer.model.named_parameters() if p.requires_grad}
        target = out / "weights" / f"{job.name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, target)
    metrics = _judge(job, scorer, "validation")
    seconds = {"training_seconds": trained - started, "seconds": time.perf_counter() - started}
    _write(path, metrics | seconds)
    print(
        f"{job.name}: LO {metrics['abs_error_log_odds']:.2f} KL legit {metrics['kl_legitimate'] or 0:.3f} "
        f"mean p {metrics['mean_risk']:.1e} worst {metrics['worst_risk']:.2g} accuracy {metrics['accuracy']:.3f} "
        f"({seconds['training_seconds']:.0f} + {seconds['seconds'] - seconds['training_seconds']:.0f} s)",
        flush=True,
    )


def evaluate(job: Job, out: Path) -> None:
    """Judge a trained job on held-out prompts, once."""
    path = out / "held_out" / f"{job.name}.json"
    if path.is_file():
        return
    base = _base(job.level, job.seed)
    scorer = base
    if job.method != "base":
        config = job.config()
        scorer = make_fine_tuner(METHODS[job.method][0], config, _source(job.level, job.seed), base).scorer
        state = load_file(out / "weights" / f"{job.name}.safetensors")
        with torch.no_grad():
            for name, p in scorer.model.named_parameters():
                if name in state:
                    p.copy_(state[name])
    _write(path, _judge(job, scorer, "held_out"))
    print(f"held out: {job.name}", flush=True)


def weights_of(level: str, method: str) -> tuple[float, ...]:
    """Weights of a method at a level."""
    if method in ("base", "sft"):
        return (0.0,)
    return tuple(float(f"{weight * WEIGHT_FACTOR.get(level, 1.0):g}") for weight in METHODS[method][2])


def jobs_of(level: str, seeds: list[int], methods: list[str], n_weights: int = 3) -> list[Job]:
    """All jobs of a level, the base models first, then in an order of which every prefix is balanced."""
    jobs = [Job(level, seed, "base", 0.0) for seed in seeds]
    for i in range(n_weights):
        for method in methods:
            jobs += [Job(level, seed, method, w) for w in weights_of(level, method)[i : i + 1] for seed in seeds]
    return jobs


def main() -> None:
    """Run or resume the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default="tension")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--n-weights", type=int, default=3, help="so many weights of each method, the smallest first")
    parser.add_argument("--out", type=Path, default=Path("runs/lm-study"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--stage", choices=["train", "held_out", "all", "variants"], default="all")
    given = parser.parse_args()
    run = joblib.Parallel(n_jobs=given.processes)
    if given.stage == "variants":
        from benchmarks.lm_study_report import chosen_weights

        weight = chosen_weights(given.out, given.level, given.seeds)["forecast_log10_p"]
        run(
            joblib.delayed(train)(Job(given.level, seed, "forecast_log10_p", weight, options), given.out)
            for options in VARIANTS.values()
            for seed in given.seeds
        )
        return
    jobs = jobs_of(given.level, given.seeds, given.methods, given.n_weights)
    if given.stage != "held_out":
        # Base models first, so that no two processes train the same one.
        run(joblib.delayed(train)(job, given.out) for job in jobs[: len(given.seeds)])
        run(joblib.delayed(train)(job, given.out) for job in jobs[len(given.seeds) :])
    if given.stage != "train":
        from benchmarks.lm_study_report import chosen_weights

        weights = chosen_weights(given.out, given.level, given.seeds)
        chosen = [job for job in jobs if job.method == "base" or weights.get(job.method) == job.weight]
        run(joblib.delayed(evaluate)(job, given.out) for job in chosen)


if __name__ == "__main__":
    # Workers import the jobs by name: what they run must not live in __main__.
    from benchmarks import lm_study

    lm_study.main()
