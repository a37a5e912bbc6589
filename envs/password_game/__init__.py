"""The password game: prompts without end, with exactly known probabilities, for language models of any size.

See docs/password_game.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_names

if TYPE_CHECKING:
    from envs.password_game.game import Example, PasswordGame, Requests
    from envs.password_game.model import make_model
    from envs.password_game.tokenizer import make_tokenizer

__all__ = ["Example", "PasswordGame", "Requests", "make_model", "make_tokenizer"]

_HOME = {
    "Example": "envs.password_game.game",
    "PasswordGame": "envs.password_game.game",
    "Requests": "envs.password_game.game",
    "make_model": "envs.password_game.model",
    "make_tokenizer": "envs.password_game.tokenizer",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
