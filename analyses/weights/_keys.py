"""What the weights make of texts: how keys lie, which no query can rank first, which rotary pairs are used."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from .. import metrics
from ..common.places import without_first

NULLS = ("", "without their mean")


def read_keys(layer: Layer, batch: Batch, hull: bool) -> dict[str, Tensor | None]:
    """Rows of a layer, keys as the attention reads them, without each example's first token (like no other).

    interference [b, kv, NULLS]: mean squared cosine of different keys. hull [b, kv, 2]: share of keys inside the convex
    hull of the others, and of as many Gaussian keys; see `_inside`. use [b, kv, pair] and "use|permuted":
    see `frequency_use`, NaN where rotary pairs are not found.
    """
    if not layer.attends:
        return dict.fromkeys(("interference", "hull", "use", "use|permuted"))
    kept = without_first(batch).to(layer.rot_k.device)
    found: dict[str, list[Tensor]] = {"interference": [], "hull": [], "use": [], "use|permuted": []}
    paired = pairs_are_halves(layer)
    for example, key in enumerate(batch.example_ids):
        keys = layer.rot_k[example, kept[example]].float().transpose(0, 1)  # [kv, n, d]
        sets = (keys, keys - keys.mean(1, keepdim=True))
        found["interference"].append(torch.stack([_interference(one) for one in sets], -1))
        twins = (_gaussian(one, f"{key} {layer.index} {h}") for h, one in enumerate(keys))
        pairs = [_inside(one, twin, hull) for one, twin in zip(keys, twins, strict=True)]
        found["hull"].append(torch.stack(pairs))
        queries = layer.rot_q[example, kept[example]].float()
        used = metrics.frequency_use(queries, keys.transpose(0, 1)) if keys.shape[-1] % 2 == 0 else None
        found["use"].append(_known(used, keys, paired))
        mixed = None if used is None else metrics.frequency_use(queries, other_pairs(keys.transpose(0, 1), key))
        found["use|permuted"].append(_known(mixed, keys, paired))
    return {name: torch.stack(rows).cpu() for name, rows in found.items()}


def pairs_are_halves(layer: Layer) -> bool:
    """Whether the rotation turns channel i with i + d/2, and turns anything: told by norms before and behind it."""
    if not layer.stack.has(layer.index, SITES["q"]):
        return False
    before, behind = layer.q.float(), layer.rot_q.float()
    if before.shape != behind.shape or before.shape[-1] % 2 or torch.allclose(before, behind):
        return False
    sizes = [x.unflatten(-1, (2, -1)).norm(dim=-2) for x in (before, behind)]
    return bool(torch.allclose(*sizes, rtol=2e-2, atol=1e-3 * float(sizes[0].max())))


def _known(values: Tensor | None, keys: Float[Tensor, "kv n d"], paired: bool) -> Tensor:
    nothing = keys.new_full((len(keys), keys.shape[-1] // 2), torch.nan)
    return values if values is not None and paired else nothing


def other_pairs(k: Float[Tensor, "n kv d"], key: str) -> Float[Tensor, "n kv d"]:
    """Keys with their rotary pairs in another order, drawn by the example's name."""
    half = k.shape[-1] // 2
    order = torch.from_numpy(np.random.default_rng(crc32(key.encode())).permutation(half)).to(k.device)
    return k.unflatten(-1, (2, half))[..., order].flatten(-2)


def _interference(keys: Float[Tensor, "kv n d"]) -> Float[Tensor, "kv"]:
    """`metrics.key_interference` from sums over keys; NaN for fewer than two."""
    if keys.shape[1] < 2:
        return keys.new_full((len(keys),), torch.nan)
    units = torch.nn.functional.normalize(keys, dim=-1)
    return torch.stack([metrics.streamed_interference(one.T @ one, one.shape[0]) for one in units])


def _inside(keys: Float[Tensor, "n d"], twins: Float[Tensor, "n d"], asked: bool) -> Float[Tensor, "2"]:
    """NaN where it was not asked, or of so few keys that by geometry none lies inside the hull of the others."""
    if not asked or len(keys) < keys.shape[1] + 2:
        return keys.new_full((2,), torch.nan)
    return torch.stack([metrics.unselectable_keys(one).float().mean() for one in (keys, twins)])


def _gaussian(keys: Float[Tensor, "n d"], key: str) -> Float[Tensor, "n d"]:
    """As many keys of a Gaussian with their mean and covariance."""
    n = len(keys)
    if n < 2:
        return keys
    drawn = torch.from_numpy(np.random.default_rng(crc32(key.encode())).standard_normal((n, n))).to(keys)
    return keys.mean(0) + drawn @ (keys - keys.mean(0)) / (n - 1) ** 0.5
