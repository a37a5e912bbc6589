"""Failure scores of a language model on a file of prompts, in resumable shards.

Three ways to score a behaviour (after Jones et al. 2025, arXiv 2502.16797; our reading): see docs/scoring.md.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pkgutil
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from rich.console import Console

from agents.language_model.loading import load_language_model, model_fingerprint
from agents.language_model.prompts import PromptTask, read_prompts
from agents.language_model.sampling import keyword_log_hazards, keyword_log_p, sample_outputs
from agents.language_model.scorer import ContinuationScorer
from rl_forecast.errors import InputError
from rl_forecast.experiments.progress import PhaseProgress
from rl_forecast.experiments.run_folder import RunFolder

Way = Literal["specific", "keyword", "judge"]
Judge = Callable[[PromptTask, str], bool]
_COLUMNS: dict[Way, Any] = {
    "specific": {"id": pl.String, "log_p": pl.Float64},
    "keyword": {"id": pl.String, "log_p": pl.Float64, "n_continuations": pl.Int64},
    "judge": {"id": pl.String, "failures": pl.Int64, "samples": pl.Int64, "example": pl.String},
}
_METADATA = "rl-forecast score"
_SETTINGS = "settings.json"
#: Begins the name of a judge that is a regular expression.
REGEX = "regex:"
#: Settings that say where the work is done and kept, not what it is.
_NOT_COMPARED = ("model", "prompts", "out", "device", "max_batch_tokens")


@dataclass(frozen=True)
class ScoringSettings:
    """What to score, and how: the options of ``rl-forecast score``, explained by its ``--help``."""

    model: str
    prompts: str
    out: str
    way: Way = "specific"
    forbidden: tuple[str, ...] = ()
    given: bool = False
    samples: int = 10
    max_new_tokens: int = 32
    temperature: float = 1.0
    judge: str | None = None
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    max_batch_tokens: int = 16_384
    shard: int = 256


def score_prompts(settings: ScoringSettings, console: Console, restart: bool = False) -> pl.DataFrame:
    """Score all prompts, or resume where an interrupted call stopped; returns the table written to ``settings.out``.

    Finished shards lie in ``<out>.parts`` until all are done; each is written whole or not at all.

    :param restart: forget what was done before
    :raises InputError: bad prompts or settings, or shards of other settings
    """
    out, parts = Path(settings.out), RunFolder(Path(f"{settings.out}.parts"))
    try:
        tasks = _read_tasks(settings)
        judge, fingerprint = load_judge(settings.judge) if settings.way == "judge" else (None, None)
        identity = _identity(settings, fingerprint)
        if restart:
            out.unlink(missing_ok=True)
            shutil.rmtree(parts.path, ignore_errors=True)
        if out.exists():
            try:
                before = json.loads(pl.read_parquet_metadata(out)[_METADATA])
            except (pl.exceptions.PolarsError, KeyError, ValueError):
                raise ValueError(
                    f"{out} exists and is not a result of score: choose another --out, or --restart"
                ) from None
            _refuse_other(out, before, identity)
            console.print(f"{out} is complete: nothing to do", highlight=False)
            return pl.read_parquet(out)
        shards = [range(i, min(i + settings.shard, len(tasks))) for i in range(0, len(tasks), settings.shard)]
        files = {parts.path / f"part-{i:05d}.parquet": shard for i, shard in enumerate(shards)}
        missing = {file: shard for file, shard in files.items() if not file.is_file()}
        if len(missing) < len(files):
            _refuse_other(parts.path, json.loads((parts.path / _SETTINGS).read_text(encoding="utf-8")), identity)
        if missing:
            scorer = ContinuationScorer(
                *load_language_model(settings.model, settings.dtype, settings.device), settings.max_batch_tokens
            )
            score = _scores(settings, scorer, tasks, judge)
            # only now: what could not even begin leaves nothing behind
            parts.path.mkdir(parents=True, exist_ok=True)
            parts.write_json(_SETTINGS, identity)
            n_done = len(tasks) - sum(map(len, missing.values()))
            if n_done:
                console.print(f"resuming: {n_done} of {len(tasks)} prompts were scored before", highlight=False)
            with PhaseProgress(console) as progress, progress.phase("scoring prompts", len(tasks)) as phase:
                phase.advance(n_done)
                for file, shard in missing.items():
                    table = pl.DataFrame(list(score(shard)), schema=_COLUMNS[settings.way], orient="row")
                    parts.write_table(file.name, table)
                    phase.advance(len(shard))
        table = pl.concat([pl.read_parquet(file) for file in files])
        metadata = {_METADATA: json.dumps(identity)}
        RunFolder(out.parent).write(out.name, lambda path: table.write_parquet(path, metadata=metadata))
        shutil.rmtree(parts.path)
        return table
    except KeyboardInterrupt as error:
        if parts.path.exists():
            error.add_note(f"finished shards are kept in {parts.path}; the same command resumes")
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{error.filename or settings.out}: {error.strerror or error}") from error


def _read_tasks(settings: ScoringSettings) -> list[PromptTask]:
    tasks = read_prompts(settings.prompts)
    tasks = [task if task.forbidden else replace(task, forbidden=settings.forbidden) for task in tasks]
    for task in tasks:
        if not task.forbidden and settings.way != "judge":
            raise ValueError(
                f"{settings.prompts}: prompt {task.task_id!r} has no forbidden text: write one in its field "
                "'forbidden', or give --forbidden TEXT for all prompts without one"
            )
    return tasks


def _scores(
    settings: ScoringSettings, scorer: ContinuationScorer, tasks: list[PromptTask], judge: Judge | None
) -> Callable[[range], Iterable[tuple[Any, ...]]]:
    """The function that gives the rows of a shard; all prompts are checked before the first is scored."""
    if settings.way == "specific":
        encoded = scorer.encode(tasks)

        def specific(shard: range) -> Iterable[tuple[Any, ...]]:
            log_p = scorer.score(encoded[shard.start : shard.stop]).double().tolist()
            return zip((str(tasks[i].task_id) for i in shard), log_p, strict=True)

        return specific
    prompts = scorer.encoder.prompts(tasks)
    continuation, check_length = scorer.encoder.continuation, scorer.encoder.check_length

    def sample(i: int, **options: Any) -> list[list[int]]:
        # A seed for each prompt, so that samples do not depend on shards or on where a run was interrupted.
        seed = int(np.random.SeedSequence([settings.seed, i]).generate_state(1)[0])
        return sample_outputs(scorer, prompts[i], settings.samples, settings.max_new_tokens, seed=seed, **options)

    if settings.way == "judge":
        assert judge is not None
        for task, prompt in zip(tasks, prompts, strict=True):
            check_length(task, len(prompt), settings.max_new_tokens)

        def judged(shard: range) -> Iterable[tuple[Any, ...]]:
            for i in shard:
                outputs = sample(i, temperature=settings.temperature)
                texts = scorer.tokenizer.batch_decode(outputs, skip_special_tokens=True)
                failed = [judge(tasks[i], text) for text in texts]
                example = texts[failed.index(True)] if any(failed) else None
                yield str(tasks[i].task_id), sum(failed), len(failed), example

        return judged
    keywords = [[continuation(text) for text in task.forbidden] for task in tasks]
    given: list[list[int]] = []
    for i, task in enumerate(tasks):
        if settings.given:
            if not task.answer:
                raise ValueError(f"prompt {task.task_id!r} has no 'answer', whose positions --given scores")
            given.append(continuation(task.answer))
        n_positions = len(given[i]) if given else settings.max_new_tokens
        check_length(task, len(prompts[i]), n_positions - 1 + max(map(len, keywords[i])))

    def keyword(shard: range) -> Iterable[tuple[Any, ...]]:
        for i in shard:
            continuations = [given[i]] if given else sample(i, never=keywords[i])
            log_p = keyword_log_p(keyword_log_hazards(scorer, prompts[i], continuations, keywords[i]))
            yield str(tasks[i].task_id), log_p, len(continuations)

    return keyword


def _identity(settings: ScoringSettings, judge: str | None) -> dict[str, Any]:
    """What must not change between a run and its resumption, fit for JSON."""
    identity = {name: value for name, value in asdict(settings).items() if name not in _NOT_COMPARED}
    identity["the model"] = model_fingerprint(settings.model)
    identity["the file of prompts"] = hashlib.sha256(Path(settings.prompts).read_bytes()).hexdigest()
    identity["the code of the judge"] = judge
    result: dict[str, Any] = json.loads(json.dumps(identity))
    return result


def _refuse_other(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    key = next((key for key in now if before.get(key) != now[key]), None)
    if key is not None:
        # what is compared by a digest has a name for people
        what = f"{key} has changed" if key.startswith("the ") else f"{key} was {before.get(key)!r}, now {now[key]!r}"
        fix = "choose another --out, or --restart to begin again"
        raise ValueError(f"{path} belongs to another scoring: {what}; {fix}")


def load_judge(name: str | None) -> tuple[Judge, str]:
    """What says of a prompt and an output whether it is a failure, and a fingerprint of its code.

    :param name: ``module:function`` (modules of the working directory included) or ``regex:PATTERN``
    :raises ValueError: no such function, or no regular expression; when called, the function fails, or says neither yes
        nor no: an output without verdict may be the failure that is looked for, so none is dropped
    """
    if not name:
        raise ValueError("which output is a failure? Add --judge module:function or --judge-regex PATTERN")
    if name.startswith(REGEX):
        pattern = name.removeprefix(REGEX)
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"--judge-regex {pattern!r} is not a regular expression: {error}") from error
        return lambda _, output: compiled.search(output) is not None, pattern
    if ":" not in name:
        raise ValueError(f"--judge must be written module:function, it is {name!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:
        raise ValueError(f"--judge {name}: {type(error).__name__}: {error}") from error

    def judge(task: PromptTask, output: str) -> bool:
        where = f"on prompt {task.task_id!r}"
        try:
            verdict = function(task.prompt, output)
        except Exception as error:
            raise ValueError(f"judge {name} failed {where}: {type(error).__name__}: {error}") from error
        if isinstance(verdict, int | np.bool_) and verdict in (0, 1):
            return bool(verdict)
        raise ValueError(f"judge {name} must return True or False, {where} it gave {verdict!r}")

    source = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
    return judge, hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""
