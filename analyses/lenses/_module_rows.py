"""Rows of `module_lens`: entropy of the lens of what each module writes, and of noise of the same norm in its place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.model.head import in_rows
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from .. import metrics
from ..common.controls import layer_keys, random_directions
from ..common.places import text_without_first

# What is read of a layer, and the module's own output that noise takes the place of.
SITES_READ = {
    "attention": ("attn_out", "attn_out"),
    "behind attention": ("resid_mid", "attn_out"),
    "MLP": ("mlp_out", "mlp_out"),
    "behind the block": ("resid_post", "mlp_out"),
}
KINDS = ("image", "text")


def places(batch: Batch, count: int) -> dict[str, Bool[Tensor, "b p"]]:
    """Evenly spaced tokens of each kind: of each example, whatever batch it is in."""
    image = batch.where("image")
    kinds = {"image": image, "text": text_without_first(batch)}
    return {name: _spaced(mask, count) for name, mask in kinds.items()}


def _spaced(mask: Bool[Tensor, "b p"], count: int) -> Bool[Tensor, "b p"]:
    """So many of each row's marked places, or all: the middle of each of so many equal parts."""
    place, total = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)
    step = torch.arange(count)[None]
    wanted = ((2 * step + 1) * total.clamp_min(1)) // (2 * count)
    return mask & ((place[..., None] == wanted[:, None]).any(-1) | (total <= count))


def entropies(layer: Layer, batch: Batch, chosen: Mapping[str, Bool[Tensor, "b p"]]) -> dict[str, Tensor]:
    """Rows [b]: "<site>|<kind>" and "<site>|<kind>|noise", nats, mean over an example's tokens of a kind; NaN without
    any, and where the layer lacks the site.
    """
    rows: dict[str, Tensor] = {}
    for name, (site, module) in SITES_READ.items():
        has = _has(layer, site) and _has(layer, module)
        for kind, mask in chosen.items():
            read = _read(layer, batch, (site, module), mask & has)
            rows |= dict(zip((f"{name}|{kind}", f"{name}|{kind}|noise"), read, strict=True))
    return rows


def _has(layer: Layer, site: str) -> bool:
    """Whether the layer has the site; between attention and MLP parallel blocks have no state."""
    return (site != "attn_out" or layer.attends) and layer.subject.decoder.has(layer.index, SITES[site])


def _read(layer: Layer, batch: Batch, sites: tuple[str, str], mask: Bool[Tensor, "b p"]) -> list[Tensor]:
    """The entropy as it is, and with noise in the place of what the second site wrote."""
    row, place = mask.nonzero(as_tuple=True)
    if not len(row):
        return [torch.full((len(mask),), torch.nan) for _ in range(2)]
    device = layer.resid_pre.device
    states, written = (layer[name][row.to(device), place.to(device)].float() for name in sites)
    noise = random_directions(written, _keys(layer, batch, row, place))
    other = noise if sites[0] == sites[1] else states - written + noise
    return [_mean_of_each(_entropy(layer, x), row, len(mask)) for x in (states, other)]


def _keys(layer: Layer, batch: Batch, row: Tensor, place: Tensor) -> list[str]:
    """One key for each token: its example, its place behind the padding, the layer."""
    own = (place - batch.start[row]).tolist()
    keys = [f"{batch.example_ids[i]} token {at}" for i, at in zip(row.tolist(), own, strict=True)]
    return layer_keys(keys, len(keys), layer.index)


def _entropy(layer: Layer, states: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    subject = layer.subject

    def read(some: Tensor) -> Tensor:
        return metrics.entropy(metrics.logit_lens(some, subject.norm, subject.unembed))

    return in_rows(read, subject.model, states.to(layer.resid_pre.dtype))


def _mean_of_each(values: Float[Tensor, " n"], row: Tensor, count: int) -> Float[Tensor, " b"]:
    row = row.to(values.device)
    sums = torch.zeros(count, device=values.device).index_add_(0, row, values.float())
    return sums / torch.bincount(row, minlength=count)
