"""Proofs before a sweep is believed: replaying equals the forward, the edit acts, the identity edit does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data.example import UserError
from .replay import Change, Cut, Hear, Put, Recording, Rows, Variant, reached, ride, start_of, whole
from .tolerance import TOLERANCE


class InterventionError(UserError):
    """An edit that does nothing where it should, or something where it should do nothing."""


# The identity edit moves logits by less than this share of their range, the real one by this many times more.
IDENTITY, FACTOR = 1e-4, 100
# Equal variants of one stack may still differ by rounding, since they lie at other places of a matrix: in units of eps.
ROUNDING = 4


def obstacle_of(base: Recording) -> str:
    """Why the layers of this subject are not replayed ("" where they are); proved once, with and without images.

    An edit that changes every row, in a replay and in a whole forward: what a family does between its layers shows
    only so. Of an edited model nothing is proved or kept. UserError: other edits act than when it was recorded.
    """
    base.require_same_edits()
    if base.edits:
        return base.obstacle
    proved: dict[bool, str] = base.subject.__dict__.setdefault("_replay_proofs", {})
    if base.obstacle:
        proved[base.has_image] = base.obstacle
    if base.has_image not in proved:
        error, limit = replay_error(base), 10 * TOLERANCE[base.subject.dtype]
        proved[base.has_image] = "" if error <= limit else f"a replay differs from the forward by {error:.1g}"
    return proved[base.has_image]


def replay_notes(subject: Any) -> list[str]:
    """What a record must say of the sweeps that this subject ran: that its layers could not be replayed, and why."""
    obstacles = {why for why in subject.__dict__.get("_replay_proofs", {}).values() if why}
    return [_note(subject, why) for why in sorted(obstacles)]


def _note(subject: Any, obstacle: str) -> str:
    return f"{subject.family}: {obstacle}: whole forwards were run"


@torch.no_grad()
def replay_error(base: Recording) -> float:
    """Largest difference of logits between an edited replay and the edited forward, as a share of their range."""
    layer = base.layers[0].resid_pre
    first = torch.zeros_like(base.mask).scatter(1, base.mask.int().argmax(1, keepdim=True), True)
    variant: Variant = {
        0: (Put("resid_pre", base.mask, layer + 0.3 * layer.flip(-1)),),
        len(base.layers) // 2: (Cut(base.mask & ~first, first),),
    }
    if not bool((base.mask & ~first).any()):
        variant = {0: variant[0]}
    replayed = ride(base, reached(base, base.mask), [variant])[0]
    expected = _logits(base, whole(base, variant))
    return _moved(_logits(base, replayed), expected, expected)


@torch.no_grad()
def verify_edit(base: Recording, rows: Rows, edits: Sequence[Variant]) -> tuple[str, ...]:
    """Prove a sweep's edits in one layer, the last where they have something to do; returns notes for the record.

    The identity edit goes through the same path and moves the logits by less than 1e-4 of their range; each real edit
    moves the logits, or the edited site itself, by at least 100 times more. InterventionError names family and site.
    """
    (layer,) = {start_of(edit) for edit in edits}
    obstacle = obstacle_of(base)
    identity = {layer: tuple(_identity(c, base, layer) for c in edits[0][layer])}
    variants: list[Variant] = [{layer: ()}, identity, *edits]
    moved_sites = torch.zeros(len(variants))

    def observe(index: int, site: str, tensor: Tensor) -> None:
        change = (tensor - tensor[:1]).abs().flatten(1).amax(1) / tensor[0].abs().max().clamp(min=1e-30)
        torch.maximum(moved_sites, change.float().cpu(), out=moved_sites)

    if obstacle:
        resid = torch.stack([whole(base, variant) for variant in variants])
    else:
        resid = ride(base, rows, variants, observe)
    logits = _logits(base, resid)
    moved = [max(_moved(found, logits[0], logits[0]), float(at)) for found, at in zip(logits, moved_sites, strict=True)]
    place = f"{base.subject.family} ({base.subject.name}), {_describe(edits[0])} in layer {layer}"
    if moved[1] > IDENTITY:
        raise InterventionError(f"{place}: the identity edit moves the logits by {moved[1]:.2g} of their range")
    floor = max(FACTOR * moved[1], ROUNDING * torch.finfo(base.subject.dtype).eps)
    for edit, by in zip(edits, moved[2:], strict=True):
        if by <= floor and not _lends_the_same(base, edit[layer], layer):
            raise InterventionError(f"{place}: the edit moves nothing ({by:.2g}), though it should")
    return (_note(base.subject, obstacle),) if obstacle else ()


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


def _describe(edit: Variant) -> str:
    change: Any = next(iter(edit.values()))[0]
    if isinstance(change, Put):
        return f"patching {change.site}"
    if isinstance(change, Hear):
        return f"patching the {change.part} of head {change.head}"
    return "attention knockout" if change.donor is None else "resampled attention"


def _logits(base: Recording, resid: Tensor) -> Tensor:
    return base.subject.unembed(base.subject.norm(resid)).float()


def _moved(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """Largest difference as a share of the range of `scale`."""
    return float((found - expected).abs().max() / (scale.max() - scale.min()).clamp(min=1e-30))
