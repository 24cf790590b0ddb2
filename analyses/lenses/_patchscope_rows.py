"""States of a prompt put into the last position of another one, in the same layer; what the model then says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.interventions import Patch
from ...probes.intervene.recording import record
from ...probes.intervene.sweep import variant_sweep
from ...probes.observe.capture import capture
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import example_keys, one_of_each, random_directions
from ._patchscope_tables import KINDS, LOGIT, OTHER, PATCHED, RANDOM

SITE = "resid_pre"
TEXT = {"input_ids", "attention_mask"}


class _Said:
    """A measure: whether a token of each example is the likeliest, and its rank (0 = top), [n, 2]."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        ids = self.ids.to(logits.device)[rows.to(logits.device)]
        rank = metrics.answer_rank(logits, ids).float()
        return torch.stack([(logits.argmax(-1) == ids).float(), rank], -1)


def patched(
    subject: Any, target: str, states: Float[Tensor, "kind b layer d"], measure: Any
) -> Float[Tensor, "kind b layer m"]:
    """What `measure` reads at the end of `target` with each state in its last token's place, in the state's layer."""
    batch = subject.batch([target] * states.shape[1])
    base = record(subject, batch, (SITE,))
    last = base.final
    plan = [{layer: (Patch(SITE, last, kind[:, layer, None]),)} for kind in states for layer in range(states.shape[2])]
    values = variant_sweep(base, plan, last, measure=measure).values
    return values.unflatten(0, (states.shape[0], states.shape[2])).transpose(1, 2)


def prompts_of(batches: Sequence[Batch], count: int) -> list[list[int]]:
    """The token ids of some held-out prompts. UserError: prompts with images."""
    found = []
    for batch in batches:
        require_text(batch)
        found += [row[mask].tolist() for row, mask in zip(batch.inputs["input_ids"], batch.mask, strict=True)]
    return found[:count]


def require_text(batch: Batch) -> None:
    if strange := sorted(set(batch.inputs) - TEXT):
        raise UserError(f"patchscope reads text alone, and these prompts have {', '.join(strange)}: name a text task")


def last_states(subject: Any, ids: Sequence[int]) -> Float[Tensor, "layer d"]:
    """What enters each layer at the end of a prompt."""
    row = torch.tensor([list(ids)])
    kept = capture(subject, {"input_ids": row, "attention_mask": torch.ones_like(row)}, [SITE])
    return torch.stack([tensor[0, -1] for tensor in kept.values()])


@torch.no_grad()
def read_patched(subject: Any, batch: Batch, states: Float[Tensor, "b layer d"], last: Tensor, how: Any) -> dict:
    """ "<way>|named" and "<way>|rank" [b, layer] of the token that the model itself says next, for each of `KINDS`."""
    states = states.to(subject.device)
    own = subject.unembed(subject.norm(last.to(subject.device))).argmax(-1)
    names = batch.example_ids
    chosen = one_of_each(how.learned.others, example_keys(names, 0))
    known = {tuple(ids): last_states(subject, ids) for ids in {tuple(ids) for ids in chosen}}
    other = torch.stack([known[tuple(ids)] for ids in chosen]).to(states)
    drawn = [random_directions(x, [f"{key} layer {i}" for key in names]) for i, x in enumerate(states.unbind(1))]
    kinds = torch.stack([states, other, torch.stack(drawn, 1)])
    measure = _Said(own)
    found: dict[str, Tensor] = dict(
        zip((PATCHED, OTHER, RANDOM), patched(subject, how.options.target, kinds, measure), strict=True)
    )
    lens = [measure(subject.unembed(subject.norm(x)).float(), torch.arange(len(x))) for x in states.unbind(1)]
    found[LOGIT] = torch.stack(lens, 1)
    return {f"{way}|{name}": found[way][..., i] for way in KINDS for i, name in enumerate(("named", "rank"))}
