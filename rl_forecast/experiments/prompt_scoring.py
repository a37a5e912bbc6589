"""Failure scores of a language model on a file of prompts, in resumable shards.

Three ways to score a behaviour (after Jones et al. 2025, arXiv 2502.16797; our reading): the exact probability of
specific outputs, the probability of a keyword at any position of an output, and the share of sampled outputs that a
judge calls a failure.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from agents.language_model.encoding import EncodedTask
from agents.language_model.loading import load_language_model, model_fingerprint
from agents.language_model.prompts import PromptTask, read_prompts
from agents.language_model.sampling import keyword_log_hazards, keyword_log_p, sample_outputs
from agents.language_model.scorer import ContinuationScorer
from rl_forecast.errors import InputError
from rl_forecast.experiments.judges import Judge, load_judge
from rl_forecast.experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ScoringSettings", "Way", "score_prompts"]

Way = Literal["specific", "keyword", "judge"]
_METADATA = "rl-forecast score"
_SETTINGS = "settings.json"
#: Settings that say where the work is done and kept, not what it is.
_NOT_COMPARED = ("model", "prompts", "out", "device", "max_batch_tokens")

#: Lines for what is compared by digest.
_CHANGED = {
    "model": "the model has changed",
    "prompts": "the prompts have changed",
    "judge_code": "the code of the judge has changed",
}


@dataclass(frozen=True)
class ScoringSettings:
    """What to score, and how.

    :param model: folder or hub id
    :param prompts: jsonl file, see :func:`agents.language_model.prompts.read_prompts`
    :param out: parquet file to write
    :param way: ``specific``, ``keyword`` or ``judge``
    :param forbidden: forbidden texts or keywords of prompts that name none
    :param given: the keyword's positions are those of each prompt's ``answer`` instead of sampled outputs
    :param samples: sampled outputs of a prompt
    :param max_new_tokens: longest sampled output
    :param temperature: of the outputs that are judged
    :param judge: ``module:function`` or ``regex:PATTERN``
    :param seed: of the samples
    :param dtype: of the weights
    :param device: where to compute
    :param max_batch_tokens: tokens of one forward pass
    :param shard: prompts of a shard, the unit of resuming
    """

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
    """Score all prompts, or go on where an interrupted call stopped.

    Finished shards lie in ``<out>.parts`` until all are done; each is written whole or not at all.

    :param settings: what to score
    :param console: where progress is shown
    :param restart: forget what was done before
    :return: the table that was written to ``settings.out``
    :raises InputError: bad prompts or settings, or shards of other settings
    """
    out, parts = Path(settings.out), Path(f"{settings.out}.parts")
    try:
        tasks = _tasks(settings)
        judge = load_judge(settings.judge) if settings.way == "judge" else None
        identity = _identity(settings, judge)
        if restart:
            _forget(out, parts)
        done = _finished(out, identity)
        if done is not None:
            console.print(f"{out} is complete: nothing to do", highlight=False)
            return done
        _refuse_other_shards(parts, identity)
        shards = [range(i, min(i + settings.shard, len(tasks))) for i in range(0, len(tasks), settings.shard)]
        missing = [i for i in range(len(shards)) if not _part(parts, i).is_file()]
        if missing:
            scorer = ContinuationScorer(
                *load_language_model(settings.model, settings.dtype, settings.device), settings.max_batch_tokens
            )
            score = _way(settings, scorer, tasks, judge)
            # only now: what could not even begin leaves nothing behind
            parts.mkdir(parents=True, exist_ok=True)
            RunFolder(parts).write_json(_SETTINGS, identity)
            _run(parts, shards, missing, score, console)
        return _merge(out, parts, len(shards), identity)
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{error.filename or settings.out}: {error.strerror or error}") from error


def _run(
    parts: Path,
    shards: Sequence[range],
    missing: Sequence[int],
    score: Callable[[range], pl.DataFrame],
    console: Console,
) -> None:
    from rl_forecast.experiments.progress import PhaseProgress

    n_tasks = shards[-1].stop
    left = sum(len(shards[i]) for i in missing)
    if left < n_tasks:
        console.print(f"going on: {n_tasks - left} of {n_tasks} prompts were scored before", highlight=False)
    folder = RunFolder(parts)
    with PhaseProgress(console) as progress, progress.phase("scoring prompts", n_tasks) as phase:
        phase.advance(n_tasks - left)
        try:
            for i in missing:
                folder.write_table(_part(parts, i).name, score(shards[i]))
                phase.advance(len(shards[i]))
        except KeyboardInterrupt as error:
            error.add_note(f"finished shards are kept in {parts}; the same command goes on")
            raise


def _tasks(settings: ScoringSettings) -> list[PromptTask]:
    tasks = read_prompts(settings.prompts)
    if settings.way != "judge":
        tasks = [task if task.forbidden else replace(task, forbidden=settings.forbidden) for task in tasks]
        for task in tasks:
            if not task.forbidden:
                raise ValueError(
                    f"{settings.prompts}: prompt {task.task_id!r} has no forbidden text: write one in its field "
                    "'forbidden', or give --forbidden TEXT for all prompts without one"
                )
    return tasks


def _way(
    settings: ScoringSettings, scorer: ContinuationScorer, tasks: list[PromptTask], judge: Judge | None
) -> Callable[[range], pl.DataFrame]:
    """The function that scores a shard; all prompts are checked before the first is scored."""
    ids = [str(task.task_id) for task in tasks]
    if settings.way == "specific":
        encoded: list[EncodedTask] = scorer.encode(tasks)

        def specific(shard: range) -> pl.DataFrame:
            log_p = scorer.score(encoded[shard.start : shard.stop]).double().cpu().numpy()
            return pl.DataFrame({"id": ids[shard.start : shard.stop], "log_p": log_p})

        return specific
    prompts = scorer.encoder.prompts(tasks)
    if settings.way == "keyword":
        return _keyword_way(settings, scorer, tasks, prompts)
    assert judge is not None
    for task, prompt in zip(tasks, prompts, strict=True):
        scorer.encoder.check_length(task, len(prompt), settings.max_new_tokens)

    def judged(shard: range) -> pl.DataFrame:
        rows = []
        for i in shard:
            drawn = sample_outputs(
                scorer,
                prompts[i],
                settings.samples,
                settings.max_new_tokens,
                seed=_seed(settings.seed, i),
                temperature=settings.temperature,
            )
            texts = scorer.tokenizer.batch_decode(drawn, skip_special_tokens=True)
            failed = [judge(tasks[i], text) for text in texts]
            example = texts[failed.index(True)] if any(failed) else None
            rows.append((ids[i], sum(failed), len(failed), example))
        schema = {"id": pl.String, "failures": pl.Int64, "samples": pl.Int64, "example": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    return judged


def _keyword_way(
    settings: ScoringSettings, scorer: ContinuationScorer, tasks: list[PromptTask], prompts: list[list[int]]
) -> Callable[[range], pl.DataFrame]:
    keywords = [[scorer.encoder.continuation(text) for text in task.forbidden] for task in tasks]
    given: list[list[int]] | None = None
    if settings.given:
        for task in tasks:
            if not task.answer:
                raise ValueError(f"prompt {task.task_id!r} has no 'answer', whose positions --given scores")
        given = [scorer.encoder.continuation(task.answer or "") for task in tasks]
    for i, task in enumerate(tasks):
        n_positions = len(given[i]) if given else settings.max_new_tokens
        scorer.encoder.check_length(task, len(prompts[i]), n_positions - 1 + max(map(len, keywords[i])))

    def keyword(shard: range) -> pl.DataFrame:
        rows = []
        for i in shard:
            continuations = (
                [given[i]]
                if given
                else sample_outputs(
                    scorer,
                    prompts[i],
                    settings.samples,
                    settings.max_new_tokens,
                    seed=_seed(settings.seed, i),
                    never=keywords[i],
                )
            )
            log_p = keyword_log_p(keyword_log_hazards(scorer, prompts[i], continuations, keywords[i]))
            rows.append((str(tasks[i].task_id), log_p, len(continuations)))
        return pl.DataFrame(
            rows, schema={"id": pl.String, "log_p": pl.Float64, "n_continuations": pl.Int64}, orient="row"
        )

    return keyword


def _seed(seed: int, position: int) -> int:
    """A seed of each prompt's own, so that samples do not depend on shards or on where a run was interrupted."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


def _identity(settings: ScoringSettings, judge: Judge | None) -> dict[str, Any]:
    """What must not change between a run and its resumption, fit for JSON."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in _NOT_COMPARED}
    prompts = hashlib.sha256(Path(settings.prompts).read_bytes()).hexdigest()
    model = model_fingerprint(settings.model)
    identity = chosen | {"model": model, "prompts": prompts, "judge_code": judge.fingerprint if judge else None}
    result: dict[str, Any] = json.loads(json.dumps(identity))
    return result


def _refuse_other(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [key for key in now if before.get(key) != now[key]]
    if not changed:
        return
    key = changed[0]
    what = _CHANGED.get(key, f"{key} was {before.get(key)!r}, now {now[key]!r}")
    raise ValueError(f"{name} belongs to another scoring: {what}; choose another --out, or --restart to begin again")


def _finished(out: Path, identity: dict[str, Any]) -> pl.DataFrame | None:
    if not out.exists():
        return None
    try:
        metadata = pl.read_parquet_metadata(out)
        before = json.loads(metadata[_METADATA])
    except (pl.exceptions.PolarsError, KeyError, ValueError):
        raise ValueError(f"{out} exists and is not a result of score: choose another --out, or --restart") from None
    _refuse_other(str(out), before, identity)
    return pl.read_parquet(out)


def _refuse_other_shards(parts: Path, identity: dict[str, Any]) -> None:
    settings = parts / _SETTINGS
    if settings.is_file() and any(parts.glob("part-*.parquet")):
        _refuse_other(str(parts), json.loads(settings.read_text(encoding="utf-8")), identity)


def _forget(out: Path, parts: Path) -> None:
    out.unlink(missing_ok=True)
    if parts.is_dir():
        shutil.rmtree(parts)


def _part(parts: Path, i: int) -> Path:
    return parts / f"part-{i:05d}.parquet"


def _merge(out: Path, parts: Path, n_shards: int, identity: dict[str, Any]) -> pl.DataFrame:
    table = pl.concat([pl.read_parquet(_part(parts, i)) for i in range(n_shards)])
    metadata = {_METADATA: json.dumps(identity)}
    RunFolder(out.parent).write(out.name, lambda path: table.write_parquet(path, metadata=metadata))
    shutil.rmtree(parts)
    return table
