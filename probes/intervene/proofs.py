"""Proofs before a sweep is believed: replaying equals the forward, the edit acts, the identity edit does not.

Of a subject in half precision they are made in float32, where one rounding does not hide what is wrong, with the same
limits; that its own dtype computes each replayed layer as its forward does is judged layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.errors import InterventionError
from ..model import hybrid
from ..model.tolerance import TOLERANCE, block_error, block_limit, through_limit
from .acting import acting_positions
from .float32 import in_float32, is_half, recorded_again, with_wide_layer
from .intervening import full_forward
from .interventions import CALL, EDGES, QKV, Knockout, Patch, Variant
from .positions import Positions, affected_positions
from .recording import Recording
from .replay import first_layer, replay, replay_each_layer, replay_first_layer

# The identity edit moves a layer's rows by less than this share of their length, the real one by this many times more.
IDENTITY, FACTOR = 10 * TOLERANCE, 100
# Equal variants of one stack may still differ by rounding, since they lie at other places of a matrix: in units of eps.
ROUNDING = 4


def obstacle_of(base: Recording) -> str:
    """Why the layers of this subject are not replayed ("" where they are); proved once, with and without images.

    By edits of every row, of the last ones and of one in the middle, in a replay and in a whole forward: what a family
    does between its layers, or between positions outside of its attention, shows only so. Of an edited
    model nothing is proved or kept. UserError: other edits act than when it was recorded.
    """
    base.require_same_edits()
    if base.edits:
        return base.obstacle
    proved: dict[bool, str] = base.subject.__dict__.setdefault("_replay_proofs", {})
    if base.obstacle:
        proved[base.has_image] = base.obstacle
    if base.has_image not in proved:
        proved[base.has_image] = _failed_proof(base)
    return proved[base.has_image]


def _failed_proof(base: Recording) -> str:
    with in_float32(base.subject):
        error = replay_error(recorded_again(base))
    if not error <= through_limit(len(base.layers)):
        return f"a replay differs from the forward by {error:.1g}"
    for layer, error in enumerate(replay_roundings(base) if is_half(base.subject) else []):
        if not error <= block_limit(base.subject.dtype):
            return f"layer {layer} replayed in {base.subject.dtype} differs from the forward's by {error:.1g}"
    return ""


def replay_notes(subject: Any) -> list[str]:
    """What a record must say of the sweeps that this subject ran: what could not be replayed, and why."""
    notes = {note for why in subject.__dict__.get("_replay_proofs", {}).values() for note in cost_notes(subject, why)}
    return sorted(notes)


def cost_notes(subject: Any, obstacle: str) -> tuple[str, ...]:
    """Why a sweep cost more than its rows: whole forwards, or layers that run on all rows."""
    if obstacle:
        return (f"{subject.family}: {obstacle}: whole forwards were run",)
    layers = hybrid.on_all_rows(subject.decoder)
    return (f"{subject.family}: {layers}",) if layers else ()


@torch.no_grad()
def replay_error(base: Recording) -> float:
    """Largest difference of the last state between edited replays and edited forwards, as a share of its length."""
    errors = []
    for seeds, variant in _trials(base):
        where = affected_positions(base, seeds)
        replayed, expected = replay(base, where, [variant])[0], full_forward(base, variant)
        errors.append(moved_by(base.subject.norm(replayed), base.subject.norm(expected)))
    return float(torch.tensor(errors).max())  # NaN where one is


@torch.no_grad()
def replay_roundings(base: Recording) -> list[float]:
    """`block_error` of what each layer's attention writes, replayed in the subject's dtype, against the edited
    forward's own, which enters the layer with the same residual."""
    seeds, variant = list(_trials(base))[-1]
    where, parts, written = affected_positions(base, seeds), [], []

    def keep(layer: Any) -> None:
        parts.append(layer.written("attn_out"))
        written.append(layer.resid_post)

    full_forward(base, variant, keep)
    replayed = replay_each_layer(base, where, variant, written, "attn_out")
    pairs = zip(replayed, parts, strict=True)
    return [block_error(a[where.real.to(a.device)], where.take(b)[where.real.to(b.device)]) for a, b in pairs]


def _trials(base: Recording) -> Iterator[tuple[Tensor, Variant]]:
    """Positions and an edit of them: every row, with edges removed halfway up; the last alone; one in the middle."""
    mask, layer = base.mask, base.layers[0].resid_pre
    attending = [i for i, record in enumerate(base.layers) if record.attends]
    values = layer + 0.3 * layer.flip(-1)
    first = torch.zeros_like(mask).scatter(1, mask.int().argmax(1, keepdim=True), True)
    every: Variant = {0: (Patch("resid_pre", mask, values),)}
    if bool((mask & ~first).any()):
        halfway = attending[len(attending) // 2]
        every = {**every, halfway: (*every.get(halfway, ()), Knockout(mask & ~first, first))}
    place = mask.int().cumsum(1)
    middle = (place == (place[:, -1:] + 1) // 2) & mask
    yield mask, every
    for seeds in (base.final, middle):
        yield seeds, {0: (Patch("resid_pre", seeds, values),)}


@torch.no_grad()
def verify_edit(base: Recording, where: Positions, edits: Sequence[Variant]) -> tuple[str, ...]:
    """Prove a sweep's edits in one layer, the last where they have something to do; returns notes for the record.

    The identity of the first goes through the same path and moves no row of the layer's output by more than 1e-4 of
    its length; each edit that has something to do moves a row, or the edited site itself, by at least 100 times more.
    InterventionError names family and site.
    """
    (layer,) = {first_layer(edit) for edit in edits}
    obstacle = obstacle_of(base)
    acts = [any(bool(acting_positions(base, layer, change).any()) for change in edit[layer]) for edit in edits]
    with in_float32(base.subject):
        base = recorded_again(base, base.layers[layer].sites) if obstacle else with_wide_layer(base, layer)
        identity = {layer: tuple(change.identity(base, layer) for change in edits[0][layer])}
        variants: list[Variant] = [{layer: ()}, identity, *edits]
        moved = _moved_whole(base, variants, layer) if obstacle else _moved_replayed(base, where, variants)
    place = f"{base.subject.family} ({base.subject.name}), {edits[0][layer][0].describe()} in layer {layer}"
    if not moved[1] <= IDENTITY:
        raise InterventionError(f"{place}: the identity edit moves the residual by {moved[1]:.2g} of its length")
    floor = max(FACTOR * moved[1], ROUNDING * torch.finfo(torch.float32).eps)
    for due, by in zip(acts, moved[2:], strict=True):
        if due and not by > floor:
            raise InterventionError(f"{place}: the edit moves nothing ({by:.2g}), though it should")
    return cost_notes(base.subject, obstacle)


def _moved_replayed(base: Recording, where: Positions, variants: Sequence[Variant]) -> list[float]:
    """How far each variant moves what its layer writes, or an edited site, from the first variant's; replayed."""
    written, sites = replay_first_layer(base, where, variants)
    parts = [written, *(site.flatten(3) for site in sites)]
    return [max(moved_by(part[v], part[0]) for part in parts) for v in range(len(variants))]


def _moved_whole(base: Recording, variants: Sequence[Variant], layer: int) -> list[float]:
    """The same, in whole forwards."""
    sites = {change.site for variant in variants for change in variant[layer]}
    names = {"z" if site in (CALL, EDGES, *QKV.values()) else site for site in sites} - {"resid_pre"}
    parts: list[list[Tensor]] = []

    def keep(seen: Any) -> None:
        if seen.index == layer:
            tensors = seen.resid_pre, seen.resid_post, *(seen.written(name).flatten(2) for name in sorted(names))
            parts.append([tensor[base.mask.to(tensor.device)] for tensor in tensors])

    for variant in variants:
        full_forward(base, variant, keep)
    return [max(map(moved_by, one, parts[0])) for one in parts]


def moved_by(changed: Tensor, expected: Tensor) -> float:
    """How far the row that moves most [..., d] moves, as a share of its length."""
    off = (changed.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1).clamp(min=1e-30)
    return float(off.max())
