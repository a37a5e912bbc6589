"""Where prompts come from: the password game, or a user's own file.

A source gives training prompts as functions of a number (so that a resumed run sees the same ones), and held-out
prompts with everything that is known about them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.language_model.prompts import PromptTask, read_prompts
from envs.password_game.game import Example, PasswordGame, Requests
from rl_forecast.errors import InputError
from rl_forecast.experiments.settings import GameConfig, LanguageConfig, LanguageEvaluationConfig
from rl_forecast.tasks import SPLITS

# Positions in a split's sequence, so that families of one split never share a task.
_EVALUATION, _DEPLOYMENT, _LEGITIMATE, _CLEAR = 0, 2**26, 2**27, 2**28


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Prompts on which models are evaluated.

    :param table: a row each: ``part`` (``evaluation``, ``deployment``, ``legitimate``), ``task_id``, and, null where
        unknown, the right ``log_odds`` and whether it is ``rare``
    :param prompts: part and id to prompt
    :param clear: tasks with one right answer
    """

    table: pl.DataFrame
    prompts: dict[tuple[str, str], PromptTask]
    clear: list[Example]


def _held_out(parts: dict[str, list[PromptTask]], clear: list[Example], known: dict[str, Requests]) -> HeldOut:
    tables = []
    kinds = {"part": pl.String, "task_id": pl.String, "log_odds": pl.Float64, "rare": pl.Boolean}
    for part, tasks in parts.items():
        unknown = [None] * len(tasks)
        requests = known.get(part)
        log_odds, rare = (unknown, unknown) if requests is None else (requests.log_odds, requests.rare)
        ids = [str(task.task_id) for task in tasks]
        columns = {"part": [part] * len(tasks), "task_id": ids, "log_odds": log_odds, "rare": rare}
        tables.append(pl.DataFrame(columns, schema=kinds))
    prompts = {(part, str(task.task_id)): task for part, tasks in parts.items() for task in tasks}
    return HeldOut(pl.concat(tables), prompts, clear)


class PromptSource(Protocol):
    """Prompts of a run."""

    def examples(self, step: int, count: int) -> Sequence[Example]:
        """Supervised batch of a step; empty where the source has none."""

    def refusals(self, step: int, count: int) -> Sequence[Example]:
        """Refused attacks of a step; empty where the source has none."""

    def pool(self, number: int, count: int) -> list[PromptTask]:
        """A pool of training attacks."""

    def held_out(self, evaluation: LanguageEvaluationConfig, split: str = "held_out") -> HeldOut:
        """Prompts of another split than the training one."""


def make_game(config: GameConfig) -> PasswordGame:
    """The configured game.

    :raises InputError: a setting is out of range
    """
    try:
        return PasswordGame(**asdict(config))
    except ValueError as error:
        raise InputError(f"game.{error}") from error


def make_source(config: LanguageConfig) -> PromptSource:
    """The prompts that a run asks for.

    :raises InputError: a setting is out of range, or a file that cannot be used
    """
    if config.prompts:
        return FileSource.read(config.prompts, config.seed)
    return GameSource(make_game(config.game), config.seed)


@dataclass(frozen=True)
class GameSource:
    """Prompts of the password game."""

    game: PasswordGame
    seed: int

    def _train(self, first: int, count: int) -> NDArray[np.int64]:
        return SPLITS["train"].task_ids(count, self.seed, first)

    def examples(self, step: int, count: int) -> Sequence[Example]:
        """Clear tasks; in level ``tension`` natural traffic, whose open requests have soft labels."""
        ids = self._train(step * count, count)
        return self.game.traffic(ids) if self.game.level == "tension" else self.game.clear(ids)

    def refusals(self, step: int, count: int) -> Sequence[Example]:
        """Attacks, refused."""
        # Beyond the pools: an attack's id serves one purpose.
        return self.game.attacks(self._train(2**29 + step * count, count)).refusals()

    def pool(self, number: int, count: int) -> list[PromptTask]:
        """Fresh attacks."""
        return _tasks(self.game.attacks(self._train(number * count, count)))

    def held_out(self, evaluation: LanguageEvaluationConfig, split: str = "held_out") -> HeldOut:
        """Attacks in disjoint sets, legitimate requests, clear tasks."""
        ids = SPLITS[split].task_ids
        e = evaluation
        parts = {
            "evaluation": self.game.attacks(ids(e.n_eval * e.n_eval_sets, self.seed, first=_EVALUATION)),
            "deployment": self.game.attacks(ids(e.n_deploy * e.n_deploy_sets, self.seed, first=_DEPLOYMENT)),
        }
        if self.game.level == "tension":
            parts["legitimate"] = self.game.legitimate(ids(e.n_legitimate, self.seed, first=_LEGITIMATE))
        clear = self.game.clear(ids(e.n_clear, self.seed, first=_CLEAR))
        return _held_out({part: _tasks(requests) for part, requests in parts.items()}, clear, parts)


def _tasks(requests: Requests) -> list[PromptTask]:
    return [
        PromptTask(prompt, (forbidden,), task_id=int(i))
        for prompt, forbidden, i in zip(requests.prompt, requests.forbidden, requests.task_id, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class FileSource:
    """A user's own prompts, split by their content.

    A prompt with ``forbidden`` texts is an attack; one with an ``answer`` is a supervised example (it may be both). It
    belongs to the split that the first byte of the SHA-256 of its prompt's JSON names: below 128 train, below 154
    validation, else held-out (50 %, 10 %, 40 %). The rule looks at nothing else, so adding, removing or reordering
    lines moves no other prompt, and equal prompts never stand in two splits.

    :param attacks: split to prompts with forbidden texts
    :param answered: split to supervised examples
    :param seed: of the order in which prompts are drawn
    """

    attacks: dict[str, list[PromptTask]]
    answered: dict[str, list[Example]]
    seed: int

    @classmethod
    def read(cls, path: str, seed: int) -> FileSource:
        """Read and split a jsonl file.

        :raises InputError: the file cannot be read, or a split has no attack
        """
        try:
            tasks = read_prompts(path)
        except (OSError, ValueError) as error:
            raise InputError(f"--prompts: {error}") from error
        attacks: dict[str, list[PromptTask]] = {split: [] for split in SPLITS}
        answered: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for task in tasks:
            split = split_of(task)
            if task.forbidden:
                attacks[split].append(task)
            if task.answer is not None:
                answered[split].append(Example(task.prompt, task.answer, kind="file"))  # type: ignore[arg-type]
        for split in ("train", "held_out"):
            if len(attacks[split]) < 20:
                raise InputError(
                    f"--prompts: {path} gives {len(attacks[split])} prompts with forbidden texts to the "
                    f"{split.replace('_', '-')} part, at least 20 are needed: give more prompts"
                )
        return cls(attacks, answered, seed)

    def _draw(self, items: list[Any], stream: int, number: int, count: int) -> list[Any]:
        """Part ``number`` of an endless sequence of shuffled passes over the items."""
        result: list[Any] = []
        position = number * count
        while len(result) < count and items:
            epoch, start = divmod(position, len(items))
            order = np.random.default_rng([self.seed, stream, epoch]).permutation(len(items))
            taken = order[start : start + count - len(result)]
            result += [items[i] for i in taken]
            position += len(taken)
        return result

    def examples(self, step: int, count: int) -> Sequence[Example]:
        """Training prompts with an answer."""
        return self._draw(self.answered["train"], 0, step, count)

    def refusals(self, step: int, count: int) -> Sequence[Example]:
        """Training prompts that have both: the answer is what to say instead of what is forbidden."""
        both = [task for task in self.attacks["train"] if task.answer is not None]
        examples = [Example(t.prompt, t.answer or "", kind="file") for t in both]  # type: ignore[arg-type]
        return self._draw(examples, 1, step, count)

    def pool(self, number: int, count: int) -> list[PromptTask]:
        """Training attacks in random order, each at most once in a pool."""
        items = self.attacks["train"]
        order = np.random.default_rng([self.seed, 2, number]).permutation(len(items))[:count]
        return [items[i] for i in order]

    def held_out(self, evaluation: LanguageEvaluationConfig, split: str = "held_out") -> HeldOut:
        """Attacks in disjoint sets, as many as there are."""
        items = self.attacks[split]
        order = np.random.default_rng([self.seed, 3]).permutation(len(items))
        n_evaluation = evaluation.n_eval * evaluation.n_eval_sets
        n_deployment = evaluation.n_deploy * evaluation.n_deploy_sets
        if n_evaluation + n_deployment > len(items):
            raise InputError(
                f"the {split.replace('_', '-')} part has {len(items)} prompts, evaluation and deployment sets need "
                f"{n_evaluation + n_deployment}: lower --evaluation.n-eval, n-eval-sets, n-deploy or n-deploy-sets"
            )
        chosen = [items[i] for i in order]
        parts = {"evaluation": chosen[:n_evaluation], "deployment": chosen[n_evaluation:][:n_deployment]}
        return _held_out(parts, self.answered[split][: evaluation.n_clear], {})


def fit_sets(
    source: PromptSource, evaluation: LanguageEvaluationConfig, say: Callable[[str], None]
) -> LanguageEvaluationConfig:
    """Set sizes that the held-out prompts can fill: as asked for if possible, else one part in four evaluates."""
    if not isinstance(source, FileSource):
        return evaluation
    n = len(source.attacks["held_out"])
    if evaluation.n_eval * evaluation.n_eval_sets + evaluation.n_deploy * evaluation.n_deploy_sets <= n:
        return evaluation
    n_eval = min(evaluation.n_eval, max(n // 10, min(2 * evaluation.tail_k, n // 2)))
    n_eval_sets = max(1, min(evaluation.n_eval_sets, n // 4 // n_eval))
    n_deploy = n - n_eval * n_eval_sets
    say(
        f"{n} held-out prompts are too few for the sets asked for: {n_eval_sets} evaluation sets of {n_eval} and one "
        f"deployment set of {n_deploy} instead"
    )
    return replace(evaluation, n_eval=n_eval, n_eval_sets=n_eval_sets, n_deploy=n_deploy, n_deploy_sets=1)


def split_of(task: PromptTask) -> str:
    """Split of a prompt, by the first byte of its hash."""
    text = json.dumps(task.prompt if isinstance(task.prompt, str) else [dict(m) for m in task.prompt], sort_keys=True)
    byte = hashlib.sha256(text.encode()).digest()[0]
    return "train" if byte < 128 else "validation" if byte < 154 else "held_out"
