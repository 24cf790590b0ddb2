"""A tiny subject with a tokenizer of whole words and a tiny task: whole runs in milliseconds."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import torch
from crosslens import Subject
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .families import VOCAB, build

WORDS = [f"w{i}" for i in range(VOCAB - 4)]


def tokenizer(bos: bool = True) -> Any:
    """Words w0 … and four special tokens, split at spaces; with a BOS, the tokenizer puts it first by itself."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, bos_token="<s>", add_bos_token=True)


def subject(family: str = "llama", seed: int = 0) -> Subject:
    """A random tiny model with the word tokenizer."""
    return Subject(build(family, seed), tokenizer(), name=f"tiny-{family}")


def bridge(model: Any) -> Any:
    """TransformerLens on a copy of the model, in float32: booting rewires a model in place."""
    from transformer_lens.model_bridge import TransformerBridge

    model = copy.deepcopy(model)
    model.config.architectures = [type(model).__name__]
    booted = TransformerBridge.boot_transformers(
        "tiny", hf_model=model, tokenizer=tokenizer(bos=False), device="cpu", dtype=torch.float32
    )
    booted.eval()
    return booted


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, size: int = 12) -> list[Example]:
    """Random words with a random answer; lengths differ, two examples a group."""
    rng = random.Random(seed)
    made = []
    for i in range(n or 10):
        words = rng.sample(WORDS, rng.randint(size - 8, size))
        text = " ".join(words)
        subject_end = len(words[0])
        segments = (Segment("text", text, {"subject": [(0, subject_end)]}),)
        kind = {"relation": "even" if i % 2 else "odd"}
        made.append(Example(f"t{seed}-{i:02d}", f"g{i // 2}", segments, " " + words[-1], (" " + words[0],), meta=kind))
    return made


def task(**options: Any) -> Task:
    """The tiny task, as `open_task` would give it."""
    module: Any = SimpleNamespace(
        __doc__="Random words", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=examples
    )
    return Task("words", module, options)
