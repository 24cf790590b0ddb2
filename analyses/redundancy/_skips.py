"""Modules left out: one at a time, several in three orders, and replaced by their mean update: all from one recording.

A module is left out where it writes: what it adds to the residual is 0. Layers below the first change are not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.intervene.interventions import Change, Patch, Scale, Variant
from ...probes.intervene.recording import Recording, record
from ...probes.prompts.batch import Batch
from ...probes.sites import PARTS, SITES
from ..common.controls import permutations
from ..common.losses import READ, Losses, scored
from ..common.places import without_first
from ._importance import KINDS, counted

SITES_OF = {"block": PARTS, "attention": ("attn_out",), "MLP": ("mlp_out",)}
ORDERS = ("deep first", "least important first", "random")
LEFT_OUT = (1 / 8, 1 / 4, 1 / 3, 1 / 2)  # of the layers


def sites_of(subject: Any, kind: str, layer: int) -> list[str]:
    """Where a module of the layer writes; none where it does not have it."""
    if kind == "attention" and layer not in subject.decoder.attending:
        return []
    return [site for site in SITES_OF[kind] if subject.decoder.has(layer, SITES[site])]


def layers_of(subject: Any, kind: str) -> list[int]:
    """The layers that have such a module."""
    return [layer for layer in range(subject.n_layers) if sites_of(subject, kind, layer)]


class Skips:
    """Variants of one recording: the same change is one object, so that variants share what they have in common."""

    def __init__(self, subject: Any, batch: Batch, most: int) -> None:
        self.subject, self.scored = subject, scored(batch, most)
        written = [site for site in PARTS if any(subject.decoder.has(i, SITES[site]) for i in range(subject.n_layers))]
        self.base = record(subject, batch, written)
        self._zero = {(layer, site): Scale(site, None, 0.0) for layer in range(subject.n_layers) for site in written}
        self._kept = without_first(batch)
        self._losses = Losses(self.base, self.scored)

    def variant(self, kind: str, layers: Sequence[int]) -> Variant:
        """These modules left out."""
        return {i: tuple(self._zero[i, site] for site in sites_of(self.subject, kind, i)) for i in sorted(layers)}

    def replaced(self, kind: str, layer: int) -> Variant:
        """A module's update at every token but the first is its mean over the tokens from the second to this one."""
        sites = sites_of(self.subject, kind, layer)
        return {layer: tuple(_mean_update(self.base, layer, site, self._kept) for site in sites)}

    def read(self, variants: Sequence[Variant]) -> tuple[Float[Tensor, "v b read"], Float[Tensor, "v b d"]]:
        """See `Losses.read`."""
        return self._losses.read(variants)


def _mean_update(base: Recording, layer: int, site: str, kept: Bool[Tensor, "b p"]) -> Change:
    """The first token keeps its own; no token is told of later ones."""
    written = base.layers[layer].site(site)
    weight = kept.to(written)[..., None]
    so_far = (written * weight).cumsum(1) / weight.cumsum(1).clamp_min(1)
    return Patch(site, kept.to(written.device), so_far)


def order_of(order: str, layers: Sequence[int], turned: Mapping[int, float], draw: int) -> list[int]:
    """The layers in the order in which they are left out. turned: the importance of each, from other examples."""
    if order == "deep first":
        return sorted(layers, reverse=True)
    if order == "least important first":
        return sorted(layers, key=lambda layer: turned[layer])
    return [layers[i] for i in permutations(len(layers), [f"left out {draw}"])[0].tolist()]


def curves(skips: Skips, kind: str, turned: Mapping[int, float], draws: int) -> Float[Tensor, "b orders left_out read"]:
    """Loss and top-1 with so many modules left out in each order, the random one a mean over draws."""
    layers = layers_of(skips.subject, kind)
    plan = [(order, draw) for order in ORDERS for draw in range(draws if order == "random" else 1)]
    variants = [
        skips.variant(kind, order_of(order, layers, turned, draw)[: counted(share, len(layers))])
        for order, draw in plan
        for share in LEFT_OUT
    ]
    values = skips.read(variants)[0].unflatten(0, (len(plan), len(LEFT_OUT)))
    by_order = [values[[i for i, (name, _) in enumerate(plan) if name == order]].mean(0) for order in ORDERS]
    return torch.stack(by_order).permute(2, 0, 1, 3)


def singles(
    skips: Skips, kind: str, replaced: bool = False
) -> tuple[Float[Tensor, "b layers read"], Float[Tensor, "b layers d"]]:
    """Loss and top-1 with one module left out, or replaced by its mean update; NaN in layers without. And the last
    position's state behind the final norm.
    """
    layers = layers_of(skips.subject, kind)
    made = skips.replaced if replaced else lambda kind, layer: skips.variant(kind, [layer])
    found = skips.read([made(kind, layer) for layer in layers])
    values, features = (one.new_full((one.shape[1], skips.subject.n_layers, one.shape[2]), torch.nan) for one in found)
    values[:, layers], features[:, layers] = (one.transpose(0, 1) for one in found)
    return values, features


__all__ = ["KINDS", "LEFT_OUT", "ORDERS", "READ", "Skips", "curves", "layers_of", "scored", "singles"]
