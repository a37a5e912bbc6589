"""The password game: prompts without end, with exactly known probabilities, for language models of any size."""

from envs.password_game.game import Example, PasswordGame, Requests
from envs.password_game.model import make_model, make_tokenizer

__all__ = ["Example", "PasswordGame", "Requests", "make_model", "make_tokenizer"]
