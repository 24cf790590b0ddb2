"""A three-layer attention-only GPT-2 with the circuit of indirect objects set by hand; everything else is 0.

Prompts: fillers, a name S twice, a name IO once, and the last token; the answer is IO. As in arXiv 2211.00593, smaller:

- head 0.0, duplicate token: at the second S it finds the first and writes the name into DOUBLE; a token that stands
  once finds the first place, which holds a filler;
- head 1.0, S-inhibition: at the last token it finds where DOUBLE is a name and writes that name into BARRED;
- head 2.0, name mover: at the last token it looks at names, not at the one in BARRED, and writes the name into OUT.

Heads 0.1, 1.1 and 2.1 attend to all places alike and write a little of what they read into OUT.
"""

from __future__ import annotations

import torch
from crosslens import Subject

from .planted import read_from, silent_model, write_to

NAMES, FILLERS, PLACES = 10, 9, 10  # the last filler is the last token of every prompt
WORDS = NAMES + FILLERS
TOKEN, PLACE = 0, WORDS  # where each part of the residual begins; names are the first tokens
DOUBLE, BARRED, OUT = WORDS + PLACES, WORDS + PLACES + NAMES, WORDS + PLACES + 2 * NAMES
WIDTH = OUT + NAMES + 1  # an even number, for two heads
LENGTH = 9
SHARP, LITTLE = 0.5, 0.01
# Edges along which base and donor differ: reader, writer. The queries of 1.0 and 2.0 also read the embedding, to know
# that they stand at any place; that is the same in both runs, so no method can see it and it is not listed.
BUILT = (
    (("q", 0, 0), ("embed", -1, -1)),
    (("k", 0, 0), ("embed", -1, -1)),
    (("v", 0, 0), ("embed", -1, -1)),
    (("k", 1, 0), ("head", 0, 0)),
    (("v", 1, 0), ("head", 0, 0)),
    (("q", 2, 0), ("head", 1, 0)),
    (("k", 2, 0), ("embed", -1, -1)),
    (("v", 2, 0), ("embed", -1, -1)),
    (("final", 3, -1), ("head", 2, 0)),
)


def ioi_model(*, planted: bool = True, sharp: float = SHARP) -> Subject:
    """Without `planted` the S-inhibition head finds nothing: the name mover cannot tell S from IO. sharp: how saturated
    attention is; at 1 no gradient at the base passes through a softmax.
    """
    model = silent_model(WORDS, PLACES, WIDTH, layers=3)
    with torch.no_grad():
        model.lm_head.weight[:NAMES, OUT : OUT + NAMES] = torch.eye(NAMES)
        first, second, third = (block.attn for block in model.transformer.h)
        _duplicate_token(first, sharp)
        if planted:
            _inhibition(second, sharp)
        _name_mover(third, sharp)
        for attention in (first, second, third):
            read_from(attention, 1, "v", TOKEN, NAMES, scale=LITTLE)
            write_to(attention, 1, OUT, NAMES)
    return Subject(model, name="planted indirect objects")


def _duplicate_token(attention, sharp):
    """The same token at another place; else the first place."""
    read_from(attention, 0, "q", TOKEN, WORDS, scale=2 * sharp)
    read_from(attention, 0, "k", TOKEN, WORDS)
    read_from(attention, 0, "q", PLACE, PLACES, to=WORDS, scale=-2 * sharp)  # not itself
    read_from(attention, 0, "k", PLACE, PLACES, to=WORDS)
    _anywhere(attention, PLACE, 1, sharp)
    read_from(attention, 0, "v", TOKEN, NAMES, scale=0.2)  # norms make it about 1 again
    write_to(attention, 0, DOUBLE, NAMES)


def _inhibition(attention, sharp):
    _anywhere(attention, DOUBLE, NAMES, 2 * sharp)
    read_from(attention, 0, "v", DOUBLE, NAMES, scale=0.2)
    write_to(attention, 0, BARRED, NAMES)


def _name_mover(attention, sharp):
    _anywhere(attention, TOKEN, NAMES, 4 * sharp)
    read_from(attention, 0, "q", BARRED, NAMES, scale=-4 * sharp)
    read_from(attention, 0, "k", TOKEN, NAMES)
    read_from(attention, 0, "v", TOKEN, NAMES)
    write_to(attention, 0, OUT, NAMES)


def _anywhere(attention, start, size, scale):
    """From every place the head looks for what any of these coordinates holds; by the last coordinate of its own."""
    width, last = attention.embed_dim, attention.head_dim - 1
    attention.c_attn.weight[PLACE : PLACE + PLACES, last] = scale  # a place is a place: always 1
    attention.c_attn.weight[start : start + size, width + last] = 1.0


def prompts(n: int = 6, seed: int = 0):
    """Token ids (base, donor) [n, LENGTH], the answers IO, and S. The donor has other names at other places."""
    generator = torch.Generator().manual_seed(seed)
    base, donor, answers, others = [], [], [], []
    for _ in range(n):
        names = torch.randperm(NAMES, generator=generator).tolist()
        for ids, (subject, indirect) in ((base, names[:2]), (donor, names[2:4])):
            fillers = (NAMES + torch.randperm(FILLERS - 1, generator=generator)[: LENGTH - 1]).tolist()
            places = 1 + torch.randperm(LENGTH - 2, generator=generator)[:3]
            for place, name in zip(places.tolist(), (subject, subject, indirect), strict=True):
                fillers[place] = name
            ids.append([*fillers, WORDS - 1])
        answers.append(names[1])
        others.append(names[0])
    whole = torch.ones(n, LENGTH, dtype=torch.long)
    ids = [{"input_ids": torch.tensor(x), "attention_mask": whole} for x in (base, donor)]
    return *ids, torch.tensor(answers), torch.tensor(others)
