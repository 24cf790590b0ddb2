"""A two-layer attention-only GPT-2 with an induction circuit set by hand; everything else is 0."""

from __future__ import annotations

import torch
from crosslens import Subject
from transformers import GPT2Config, GPT2LMHeadModel

WORDS, PLACES = 16, 12
TOKEN, PLACE, BEFORE, OUT = 0, WORDS, WORDS + PLACES, 2 * WORDS + PLACES  # where each part of the residual begins
WIDTH = 3 * WORDS + PLACES
SHARP = 30.0
BUILT = (  # the edges of the induction circuit: reader, writer
    (("q", 0, 0), ("embed", -1, -1)),
    (("k", 0, 0), ("embed", -1, -1)),
    (("v", 0, 0), ("embed", -1, -1)),
    (("q", 1, 0), ("embed", -1, -1)),
    (("k", 1, 0), ("head", 0, 0)),
    (("v", 1, 0), ("embed", -1, -1)),
    (("final", 2, -1), ("head", 1, 0)),
)


def silent_model(words: int, places: int, width: int, *, layers: int) -> GPT2LMHeadModel:
    """A GPT-2 of two heads a layer whose weights are 0: the residual begins with the token, then its place, one-hot."""
    config = GPT2Config(
        vocab_size=words, n_positions=places, n_embd=width, n_layer=layers, n_head=2, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[:, :words] = torch.eye(words)
        model.transformer.wpe.weight[:, words : words + places] = torch.eye(places)
    return model


def induction_model(*, planted: bool = True) -> Subject:
    """Head 0.0 copies the token before into BEFORE; head 1.0 finds where its own token is BEFORE and writes what stands
    there into OUT. Without `planted` head 1.0 finds nothing. Heads 0.1 and 1.1 attend evenly and write a little.
    """
    model = silent_model(WORDS, PLACES, WIDTH, layers=2)
    with torch.no_grad():
        model.lm_head.weight[:, OUT : OUT + WORDS] = torch.eye(WORDS)
        first, second = (block.attn for block in model.transformer.h)
        read_from(first, 0, "q", PLACE, PLACES)
        read_from(first, 0, "k", PLACE, PLACES, shift=1)
        read_from(first, 0, "v", TOKEN, WORDS)
        write_to(first, 0, BEFORE, WORDS)
        if planted:
            read_from(second, 0, "q", TOKEN, WORDS)
            read_from(second, 0, "k", BEFORE, WORDS)
        read_from(second, 0, "v", TOKEN, WORDS)
        write_to(second, 0, OUT, WORDS if planted else 0)
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
                read_from(one, head, "v", TOKEN, WORDS)
                write_to(one, head, OUT if planted and (layer, head) == (1, 0) else BEFORE, WORDS)
    return Subject(subject.model, name="planted copying")


def read_from(attention, head, part, start, size, shift=0, to=0, scale=None):
    """A head's query, key or value is a stretch of the residual, from its place `to` on; the key of place p is place
    p + shift. scale: SHARP of queries, 1 of the others.
    """
    width, d_head = attention.embed_dim, attention.head_dim
    at = "qkv".index(part) * width + head * d_head + to
    scale = (SHARP if part == "q" else 1.0) if scale is None else scale
    for i in range(size - shift):
        attention.c_attn.weight[start + i, at + i + shift] = scale


def write_to(attention, head, start, size):
    d_head = attention.head_dim
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


def edges_of(built, graph):
    """Bool[reader, writer]: the edges that were built, in the order of a graph's."""
    truth = torch.zeros_like(graph.possible)
    readers, writers = ([tuple(one) for one in some] for some in (graph.readers, graph.writers))
    for reader, writer in built:
        truth[readers.index(reader), writers.index(writer)] = True
    return truth
