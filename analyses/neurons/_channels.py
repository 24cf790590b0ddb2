"""Channels of queries and keys: what a head's attention changes by when one of them is zero."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.model.attention import AttentionCall

QUERIES = 16  # query rows of each example, evenly spaced over its counted tokens


def channels(call: AttentionCall, kept: Bool[Tensor, "b p"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b m"]]:
    """Of every channel of the queries (head by head) and of the keys (KV head by KV head) `channel_changes`: without a
    channel of the keys all heads that read it change.
    """
    changes = channel_changes(call, *query_rows(kept, QUERIES))
    shared = changes.unflatten(1, (call.key.shape[1], -1)).sum(2)  # channel (head, c) reads (head // n_rep, c)
    return changes.flatten(1), shared.flatten(1)


def query_rows(kept: Bool[Tensor, "b p"], most: int) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """At most so many of each example's kept positions, evenly spaced, and which of them are real."""
    chosen = []
    for row in kept.cpu():
        places = row.nonzero()[:, 0]
        chosen.append(places[torch.linspace(0, len(places) - 1, min(most, len(places))).round().long()])
    rows = torch.nn.utils.rnn.pad_sequence([*chosen, torch.zeros(1).long()], batch_first=True, padding_value=-1)[:-1]
    return rows.clamp_min(0), rows >= 0


def channel_changes(
    call: AttentionCall, rows: Int[Tensor, "b n"], real: Bool[Tensor, "b n"]
) -> Float[Tensor, "b h d_head"]:
    """Σ over rows of (pattern without the channel − pattern)², as the model computes it: scaled, masked, rotated. The
    square of `metrics.channel_removal`; one channel of all heads after the other.
    """
    rows, real = rows.to(call.query.device), real.to(call.query.device)
    pattern, changes = call.pattern(rows), []
    for channel in range(call.query.shape[-1]):
        without = call.query.clone()
        without[..., channel] = 0.0
        moved = (call.edited(query=without).pattern(rows) - pattern).square().sum(-1)
        changes.append((moved * real[:, None]).sum(-1))
    return torch.stack(changes, -1)
