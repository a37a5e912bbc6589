"""The game's tokenizer and a tiny Llama-style model for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.password_game.grammar import vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

_PAD, _EOS, _UNKNOWN = "<pad>", "<eos>", "<unk>"


def make_tokenizer(n_words: int = 32) -> PreTrainedTokenizerFast:
    """Tokenizer of a game: one token a word, split at white space; no token is added to a prompt.

    ``<pad>`` pads on the right, ``<eos>`` ends an answer, and a word the game does not know becomes ``<unk>``.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = [_PAD, _EOS, _UNKNOWN, *vocabulary(n_words)]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_EOS,
        unk_token=_UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, hidden_size: int = 64, n_layers: int = 2, n_heads: int = 4
) -> LlamaForCausalLM:
    """A model with random weights; torch's global generator is left as it was.

    Rotary positions and tied embeddings: with both, copying is learnt far earlier than with learnt positions.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.05,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
