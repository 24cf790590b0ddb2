"""Proofs before a sweep is believed: replaying equals the forward, the edit acts, the identity edit does not.

Of a subject in half precision they are made in float32, where one rounding does not hide what is wrong, with the same
limits; that its own dtype computes each replayed layer as its forward does is judged layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...data.errors import InterventionError
from ..model.tolerance import TOLERANCE, block_error, block_limit
from .float32 import in_float32, is_half, recorded_again, with_wide_donors, with_wide_layer
from .replay import (
    Change,
    Cut,
    Hear,
    Put,
    Recording,
    Rows,
    Variant,
    reached,
    ride,
    ride_each,
    ride_one,
    start_of,
    whole,
)

# The identity edit moves a layer's rows by less than this share of their length, the real one by this many times more.
IDENTITY, FACTOR = 1e-4, 100
# Equal variants of one stack may still differ by rounding, since they lie at other places of a matrix: in units of eps.
ROUNDING = 4
# An edited replay may differ from the edited forward by this share of the last state's length.
REPLAY = 10 * TOLERANCE


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
    if not error <= REPLAY:
        return f"a replay differs from the forward by {error:.1g}"
    for layer, error in enumerate(replay_roundings(base) if is_half(base.subject) else []):
        if not error <= block_limit(base.subject.dtype):
            return f"layer {layer} replayed in {base.subject.dtype} differs from the forward's by {error:.1g}"
    return ""


def replay_notes(subject: Any) -> list[str]:
    """What a record must say of the sweeps that this subject ran: that its layers could not be replayed, and why."""
    obstacles = {why for why in subject.__dict__.get("_replay_proofs", {}).values() if why}
    return [_note(subject, why) for why in sorted(obstacles)]


def _note(subject: Any, obstacle: str) -> str:
    return f"{subject.family}: {obstacle}: whole forwards were run"


@torch.no_grad()
def replay_error(base: Recording) -> float:
    """Largest difference of the last state between edited replays and edited forwards, as a share of its length."""
    errors = []
    for seeds, variant in _trials(base):
        found, expected = ride(base, reached(base, seeds), [variant])[0], whole(base, variant)
        errors.append(_moved(base.subject.norm(found), base.subject.norm(expected)))
    return float(torch.tensor(errors).max())  # NaN where one is


@torch.no_grad()
def replay_roundings(base: Recording) -> list[float]:
    """`block_error` of what each layer's attention writes, replayed in the subject's dtype, against the edited
    forward's own, which enters the layer with the same residual."""
    seeds, variant = list(_trials(base))[-1]
    rows, parts, written = reached(base, seeds), [], []

    def keep(layer: Any) -> None:
        parts.append(layer.written("attn_out"))
        written.append(layer.resid_post)

    whole(base, variant, keep)
    found = ride_each(base, rows, variant, written, "attn_out")
    pairs = zip(found, parts, strict=True)
    return [block_error(a[rows.real.to(a.device)], rows.take(b)[rows.real.to(b.device)]) for a, b in pairs]


def _trials(base: Recording) -> Iterator[tuple[Tensor, Variant]]:
    """Positions and an edit of them: every row, with a cut halfway up; the last alone; one in the middle."""
    mask, layer = base.mask, base.layers[0].resid_pre
    values = layer + 0.3 * layer.flip(-1)
    first = torch.zeros_like(mask).scatter(1, mask.int().argmax(1, keepdim=True), True)
    every: Variant = {0: (Put("resid_pre", mask, values),)}
    if bool((mask & ~first).any()):
        every = {**every, len(base.layers) // 2: (Cut(mask & ~first, first),)}
    place = mask.int().cumsum(1)
    middle = (place == (place[:, -1:] + 1) // 2) & mask
    yield mask, every
    for seeds in (base.final, middle):
        yield seeds, {0: (Put("resid_pre", seeds, values),)}


@torch.no_grad()
def verify_edit(base: Recording, rows: Rows, edits: Sequence[Variant]) -> tuple[str, ...]:
    """Prove a sweep's edits in one layer, the last where they have something to do; returns notes for the record.

    The identity edit goes through the same path and moves no row of the layer's output by more than 1e-4 of its
    length; each real edit moves a row, or the edited site itself, by at least 100 times more. InterventionError names
    family and site.
    """
    (layer,) = {start_of(edit) for edit in edits}
    obstacle = obstacle_of(base)
    with in_float32(base.subject):
        if obstacle:
            base = recorded_again(base, {c.site for edit in edits for c in edit[layer] if isinstance(c, Put)})
        else:
            base = with_wide_layer(base, layer)
        identity = {layer: tuple(_identity(c, base, layer) for c in edits[0][layer])}
        variants: list[Variant] = [{layer: ()}, identity, *map(with_wide_donors, edits)]
        moved = _moved_whole(base, variants, layer) if obstacle else _moved_riding(base, rows, variants)
    place = f"{base.subject.family} ({base.subject.name}), {_describe(edits[0][layer][0])} in layer {layer}"
    if not moved[1] <= IDENTITY:
        raise InterventionError(f"{place}: the identity edit moves the residual by {moved[1]:.2g} of its length")
    floor = max(FACTOR * moved[1], ROUNDING * torch.finfo(torch.float32).eps)
    for edit, by in zip(variants[2:], moved[2:], strict=True):
        if not by > floor and not _lends_the_same(base, edit[layer], layer):
            raise InterventionError(f"{place}: the edit moves nothing ({by:.2g}), though it should")
    return (_note(base.subject, obstacle),) if obstacle else ()


def _moved_riding(base: Recording, rows: Rows, variants: Sequence[Variant]) -> list[float]:
    """How far each variant moves what its layer writes, or an edited site, from the first variant's; replayed."""
    written, sites = ride_one(base, rows, variants)
    parts = [written, *(site.flatten(3) for site in sites)]
    return [max(_moved(part[v], part[0]) for part in parts) for v in range(len(variants))]


def _moved_whole(base: Recording, variants: Sequence[Variant], layer: int) -> list[float]:
    """The same, in whole forwards."""
    names = {c.site if isinstance(c, Put) else "z" for variant in variants for c in variant[layer]}
    found: list[list[Tensor]] = []

    def keep(seen: Any) -> None:
        if seen.index == layer:
            parts = [seen.z.flatten(2) if n == "z" else seen.written(n) for n in names - {"resid_pre"}]
            found.append([part[base.mask.to(part.device)] for part in (seen.resid_pre, seen.resid_post, *parts)])

    for variant in variants:
        whole(base, variant, keep)
    return [max(map(_moved, one, found[0])) for one in found]


def _identity(change: Change, base: Recording, index: int) -> Change:
    """The same edit with what is there already, or nowhere."""
    if isinstance(change, Hear):
        return replace(change, positions=torch.zeros_like(change.positions))
    if isinstance(change, Put):
        return replace(change, values=base.layers[index].site(change.site))
    if change.donor is not None:
        return replace(change, donor=base.layers[index])
    return replace(change, source=torch.zeros_like(change.source))


def _lends_the_same(base: Recording, changes: Sequence[Change], layer: int) -> bool:
    """Whether every change reads a donor whose keys and values are the base's own: then nothing has to move."""

    def same(change: Change) -> bool:
        if not isinstance(change, Cut) or change.donor is None:
            return False
        own, where = base.layers[layer], change.source.to(change.donor.key.device)
        pairs = ((own.key, change.donor.key), (own.value, change.donor.value))
        return all(torch.allclose(a.movedim(1, 2)[where], b.movedim(1, 2)[where], atol=1e-5) for a, b in pairs)

    return all(map(same, changes))


def _describe(change: Change) -> str:
    if isinstance(change, Put):
        return f"patching {change.site}"
    if isinstance(change, Hear):
        return f"patching the {change.part} of head {change.head}"
    return "attention knockout" if change.donor is None else "resampled attention"


def _moved(found: Tensor, expected: Tensor) -> float:
    """How far the row that moves most [..., d] moves, as a share of its length."""
    off = (found.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1).clamp(min=1e-30)
    return float(off.max())
