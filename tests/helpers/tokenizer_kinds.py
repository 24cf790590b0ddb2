"""Tokenizers of the two common kinds, trained in memory, and a tiny Llama that fits one."""

from __future__ import annotations

import json
from typing import Any

import torch
from crosslens import Subject
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>"]
TEXT = ["When Mary and John went to the store, John gave a drink to Mary. A I assistant: I think. user system"] * 9


def byte_level(**named: Any) -> Any:
    """As GPT-2's: bytes spelled as letters, a word carries its leading space."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    inner.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    inner.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **{"bos_token": "<s>", "eos_token": "</s>"} | named)


def sentencepiece(**named: Any) -> Any:
    """As Llama 2's: a space is put before whatever comes first, unknown characters are bytes."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = spaces  # pyright: ignore
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # pyright: ignore
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=200))
    learned = json.loads(trained.to_str())["model"]
    words = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    merges = [tuple(pair) for pair in learned["merges"]]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = spaces  # pyright: ignore
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)  # pyright: ignore
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names | named)


def llama(tokenizer: Any, **changes: Any) -> Subject:
    """A tiny random Llama with this tokenizer."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape | changes)
    return Subject(LlamaForCausalLM(config), tokenizer, name="tiny-llama")
