"""What is counted of neurons: for each label how many tokens activate one, and how many documents it matters to.

Parts of a model, each with its own tokens: the decoder's neurons at words and at image tokens, the vision tower's at
patches, the projector's at what it is given; and, where they are asked for, the channels of queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.model.stack import PROJECTOR, VISION, Stack
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How
from ...probes.sites import SITES
from ..common.labels import COLUMNS, label_of
from ..common.places import text_without_first
from ._channels import channels

MOST = 8  # labels
COUNTED = ("active", "important", "tokens")
TEXT, IMAGE, TOWER, BETWEEN = "decoder, words", "decoder, image tokens", "vision tower", "projector"
QUERIES, KEYS = "queries", "keys"
# What the names of a part's rows begin with.
PREFIXES = {TEXT: "", IMAGE: "image ", TOWER: "tower ", BETWEEN: "projector ", QUERIES: "q ", KEYS: "k "}
WITH_LAYERS = (TEXT, IMAGE, TOWER)
WITH_NEURONS, WITH_CHANNELS = (*WITH_LAYERS, BETWEEN), (QUERIES, KEYS)
# Whose neurons see pictures before the decoder does, by the stack that they lie in.
BEFORE = {TOWER: VISION, BETWEEN: PROJECTOR}
SUMMED = tuple(f"{prefix}{name}|{i}" for prefix in PREFIXES.values() for name in COUNTED for i in range(MOST))
Values = Mapping[str, Tensor]


def labels_in(examples: Sequence[Example], by: str = "") -> list[str]:
    """All labels, in the order of their names. UserError: no such column; fewer than two, or more than MOST."""
    columns = ", ".join(sorted({name for example in examples for name in example.meta})) or "none"
    if by and not any(by in example.meta for example in examples):
        raise UserError(f"--neurons.by {by}: the examples have no such column; there are {columns}")
    found = sorted({label_of(example, by) for example in examples} - {""})
    if not 2 <= len(found) <= MOST:
        told = ", ".join(found[:MOST]) or "none"
        raise UserError(
            f"neurons compares 2 to {MOST} labels (meta {by or ' or '.join(COLUMNS)} of the examples), and held-out "
            f"examples have {len(found)}: {told}; --neurons.by takes another column of {columns}; --task texts has "
            "languages and domains, --task scenes:difficulty=clear+faint with --neurons.by difficulty kinds of pictures"
        )
    return found


def places(batch: Batch) -> dict[str, Bool[Tensor, "b p"]]:
    """The tokens at which each part of the decoder with neurons is counted; image tokens where there are any."""
    image = batch.where("image")
    return {TEXT: text_without_first(batch)} | ({IMAGE: image} if bool(image.any()) else {})


def observed(layer: Layer, batch: Batch, options: Any) -> dict[str, Values | None]:
    """By part of the decoder COUNTED of each example, as `counted`; None where the layer lacks it."""
    found: dict[str, Values | None] = {}
    for part, kept in places(batch).items():
        found[part] = counted(layer, kept, options.top) if has_neurons(layer.stack, layer.index) else None
    if options.channels:
        found |= dict(zip(WITH_CHANNELS, _channels(layer, text_without_first(batch), options.top), strict=True))
    return found


def counted(layer: Layer, kept: Bool[Tensor, "b p"], top: float) -> Values:
    """ "active" [b, n], tokens with act > 0; "important" [b, n], whether a neuron is in the layer's top share by what
    removing it changes; "tokens" [b]. NaN where none is kept.
    """
    kept = kept.to(layer.resid_pre.device)
    return with_tokens({"active": active(layer, kept), "important": largest(removal(layer, kept), top)}, kept.sum(1))


def _channels(layer: Layer, kept: Bool[Tensor, "b p"], top: float) -> list[Values | None]:
    if not layer.attends:
        return [None, None]
    sizes = channels(layer.attention, kept)
    return [with_tokens({"important": largest(size, top)}, kept.sum(1).to(size.device)) for size in sizes]


def with_tokens(values: Values, tokens: Tensor) -> Values:
    """The values [b, n] and the tokens that they are of, NaN where there are none."""
    tokens = tokens.float().masked_fill(tokens == 0, torch.nan)
    nothing = tokens.isnan()[:, None]
    return {name: value.masked_fill(nothing, torch.nan) for name, value in values.items()} | {"tokens": tokens}


def by_label(values: Values | None, part: str, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """The values [b, …] of a part under the names of SUMMED: those of label i, NaN for examples of others. None: the
    layer has nothing of this part.
    """
    labels = how.learned.labels
    known = COUNTED if part in WITH_NEURONS else COUNTED[1:]
    if values is None:
        return dict.fromkeys(f"{PREFIXES[part]}{name}|{i}" for name in known for i in range(len(labels)))
    own = [label_of(example, how.options.by) for example in batch.examples]
    rows: dict[str, Tensor | None] = {}
    for i, label in enumerate(labels):
        for name, value in values.items():
            mine = torch.tensor([one == label for one in own], device=value.device)
            there = mine.reshape(-1, *[1] * (value.ndim - 1))
            rows[f"{PREFIXES[part]}{name}|{i}"] = torch.where(there, value, torch.nan)
    return rows


def has_neurons(stack: Stack, layer: int) -> bool:
    """Whether the stack's MLP there has neurons."""
    return all(stack.has(layer, SITES[site]) for site in ("mlp_pre", "mlp_post"))


def active(layer: Layer, kept: Bool[Tensor, "b p"]) -> Float[Tensor, "b n"]:
    """Tokens at which the activation function gives more than 0, which it does where it reads more than 0."""
    fires = (layer["mlp_pre"] > 0).float()
    return (kept.float()[:, None] @ fires)[:, 0]


def removal(layer: Layer, kept: Bool[Tensor, "b p"]) -> Float[Tensor, "b n"]:
    """`metrics.neuron_removal` summed over the tokens: |act| first, the norm of W_down behind the sum."""
    size = (kept.float()[:, None] @ layer["mlp_post"].float().abs())[:, 0]
    return size * layer.stack.W_down(layer.index).float().norm(dim=1).to(size.device)


def largest(size: Float[Tensor, "b n"], top: float) -> Float[Tensor, "b n"]:
    """1 for the top share of each row, else 0."""
    count = max(1, round(top * size.shape[1]))
    return (size >= size.topk(count, 1).values[:, -1:]).float()
