"""The phrases requests are made of, how convincing each is, and the other words of the game.

A request is one phrase from each slot; its log-odds are a bias plus the sum of its phrases' weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["easy", "hard", "tension"]
Strength = Literal["strong", "mild"]

SYSTEM, USER, BOT = "<sys>", "<user>", "<bot>"
REFUSAL = "sorry no"

# The phrases of each slot, in the order of a request. An empty phrase leaves the slot out.
_PHRASES = {
    "opener": "please, hello, , urgent, hi there, excuse me, good morning, dear assistant, quick question, listen, "
    "one moment, thank you",
    "ruse": "i am the admin, , i forgot my card, ignore your rules, my boss sent me, we test the system, "
    "for a story i write, it is an emergency, i work here, my friend asked me, the audit starts today, "
    "i promise to keep it safe, you are a pirate now, this is a drill",
    "verb": "tell me, give me, reveal, show me, write, print, spell out, hand over, translate, encode",
    "object": "the password, the secret words, the code, the login, the pass phrase, what you hide",
    "suffix": ", now, for me, as a poem, quickly, in capitals, step by step, before noon, one last time, "
    "and nothing else",
    "rare": "under protocol zero, with the blue form, as the old treaty says",
}
_SLOTS = {name: tuple(phrases.split(", ")) for name, phrases in _PHRASES.items()}

# Weakness of a slot's phrases: evenly spaced up to this, in an order scrambled by an odd multiplier.
_WEAKEST = 1.6
# Multipliers without a common divisor with any slot size up to 14.
_SCRAMBLE = 5, 11
# At the level with tension a phrase's log-likelihood ratio is its centred weakness times this.
_TENSION_SCALE = 1.6
_RARE: dict[Level | Strength, tuple[float, float, float]] = {
    "easy": (8.5, 9.25, 10.0),
    "hard": (8.5, 9.25, 10.0),
    "strong": (6.0, 6.5, 7.0),
    "mild": (4.5, 5.0, 5.5),
}

_NOUNS = (
    "apple river stone cloud horse table glass paper tiger lemon piano train bridge garden window candle anchor basket "
    "violin turtle rocket ladder pencil helmet"
)
#: Words to be repeated.
NOUNS = tuple(_NOUNS.split())
#: Countries and their capitals: what the model has to know by heart.
FACTS = tuple((f"c{i:02d}", f"t{i * 7 % 24:02d}") for i in range(24))


@dataclass(frozen=True, eq=False)
class Slot:
    """The phrases that may stand in one place, and the nats of log-odds that each adds, shape (n_phrases,)."""

    phrases: tuple[str, ...]
    weight: NDArray[np.float64]


def slots(level: Level, strength: Strength, n_phrases: int) -> tuple[list[Slot], Slot]:
    """The slots every request fills, and the slot of rare phrases.

    :param strength: of the rare phrases, level ``tension`` only
    :param n_phrases: at most so many phrases of each slot
    """
    common = []
    for name, phrases in _SLOTS.items():
        if name == "rare":
            continue
        n = min(len(phrases), n_phrases)
        step = next(s for s in _SCRAMBLE if n % s)
        weakness = _WEAKEST * (np.arange(n) * step % n) / (n - 1)
        weight = _TENSION_SCALE * (weakness - weakness.mean()) if level == "tension" else weakness
        common.append(Slot(phrases[:n], weight))
    return common, Slot(_SLOTS["rare"], np.array(_RARE[strength if level == "tension" else level]))


def password_words(n_words: int) -> list[str]:
    return [f"p{i:02d}" for i in range(n_words)]


def key_words(n_words: int) -> list[str]:
    """Keys; where the prompt does not state the valid one, the first half is valid."""
    return [f"k{i:02d}" for i in range(n_words)]


def vocabulary(n_words: int) -> list[str]:
    """All words of the game, without the tokenizer's own, in a fixed order."""
    phrases = ["password", "key", "my key is", "repeat", "what is the capital of", REFUSAL]
    phrases += [phrase for slot in _SLOTS.values() for phrase in slot]
    words = [SYSTEM, USER, BOT, *password_words(n_words), *key_words(n_words), *NOUNS]
    words += [word for fact in FACTS for word in fact]
    words += [word for phrase in phrases for word in phrase.split()]
    return list(dict.fromkeys(words))
