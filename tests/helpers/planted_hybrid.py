"""A hybrid with a known route, set by hand: a convolution, then two layers of attention; all else is all but mute.

The task is A B … A, answer B. The convolution (layer 0) carries each token to the next position; head 1.0 finds where
its own token stands BEFORE and writes what stands there into OUT; layer 2 has nothing to do with it. No hybrid with
real weights is at hand: this one's answers are known because they were planted, not because they were found elsewhere.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch
from crosslens import Subject
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from transformers import Lfm2Config, Lfm2ForCausalLM

from . import tiny
from .families import VOCAB

TOKEN, BEFORE, OUT, ONE = 0, VOCAB, 2 * VOCAB, 3 * VOCAB  # where each part of the residual begins
D_HEAD, HEADS = 2 * (VOCAB + 1), 2
WIDTH = D_HEAD * HEADS
SHARP, NOISE = 5.0, 0.01


def subject(*, planted: bool = True) -> Subject:
    """With the route, or cut in the convolution: then no token is carried, and head 1.0 finds nothing."""
    config = Lfm2Config(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=8,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        layer_types=["conv", "full_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e38},  # features beside the first do not turn
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Lfm2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
            if "feed_forward" in name:  # MLPs say a little too, so that there is something to patch
                parameter.normal_(0, 0.01)
        model.model.embed_tokens.weight[:, TOKEN : TOKEN + VOCAB] = torch.eye(VOCAB)
        model.model.embed_tokens.weight[:, ONE] = 1.0
        model.lm_head.weight[:, OUT : OUT + VOCAB] = torch.eye(VOCAB)
        _carry(model.model.layers[0].conv, carries=planted)
        first, second = (layer.self_attn for layer in model.model.layers[1:])
        first.q_layernorm.weight.fill_(SHARP)
        _read(first.q_proj, 0, TOKEN)
        _read(first.k_proj, 0, BEFORE)
        _speak(first, 0, 0.3)
        second.q_layernorm.weight.fill_(0.1)
        for attention, head in ((first, 1), (second, 0), (second, 1)):  # these attend almost evenly and say a little
            _read(attention.q_proj, head, OUT)
            _read(attention.k_proj, head, TOKEN)
            _speak(attention, head, NOISE)
    return Subject(model, tiny.tokenizer(bos=False), name="planted hybrid")


def _carry(mixer: Any, *, carries: bool) -> None:
    """The token before comes into BEFORE; both gates are the constant ONE."""
    mixer.in_proj.weight[: 2 * WIDTH, ONE] = 1.0
    for i in range(VOCAB):
        mixer.in_proj.weight[2 * WIDTH + BEFORE + i, TOKEN + i] = 1.0
        mixer.out_proj.weight[BEFORE + i, BEFORE + i] = 1e-3  # three factors of about 11, behind the norm
    mixer.conv.weight[:, 0, -2 if carries else -1] = 1.0 if carries else 0.0


def _read(projection: Any, head: int, start: int) -> None:
    """A head reads a stretch of the residual, beside the features that turn with the position."""
    for i in range(VOCAB):
        projection.weight[head * D_HEAD + 1 + i, start + i] = 1.0


def _speak(attention: Any, head: int, size: float) -> None:
    """A head writes the tokens that it attends to into OUT."""
    _read(attention.v_proj, head, TOKEN)
    for i in range(VOCAB):
        attention.out_proj.weight[OUT + i, head * D_HEAD + 1 + i] = size


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any = None) -> list[Example]:
    """Words of which the last stood before the answer; in the twin it stood before another word."""
    rng, made = random.Random(seed), []
    for i in range(n or 12):
        words = rng.sample(tiny.WORDS, 10)
        asked, place = words.pop(), rng.randint(1, 4)
        length = 9 - i % 3
        prompts = [_inserted(words[:length], asked, at) for at in (place, place + 2)]
        answers = [" " + words[at] for at in (place, place + 2)]
        twin = Example(f"h{seed}-{i:02d}-corrupt", f"g{seed}-{i}", prompts[1], answers[1], (answers[0],))
        made.append(Example(f"h{seed}-{i:02d}", f"g{seed}-{i}", prompts[0], answers[0], (answers[1],), twin))
    return made


def _inserted(words: list[str], asked: str, place: int) -> tuple[Segment]:
    """The words with `asked` before the one at `place`, and at the end; that one is marked."""
    before = " ".join([*words[:place], asked]) + " "
    text = before + " ".join([*words[place:], asked])
    return (Segment("text", text, {"answer": [(len(before), len(before) + len(words[place]))]}),)


def task() -> Task:
    """The task, as `open_task` would give it."""
    module: Any = SimpleNamespace(
        __doc__="What came next", VERSION=1, TEMPLATE="raw", BOS=False, SOURCE="tests", examples=examples
    )
    return Task("next", module, {})
