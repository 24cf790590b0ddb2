"""Proofs before a sweep is believed: replaying equals the forward, the edit acts, the identity edit does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data.example import UserError
from .replay import Cut, Put, Recording, Rows, Variant, reached, ride, start_of, whole
from .tolerance import TOLERANCE


class InterventionError(Exception):
    """An edit that does nothing where it should, or something where it should do nothing."""


# The identity edit moves logits by less than this share of their range, the real one by this many times more.
IDENTITY, FACTOR = 1e-4, 100


def obstacle_of(base: Recording) -> str:
    """Why the layers of this subject are not replayed ("" where they are); proved once, with and without images.

    An edit that changes every row, in a replay and in a whole forward: what a family does between its layers shows
    only so.
    """
    if base.obstacle:
        return base.obstacle
    proved: dict[bool, str] = base.subject.__dict__.setdefault("_replay_proofs", {})
    if base.has_image not in proved:
        error, limit = replay_error(base), 10 * TOLERANCE[base.subject.dtype]
        proved[base.has_image] = "" if error <= limit else f"a replay differs from the forward by {error:.1g}"
    return proved[base.has_image]


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
    """Prove `edits`, the strongest ones of a sweep; returns notes for the record.

    The identity edit goes through the same path and moves the logits by less than 1e-4 of their range; each real edit
    moves logits, or the edited site itself, by at least 100 times more. UserError: donors equal to the base.
    InterventionError names family and site.
    """
    obstacle = obstacle_of(base)
    nothing: Variant = {min(map(start_of, edits)): ()}
    identity = {i: tuple(_identity(c, base, i) for c in changes) for i, changes in edits[0].items()}
    variants = [nothing, identity, *edits]
    moved_sites = torch.zeros(len(variants))

    def observe(index: int, site: str, tensor: Tensor) -> None:
        # In the order of their first layer, which is the order given: all of them start together.
        if len(tensor) == len(variants):
            change = (tensor - tensor[:1]).abs().flatten(1).amax(1) / tensor[0].abs().max().clamp(min=1e-30)
            torch.maximum(moved_sites, change.float().cpu(), out=moved_sites)

    if obstacle:
        resid = torch.stack([whole(base, variant) for variant in variants])
    else:
        resid = ride(base, rows, variants, observe)
    logits = _logits(base, resid)
    still = _moved(logits[1], logits[0], logits[0])
    place = f"{base.subject.family} ({base.subject.name}), {_describe(edits[0])}"
    if still > IDENTITY:
        raise InterventionError(f"{place}: the identity edit moves the logits by {still:.2g} of their range")
    for i, edit in enumerate(edits, 2):
        moved = max(_moved(logits[i], logits[0], logits[0]), float(moved_sites[i]))
        if moved <= FACTOR * max(still, float(moved_sites[1])) or moved == 0:
            if _same_values(edit, base):
                raise UserError("patching: the donor's activations equal the base's: nothing to patch")
            raise InterventionError(f"{place}: the edit moves nothing ({moved:.2g}), though it should")
    return (f"{base.subject.family}: {obstacle}: whole forwards were run",) if obstacle else ()


def _identity(change: Cut | Put, base: Recording, index: int) -> Cut | Put:
    """The same edit with what is there already."""
    if isinstance(change, Put):
        return replace(change, values=base.layers[index].site(change.site))
    if change.donor is not None:
        return replace(change, donor=base.layers[index])
    return replace(change, source=torch.zeros_like(change.source))


def _same_values(edit: Variant, base: Recording) -> bool:
    puts = [(i, c) for i, changes in edit.items() for c in changes if isinstance(c, Put)]
    if not puts:
        return False

    def differs(index: int, put: Put) -> bool:
        own, where = base.layers[index].site(put.site), put.positions
        return bool((put.values.expand(own.shape) - own)[where.to(own.device)].any())

    return not any(differs(i, put) for i, put in puts)


def _describe(edit: Variant) -> str:
    change: Any = next(iter(edit.values()))[0]
    if isinstance(change, Put):
        return f"patching {change.site}"
    return "attention knockout" if change.donor is None else "resampled attention"


def _logits(base: Recording, resid: Tensor) -> Tensor:
    return base.subject.unembed(base.subject.norm(resid)).float()


def _moved(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """Largest difference as a share of the range of `scale`."""
    return float((found - expected).abs().max() / (scale.max() - scale.min()).clamp(min=1e-30))
