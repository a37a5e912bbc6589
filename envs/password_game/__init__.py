"""The password game: prompts without end, with exactly known probabilities, for language models of any size.

See docs/password_game.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_exports

if TYPE_CHECKING:
    from envs.password_game.game import Example as Example
    from envs.password_game.game import PasswordGame as PasswordGame
    from envs.password_game.game import Requests as Requests
    from envs.password_game.model import make_model as make_model
    from envs.password_game.model import make_tokenizer as make_tokenizer


__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
