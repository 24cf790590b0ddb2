"""Masking influence: what the answer would lose if a head did not read a key, by distance, by role, by head.

To first order of the loss, exactly in z (`metrics.masking_influence`); some entries are masked for real beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...data.example import ROLES
from ...probes.intervene.attention_slopes import AttentionSlopes, attention_slopes
from ...probes.intervene.interventions import Add
from ...probes.intervene.measures import Measure
from ...probes.intervene.recording import record
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch, one_by_one
from .. import metrics

BINS = 13  # of distance: 0, 1, 2–3, 4–7, …, 2,048 and more; a bin of its own behind them for the first token
ENTRIES = ("random", "largest")  # of each layer: one of those in view, and that of largest influence


class Entry(NamedTuple):
    """One key that one head reads at one position: of which of ENTRIES, what masking it changes to first order, and
    the change of the head's z.
    """

    kind: str
    layer: int
    head: int
    query: int
    attention: float
    estimate: float
    change: Float[Tensor, "d"]


def influence_rows(subject: Any, batch: Batch, measure: Measure, *, calibrated: int) -> dict[str, Tensor]:
    """Rows of each example; layers without heads are NaN.

    "influence|distance" [b, layer, h, BINS + 1]: Σ |E| over the entries at these distances, and at the first token
    whatever its distance; "influence|entries" [b, BINS + 1]: how many a head has; "influence|pairs" [b, layer, ROLES,
    ROLES]: Σ |E| over heads, of queries of a role at keys of another; "influence|at <mark>" [b, layer]: at keys of that
    name; "…|shuffled": the same, heads summed, with g at other positions of the prompt, as its control.
    "calibration|<estimate, exact, attention>" [b, layer, ENTRIES] where some entries are masked for real: in so many
    layers of each example.
    """
    layers = attention_slopes(subject, batch, measure)
    of_layers = [_of_layer(one, batch) for one in layers]
    rows = _whole([one.index for one in layers], [rows for rows, _ in of_layers], subject.n_layers)
    rows["influence|entries"] = _entries(batch)
    if calibrated:
        drawn = [_drawn(name, len(layers), calibrated) for name in batch.example_ids]
        entries = [[of_layers[i][1][row] for i in some] for row, some in enumerate(drawn)]
        rows |= _calibrated(subject, batch, measure, entries)
    return rows


def _drawn(example: str, layers: int, count: int) -> list[int]:
    """Which of the layers with heads are looked into, drawn by example."""
    rng = np.random.default_rng(crc32(f"{example} layers".encode()))
    return sorted(rng.permutation(layers)[:count].tolist())


def _of_layer(one: AttentionSlopes, batch: Batch) -> tuple[dict[str, Tensor], list[list[Entry]]]:
    rows: list[dict[str, Tensor]] = []
    entries: list[list[Entry]] = []
    for number, pattern, v, g in _examples(one):
        influence = metrics.masking_influence(pattern, v, g)
        mixed = g[:, _order(batch, number)]
        rows.append(_sums(influence, batch, number, "") | _sums_of_heads(pattern, v, mixed, batch, number))
        z = one.z[number].transpose(0, 1)
        asked = (pattern > 0) & batch.mask[number].to(pattern.device)[:, None]
        asked[:, int(batch.start[number])] = False  # one key alone: nothing is left without it
        key = f"{batch.example_ids[number]} {one.index}"
        chosen = zip(ENTRIES, _chosen(influence, asked, key), strict=False)
        entries.append([_entry(kind, one.index, at, influence, pattern, v, z) for kind, at in chosen])
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, entries


def _examples(one: AttentionSlopes) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(number, pattern [h, q, k], v [h, k, d], g [h, q, d]) of each example, a few maps alive at a time."""
    heads = one.call.query.shape[1]
    for part, patterns in one.call.patterns():
        for number, pattern in zip(range(*part.indices(len(one.g))), patterns, strict=True):
            value = one.call.value[number].float()
            yield number, pattern, value.repeat_interleave(heads // len(value), 0), one.g[number].transpose(0, 1)


def _sums(influence: Float[Tensor, "h q k"], batch: Batch, number: int, control: str) -> dict[str, Tensor]:
    size = influence.abs()
    places = torch.arange(size.shape[-1])
    bins = _bin(places[:, None] - places)
    bins[:, int(batch.start[number])] = BINS
    at = torch.nn.functional.one_hot(bins, BINS + 1).float().to(size.device)
    roles = torch.nn.functional.one_hot(batch.roles[number], len(ROLES)).float().to(size.device)
    of_keys = size.sum((0, 1)).cpu()
    named = {f"influence|at {name}{control}": of_keys[mark[number]].sum() for name, mark in batch.marks.items()}
    return named | {
        f"influence|distance{control}": torch.einsum("hqk,qkn->hn", size, at).cpu(),
        f"influence|pairs{control}": (roles.T @ size.sum(0) @ roles).cpu(),
    }


def _sums_of_heads(pattern: Tensor, v: Tensor, mixed: Tensor, batch: Batch, number: int) -> dict[str, Tensor]:
    found = _sums(metrics.masking_influence(pattern, v, mixed), batch, number, "|shuffled")
    return found | {"influence|distance|shuffled": found["influence|distance|shuffled"].sum(0)}


def _bin(distance: Tensor) -> Tensor:
    return (distance.clamp_min(0).float().log2().floor().nan_to_num(neginf=-1.0).long() + 1).clamp_max(BINS - 1)


def _order(batch: Batch, number: int) -> Tensor:
    """The prompt's real positions in another order, the same whatever its padding; padding stays."""
    order, real = torch.arange(batch.mask.shape[1]), batch.mask[number].nonzero()[:, 0]
    drawn = np.random.default_rng(crc32(f"{batch.example_ids[number]} slopes".encode())).permutation(len(real))
    order[real] = real[torch.from_numpy(drawn)]
    return order


def _entries(batch: Batch) -> Tensor:
    """How many pairs of real positions there are at these distances, and with the first, [b, BINS + 1]."""
    counts = torch.zeros(len(batch.examples), BINS + 1)
    for row, length in zip(counts, batch.mask.sum(1).tolist(), strict=True):
        distance = torch.arange(length)
        row.scatter_add_(0, _bin(distance), (length - 1 - distance).float())
        row[BINS] = length
    return counts


def _chosen(influence: Tensor, asked: Tensor, key: str) -> list[list[int]]:
    """(head, query, key) of one entry of each kind of ENTRIES; none where nothing is asked about."""
    places = asked.nonzero()
    if not len(places):
        return []
    drawn = places[int(np.random.default_rng(crc32(key.encode())).integers(len(places)))]
    largest = np.unravel_index(int((influence.abs() * asked).argmax()), influence.shape)
    return [drawn.tolist(), [int(i) for i in largest]]


def _entry(kind: str, layer: int, at: list[int], influence: Tensor, pattern: Tensor, v: Tensor, z: Tensor) -> Entry:
    head, query, column = at
    attention = float(pattern[head, query, column])
    change = attention / max(1 - attention, 1e-6) * (z[head, query] - v[head, column])
    return Entry(kind, layer, head, query, attention, float(influence[head, query, column]), change)


def _calibrated(
    subject: Any, batch: Batch, measure: Measure, entries: Sequence[Sequence[Sequence[Entry]]]
) -> dict[str, Tensor]:
    """The chosen entries masked one by one, by what that makes of their head's z."""
    names = ("estimate", "exact", "attention")
    whole = torch.full((len(names), len(batch.examples), subject.n_layers, len(ENTRIES)), torch.nan)
    for number, (single, of_layers) in enumerate(zip(one_by_one(subject, batch), entries, strict=True)):
        shift = int(batch.start[number]) - int(single.start[0])
        # The sweep proves its first edit: one that moves much.
        some = sorted((one for found in of_layers for one in found), key=lambda one: -float(one.change.norm()))
        rows = torch.zeros(len(some), single.mask.shape[1], dtype=torch.bool)
        rows[torch.arange(len(some)), torch.tensor([one.query - shift for one in some])] = True
        variants = [
            {one.layer: (Add("attn_z", row[None], one.change, (one.head,)),)}
            for one, row in zip(some, rows, strict=True)
        ]
        own = lambda logits, _, number=number: measure(logits, torch.full((len(logits),), number))  # noqa: E731
        sweep = variant_sweep(record(subject, single), variants, rows.any(0, keepdim=True), measure=own)
        exact = (sweep.values - sweep.clean)[:, 0]
        for i, one in enumerate(some):
            told = torch.tensor([one.estimate, float(exact[i]), one.attention])
            whole[:, number, one.layer, ENTRIES.index(one.kind)] = told
    return {f"calibration|{name}": values for name, values in zip(names, whole, strict=True)}


def _whole(indices: Sequence[int], found: Sequence[dict[str, Tensor]], n_layers: int) -> dict[str, Tensor]:
    """[b, layer, …], NaN where a layer has no heads."""
    rows = {}
    for name, first in found[0].items():
        rows[name] = first.new_full((len(first), n_layers, *first.shape[1:]), torch.nan)
        rows[name][:, list(indices)] = torch.stack([one[name] for one in found], 1)
    return rows
