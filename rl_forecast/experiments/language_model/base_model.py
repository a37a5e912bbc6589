"""The game's own base model, trained from scratch and cached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from agents.language_model.fine_tune import correct_answers, encode_examples, supervised_loss
from agents.language_model.scorer import ContinuationScorer
from envs.password_game.game import Example, PasswordGame
from envs.password_game.model import make_model, make_tokenizer
from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.language_model.sources import make_game
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import BaseModelConfig, LanguageConfig
from rl_forecast.tasks import SPLITS

# Raised whenever the game, the model or the training changes: cached models of another version are not used.
_VERSION = 1
# Validation tasks on which accuracy is measured.
_N_VALIDATION = 1000
# Updates between two reports of progress.
_REPORT = 20


def cached_base(
    config: LanguageConfig, say: Callable[[str], None], report: Callable[[float], None] = lambda n: None
) -> Path:
    """Folder of the game's base model, trained now if it is not there.

    The folder's name is a hash of everything that decides the weights. It appears whole or not at all.

    :return: a folder for ``from_pretrained``
    """
    seed = config.seed if config.base.seed < 0 else config.base.seed
    settings = asdict(config.base)
    del settings["cache_dir"]
    settings |= {"game": asdict(config.game), "seed": seed, "version": _VERSION, "threads": config.threads}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    home = _cache_folder(config.base.cache_dir) / "base-models"
    target = home / f"password-game-{config.game.level}-{digest}"
    if (target / "training.json").is_file():
        say(f"base model: {target} (cached)")
        return target
    torch.set_num_threads(config.threads)
    scorer, trained = _train_base(config, seed, say, report)

    def write(folder: Path) -> None:
        scorer.model.save_pretrained(folder)
        scorer.tokenizer.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(settings | trained, indent=2, sort_keys=True) + "\n")

    try:
        home.mkdir(parents=True, exist_ok=True)
        # Another process may have been first; its model is the same one.
        if not target.is_dir():
            RunFolder(home).write_folder(target.name, write)
    except OSError as error:
        raise InputError(f"base models cannot be kept in {home}: {error.strerror}; set RL_FORECAST_CACHE") from error
    return target


def _cache_folder(configured: str) -> Path:
    from platformdirs import user_cache_path

    named = configured or os.environ.get("RL_FORECAST_CACHE", "")
    return Path(named) if named else user_cache_path("rl-forecast", appauthor=False)


def _train_base(
    config: LanguageConfig, seed: int, say: Callable[[str], None], report: Callable[[float], None]
) -> tuple[ContinuationScorer, dict[str, float]]:
    """Train the game's model until it answers clear tasks rightly; the accuracy and updates reached."""
    game, base = make_game(config.game), config.base
    tokenizer = make_tokenizer(config.game.n_words)
    try:
        model = make_model(tokenizer, seed, base.hidden_size, base.n_layers, base.n_heads)
    except ValueError as error:
        raise InputError(f"base: {one_line(str(error).splitlines()[0])}") from error
    scorer = ContinuationScorer(model, tokenizer)
    validation = game.clear(SPLITS["validation"].task_ids(_N_VALIDATION, seed))
    reached = 0.0
    for round_ in range(1, base.max_rounds + 1):
        _train_round(game, scorer, base, seed, (round_ - 1) * base.steps, report)
        reached = accuracy(scorer, validation)
        if reached >= base.accuracy:
            break
        next_ = "training another round" if round_ < base.max_rounds else "it is used nevertheless"
        say(f"warning: {reached:.3f} of clear validation tasks are answered rightly, below {base.accuracy}: {next_}")
    return scorer, {"reached_accuracy": reached, "updates": float(round_ * base.steps)}


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
    """Share of examples that greedy decoding answers exactly; NaN if there are none."""
    right = [
        correct_answers(scorer.model, encode_examples(scorer, examples[i : i + chunk])).float()
        for i in range(0, len(examples), chunk)
    ]
    return float(torch.cat(right).mean()) if right else float("nan")
