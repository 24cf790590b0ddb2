"""Effects at named positions of the prompt: the last one, the marks, the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...probes.intervene.patching import patch_sweep
from ...probes.intervene.sweep import layers_with
from ...probes.prompts.batch import Batch
from ..common.contrast import Contrast

SITES = ("z", "attn_out", "mlp_out")


def effects_by_position(subject: Any, batch: Batch, found: Contrast) -> dict[str, Tensor]:
    """Exact effects at every named position: of attention and MLP outputs [b, layer], of heads [b, layer, head]."""
    kept, parted = {}, found.parted
    for name, where in named_positions(batch).items():
        for site in SITES:
            kept[f"position|{site}|{name}"] = patched_at(subject, found, site, where, parted)
    return kept


def patched_at(subject: Any, found: Contrast, site: str, where: Tensor, parted: Tensor) -> Tensor:
    """Exact effects [b, layer(, head)] of a site at some positions; 0 before the twins part."""
    where = where.to(parted.device)
    if not bool((where & parted).any()):
        axes = (subject.n_layers, subject.n_heads) if site == "z" else (subject.n_layers,)
        nothing = torch.full((len(where), *axes), torch.nan)
        nothing[:, list(layers_with(subject, {site}))] = 0.0
        return nothing
    return patch_sweep(subject, found.base, found.donor, site, positions=where, measure=found.measure).effects


def named_positions(batch: Batch) -> dict[str, Tensor]:
    """Disjoint sets of real positions: "last", then the marks in their order, then "other"; none empty."""
    last = batch.final
    found, rest = {"last": last}, batch.mask & ~last
    for name, where in batch.marks.items():
        found[name], rest = where & rest, rest & ~where
    found["other"] = rest
    return {name: where for name, where in found.items() if bool(where.any(1).all())}
