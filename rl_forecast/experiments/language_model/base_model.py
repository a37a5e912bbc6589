"""Base models: the game's own, trained from scratch and cached, or any the user names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agents.language_model.fine_tune import correct_answers, encode_examples, supervised_loss
from agents.language_model.loading import load_language_model
from agents.language_model.scorer import ContinuationScorer
from envs.password_game.model import make_model, make_tokenizer
from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.language_model.sources import make_game
from rl_forecast.tasks import SPLITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envs.password_game.game import Example, PasswordGame
    from rl_forecast.experiments.settings import BaseModelConfig, GameConfig, LanguageConfig

__all__ = ["accuracy", "cached_base", "load_model", "train_base", "without_progress_bars"]

# Raised whenever the game, the model or the training changes: cached models of another version are not used.
_VERSION = 1
# Validation tasks on which accuracy is measured.
_N_VALIDATION = 1000
# Updates between two reports of progress.
_REPORT = 20

Say = Callable[[str], None]


def load_model(name: str, device: torch.device) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, from a folder or the hub, weights in float32.

    :param name: folder or hub id
    :param device: torch device
    :raises InputError: it cannot be loaded, in one line
    """
    try:
        return load_language_model(name, device=str(device))
    except ValueError as error:
        raise InputError(f"--model: {error}") from error


def without_progress_bars() -> None:
    """Silence the bars of transformers: a run has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def cached_base(config: LanguageConfig, say: Say, report: Callable[[float], None] = lambda n: None) -> Path:
    """Folder of the game's base model, trained now if it is not there.

    The folder's name is a hash of everything that decides the weights. It appears whole or not at all.

    :param config: the run
    :param say: prints a line
    :param report: called with the number of updates made since the last call
    :return: a folder for ``from_pretrained``
    """
    base, seed = config.base, config.seed if config.base.seed < 0 else config.base.seed
    settings = asdict(base) | {
        "game": asdict(config.game),
        "seed": seed,
        "version": _VERSION,
        "threads": config.threads,
    }
    del settings["cache_dir"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    home = _cache_folder(base.cache_dir) / "base-models"
    target = home / f"password-game-{config.game.level}-{digest}"
    if (target / "training.json").is_file():
        say(f"base model: {target} (cached)")
        return target
    torch.set_num_threads(config.threads)
    without_progress_bars()
    model, tokenizer, trained = train_base(config.game, base, seed, say, report)
    try:
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=home, prefix=".base-"))
    except OSError as error:
        raise InputError(f"base models cannot be kept in {home}: {error.strerror}; set RL_FORECAST_CACHE") from error
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "training.json").write_text(json.dumps(settings | trained, indent=2, sort_keys=True) + "\n")
        try:
            os.rename(temporary, target)
        except OSError:
            # Another process was first; its model is the same one.
            if not (target / "training.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _cache_folder(configured: str) -> Path:
    from platformdirs import user_cache_path

    named = configured or os.environ.get("RL_FORECAST_CACHE", "")
    return Path(named) if named else user_cache_path("rl-forecast", appauthor=False)


def train_base(
    game_config: GameConfig,
    config: BaseModelConfig,
    seed: int,
    say: Say = print,
    report: Callable[[float], None] = lambda n: None,
) -> tuple[Any, Any, dict[str, float]]:
    """Train the game's model from scratch until it answers clear tasks rightly.

    :param game_config: the game
    :param config: size and training of the model
    :param seed: of weights and training tasks
    :param say: prints a line
    :param report: called with the number of updates made since the last call
    :return: model, tokenizer, and the accuracy and updates reached
    """
    game = make_game(game_config)
    tokenizer = make_tokenizer(game_config.n_words)
    try:
        model = make_model(tokenizer, seed, config.hidden_size, config.n_layers, config.n_heads)
    except ValueError as error:
        raise InputError(f"base: {one_line(str(error).splitlines()[0])}") from error
    scorer = ContinuationScorer(model, tokenizer)
    validation = game.clear(SPLITS["validation"].task_ids(_N_VALIDATION, seed))
    reached, updates = 0.0, 0
    for round_ in range(config.max_rounds):
        _train_round(game, scorer, config, seed, updates, report)
        updates += config.steps
        reached = accuracy(scorer, validation)
        if reached >= config.accuracy:
            break
        last = round_ + 1 == config.max_rounds
        say(
            f"warning: {reached:.3f} of clear validation tasks are answered rightly, below {config.accuracy}: "
            + ("going on with it after the last round" if last else "training another round")
        )
    return model, tokenizer, {"reached_accuracy": reached, "updates": float(updates)}


def _train_round(
    game: PasswordGame,
    scorer: ContinuationScorer,
    config: BaseModelConfig,
    seed: int,
    first: int,
    report: Callable[[float], None],
) -> None:
    model = scorer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01)
    # A round must be able to raise and lower its learning rate, so the schedule has at least a few updates.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=max(config.steps, 5))
    model.train()
    for step in range(first, first + config.steps):
        ids = SPLITS["train"].task_ids(config.batch_size, seed, first=step * config.batch_size)
        batch = encode_examples(scorer, game.traffic(ids, config.legitimate_share))
        optimizer.zero_grad(set_to_none=True)
        supervised_loss(model, batch, log_odds_weight=config.log_odds_weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % _REPORT == 0:
            report(_REPORT)
    model.eval()


def accuracy(scorer: ContinuationScorer, examples: Sequence[Example], chunk: int = 250) -> float:
    """Share of examples that greedy decoding answers exactly.

    :param scorer: scorer of the model
    :param examples: tasks with one right answer; NaN if there are none
    :param chunk: examples of one forward pass
    """
    right = [
        correct_answers(scorer.model, encode_examples(scorer, examples[i : i + chunk])).float()
        for i in range(0, len(examples), chunk)
    ]
    return float(torch.cat(right).mean()) if right else float("nan")
