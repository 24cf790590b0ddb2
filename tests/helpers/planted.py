"""A two-layer attention-only GPT-2 with an induction circuit set by hand; everything else is 0."""

from __future__ import annotations

import torch
from crosslens import Subject
from transformers import GPT2Config, GPT2LMHeadModel

WORDS, PLACES = 16, 12
TOKEN, PLACE, BEFORE, OUT = 0, WORDS, WORDS + PLACES, 2 * WORDS + PLACES  # where each part of the residual begins
WIDTH = 3 * WORDS + PLACES
SHARP = 30.0


def induction_model(*, planted: bool = True) -> Subject:
    """Head 0.0 copies the token before into BEFORE; head 1.0 finds where its own token is BEFORE and writes what stands
    there into OUT. Without `planted` head 1.0 finds nothing. Heads 0.1 and 1.1 attend evenly and write a little.
    """
    config = GPT2Config(
        vocab_size=WORDS, n_positions=PLACES, n_embd=WIDTH, n_layer=2, n_head=2, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[:, TOKEN : TOKEN + WORDS] = torch.eye(WORDS)
        model.transformer.wpe.weight[:, PLACE : PLACE + PLACES] = torch.eye(PLACES)
        model.lm_head.weight[:, OUT : OUT + WORDS] = torch.eye(WORDS)
        first, second = (block.attn for block in model.transformer.h)
        _read(first, 0, "q", PLACE, PLACES)
        _read(first, 0, "k", PLACE, PLACES, shift=1)
        _read(first, 0, "v", TOKEN, WORDS)
        _write(first, 0, BEFORE, WORDS)
        if planted:
            _read(second, 0, "q", TOKEN, WORDS)
            _read(second, 0, "k", BEFORE, WORDS)
        _read(second, 0, "v", TOKEN, WORDS)
        _write(second, 0, OUT, WORDS if planted else 0)
    return Subject(model, name="planted induction")


def copying_model(*, planted: bool = True) -> Subject:
    """Heads attend to all tokens alike, write what they read where nobody looks; with `planted` head 1.0 into OUT."""
    subject = induction_model(planted=False)
    attention = [block.attn for block in subject.model.transformer.h]
    with torch.no_grad():
        for layer, one in enumerate(attention):
            one.c_attn.weight.zero_()
            one.c_proj.weight.zero_()
            for head in range(2):
                _read(one, head, "v", TOKEN, WORDS)
                _write(one, head, OUT if planted and (layer, head) == (1, 0) else BEFORE, WORDS)
    return Subject(subject.model, name="planted copying")


def _read(attention, head, part, start, size, shift=0):
    """A head's query, key or value is a stretch of the residual; the key of place p is place p + shift."""
    width, d_head = WIDTH, WIDTH // 2
    at = "qkv".index(part) * width + head * d_head
    scale = SHARP if part == "q" else 1.0
    for i in range(size - shift):
        attention.c_attn.weight[start + i, at + i + shift] = scale


def _write(attention, head, start, size):
    d_head = WIDTH // 2
    for i in range(size):
        attention.c_proj.weight[head * d_head + i, start + i] = 1.0


def prompts(n: int = 6, seed: int = 0):
    """Token ids (base, donor) [n, 9], answers and others: A B … A, the answer is B; in the donor all tokens but the
    last differ, and its own answer is another one."""
    generator = torch.Generator().manual_seed(seed)
    base, donor, answers, others = [], [], [], []
    for _ in range(n):
        order = torch.randperm(WORDS, generator=generator).tolist()
        current, shown, hidden = order[0], order[1:8], order[8:15]
        place = int(torch.randint(1, 5, (1,), generator=generator))  # the first token has none before it
        elsewhere = place % 5 + 1
        one, two = shown.copy(), hidden.copy()
        one[place], two[elsewhere] = current, current
        base.append([*one, order[15], current])
        donor.append([*two, order[15], current])
        answers.append(one[place + 1])
        others.append(two[elsewhere + 1])
    ids = [{"input_ids": torch.tensor(x), "attention_mask": torch.ones(n, 9, dtype=torch.long)} for x in (base, donor)]
    return *ids, torch.tensor(answers), torch.tensor(others)
