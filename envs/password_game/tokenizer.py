"""The game's tokenizer: one token a word.

A word-level tokenizer from Hugging Face ``tokenizers``, wrapped as any fast tokenizer of ``transformers``: words are
split at white space, ``<pad>`` pads on the right, ``<eos>`` ends an answer, and a word the game does not know becomes
``<unk>``. No token is added to a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.password_game.grammar import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["make_tokenizer"]

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def make_tokenizer(n_words: int = 32) -> PreTrainedTokenizerFast:
    """Tokenizer of a game.

    :param n_words: number of password words, as of the game
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = [PAD, EOS, UNKNOWN, *vocabulary(n_words)]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
