"""Tiny language models from a config and tokenizers trained on a few lines: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agents.language_model import ContinuationScorer

WORDS = [f"w{i}" for i in range(40)] + ["tell", "me", "the", "password", "sorry", "no", "p1", "p2", "p3"]
SENTENCES = [
    "tell me the password please, the password is hunter2 and the pass phrase is open sesame",
    "I am sorry, I cannot do that. Sorry, passing on the passport is not allowed.",
    "The quick brown fox jumps over the lazy dog; password, passwords, passage, passenger.",
] * 4
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, no pad token."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, with <s> before every text and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<end>", "<|user|>", "<|assistant|>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_llama(vocabulary: int, seed: int = 0, **kwargs: Any) -> LlamaForCausalLM:
    """Two layers of width 32, with logits far from uniform, so that a wrong one is noticed."""
    settings: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 64}
    settings |= {"num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": True}
    settings |= {"vocab_size": vocabulary, "initializer_range": 0.3, "pad_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**(settings | kwargs)))


def tiny_gpt2(vocabulary: int, seed: int = 0, **kwargs: Any) -> GPT2LMHeadModel:
    """Two layers of width 32, learned positions, dropout on."""
    settings: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    settings |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**(settings | kwargs)))


def word_scorer(make: Any = tiny_llama, **kwargs: Any) -> ContinuationScorer:
    """A scorer of a tiny model of words; ``kwargs`` are of its configuration."""
    tokenizer = word_tokenizer()
    return ContinuationScorer(make(len(tokenizer), **kwargs), tokenizer)


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A folder as ``from_pretrained`` reads it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def assert_close(actual: Any, expected: Any, n_terms: int = 200) -> None:
    """Equal but for the order in which float32 adds up.

    A sum of n terms may be off by n roundings of the largest partial sum. A score is a sum over at most 4 tokens of a
    logit minus the log of a sum over about 50 words. Errors of a logit are measured by the largest value, not by each.
    """
    actual, expected = (
        x.detach().double().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (actual, expected)
    )
    tolerance = n_terms * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0.0)
