"""Attention Buckets: the next token from one forward per rotary base, mixed by how sure each one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...data.errors import UserError
from ...probes.intervene.rope import other_base
from ...probes.model.subject import last_positions
from .. import metrics
from ..common.key_weights import Inputs

BASES = (10000.0, 17500.0, 18000.0, 19000.0, 20000.0, 25000.0)


@torch.no_grad()
def buckets(subject: Any, inputs: Inputs, bases: Sequence[float] = BASES) -> metrics.MixedBases:
    """Logits [b, vocab] at the last real position, mixed over rotary bases; the bases' weights [b, base].

    bases: the paper's, for a model trained with 10000. Each forward has its own keys: no cache is shared. The mean is
    of logits. Source: arXiv 2312.04455, code. UserError: no base, and as `rope.turned_by`.
    """
    if not bases:
        raise UserError("buckets: at least one rotary base is needed")
    read = subject.prepare(inputs)
    last = last_positions(read["input_ids"], read.get("attention_mask"))
    rows, logits = torch.arange(len(last), device=last.device), []
    for base in bases:
        with other_base(subject, base, inputs):
            logits.append(subject.model(**read).logits[rows, last].float())
    return metrics.mix_bases(torch.stack(logits, 1))
