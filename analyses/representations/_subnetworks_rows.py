"""What weights read: squares of each input channel over image tokens and over text tokens, and rows of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import SubjectError
from ...probes.model import frozen_norms
from ...probes.model.head_weights import key_weight, query_weight, value_weight
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from ..common.places import without_first
from ._similarity_rows import text_tokens
from ._similarity_sets import IMAGE, TEXT

SETS = (IMAGE, TEXT)
# Matrix -> what it reads.
READS = {"Q": "attention", "K": "attention", "V": "attention", "O": "heads", "down": "neurons"}
SUMMED = tuple(f"{one}|{name}" for one in SETS for name in dict.fromkeys(READS.values()))
ROWS = 16  # outputs of each matrix whose weights are read, drawn once


def channel_squares(layer: Layer, batch: Batch) -> dict[str, Tensor | None]:
    """ "<set>|<what is read>" [b, channels]: Σ x² of each channel over the set's tokens; None where it is lacking."""
    tokens = {IMAGE: batch.where("image") & without_first(batch), TEXT: text_tokens(batch)}
    found: dict[str, Tensor | None] = {}
    for name, read in _inputs(layer).items():
        for one, where in tokens.items():
            found[f"{one}|{name}"] = None if read is None else _squares(read, where)
    return found


def _inputs(layer: Layer) -> dict[str, Float[Tensor, "b p c"] | None]:
    norm = frozen_norms.input_norm(layer.module)
    entering = layer.resid_pre if norm is None else norm(layer.resid_pre)
    neurons = layer["mlp_post"] if layer.stack.has(layer.index, SITES["mlp_post"]) else None
    return {
        "attention": entering if layer.attends else None,
        "heads": layer.z.flatten(2) if layer.attends else None,
        "neurons": neurons,
    }


def _squares(read: Float[Tensor, "b p c"], where: Bool[Tensor, "b p"]) -> Float[Tensor, "b c"]:
    return (where.to(read.device).float()[:, None] @ read.float().square())[:, 0].cpu()


@torch.no_grad()
def some_rows(subject: Any) -> dict[str, Tensor]:
    """ "<matrix>" [layer, ROWS, channels]: |W| of some outputs, NaN where a layer has no such matrix."""
    found: dict[str, list[Tensor | None]] = {name: [] for name in READS}
    for layer in range(subject.n_layers):
        for name, read in _matrices(subject, layer):
            try:
                found[name].append(_drawn(read()))
            except SubjectError:
                found[name].append(None)
    return {name: _stacked(parts) for name, parts in found.items() if any(part is not None for part in parts)}


def _matrices(subject: Any, layer: int) -> Iterator[tuple[str, Callable[[], Float[Tensor, "out into"]]]]:
    for name, of in zip("QKV", (query_weight, key_weight, value_weight), strict=True):
        yield name, lambda of=of: of(subject, layer).transpose(1, 2).flatten(0, 1)
    yield "O", lambda: subject.W_O(layer).flatten(0, 1).T
    yield "down", lambda: subject.decoder.W_down(layer).T


def _drawn(weight: Float[Tensor, "out into"]) -> Float[Tensor, "row into"]:
    chosen = np.random.default_rng(0).permutation(len(weight))[:ROWS]
    return weight[torch.from_numpy(np.sort(chosen)).to(weight.device)].detach().float().abs().cpu()


def _stacked(parts: list[Tensor | None]) -> Tensor:
    like = next(part for part in parts if part is not None)
    return torch.stack([torch.full_like(like, torch.nan) if part is None else part for part in parts])
