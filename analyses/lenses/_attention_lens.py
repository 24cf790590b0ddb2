"""The Attention Lens: for every head of a layer a learned linear map from its output to the vocabulary.

A map L (vocabulary × d_model) is only ever applied to what the head writes, z · W_O, so L · W_O (vocabulary × d_head)
says the same with d_model / d_head times fewer numbers: that is what is learned and kept, [h, d_head, vocab].
Trained as in arXiv 2310.16270: KL of the model's output to the softmax of the sum over the layer's heads.

How the final norm enters: as a constant linear map. The start is W_U · diag(gain) · W_O / s, with s the mean over the
training text of the scale that the final norm divides by (for LayerNorm the mean is taken off too); the norm's bias
and the head's bias start the layer's bias. So at the start the lens is what direct logit attribution says of the
layer's heads, at the mean scale. The released code starts at W_U alone; the maps that can be reached are the same.

Of a vocabulary that is too large to learn whole, see `_lens_words`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.model import anatomy, frozen_norms
from ...probes.model.head import rows_at_once, word_directions
from ..common.descent import Descent, Weights, descend, frozen, kl_to
from ._lens_words import Chosen, spread, whole_target, with_others


@torch.no_grad()
def start(
    subject: Any,
    layer: int,
    z: Float[Tensor, "n h d_head"],
    final: Float[Tensor, "n d"],
    words: Int[Tensor, " words"] | None = None,
) -> Weights:
    """weight [h, d_head, vocab] and bias [vocab] before training; or those of `words` and of all others as one, with
    what `_lens_words.spread` needs. final: the last residual, before its norm.
    """
    norm, block = frozen_norms.affine(subject.norm, final), subject.layers[layer]
    scale, W_O = norm.scale(final).mean(), subject.W_O(layer).detach().float()
    rows = subject.W_U.float() if words is None else word_directions(subject.model, words)
    read, written = norm.pull(rows) / scale, W_O
    if (tail := frozen_norms.attention_tail(block)) is not None:  # a norm between the heads and the residual
        heads = torch.einsum("nhd,hdm->nm", z.float(), W_O)
        behind = frozen_norms.affine(tail, final)
        size = behind.scale(heads.to(final.dtype)).mean()
        read, written = behind.pull(read) / size, behind.centered(W_O) * behind.gain / size
    bias = rows @ norm.bias
    if subject.b_U is not None:
        bias = bias + subject.b_U.float()[slice(None) if words is None else words]
    weights = {"weight": W_O @ read.T * anatomy.multiplier(block), "bias": bias}
    if words is None:
        return weights
    map_of_all = norm.centered(written) * norm.gain / scale * anatomy.multiplier(block)
    return with_others(subject, weights | {"words": words, "map": map_of_all, "shift": norm.bias}, z)


def logits(weights: Weights, z: Float[Tensor, "n h d_head"], subject: Any = None) -> Float[Tensor, "n vocab"]:
    """The lens of the whole layer: the sum over its heads, and the bias. subject: for words without own maps."""
    said = _said(weights, z)
    return said if "words" not in weights else spread(subject, weights, said, z)


def _said(weights: Weights, z: Float[Tensor, "n h d_head"]) -> Float[Tensor, "n words"]:
    return z.float().flatten(1) @ weights["weight"].flatten(0, 1) + weights["bias"]


def head_logits(weights: Weights, z: Float[Tensor, "n h d_head"], head: int) -> Float[Tensor, "n words"]:
    """What one head adds to `logits` of the words with maps of their own; the bias belongs to none."""
    own = len(weights["words"]) if "words" in weights else None
    return z[:, head].float() @ weights["weight"][head][:, :own]


def train(
    subject: Any,
    layer: int,
    z: Float[Tensor, "n h d_head"],
    final: Float[Tensor, "n d"],
    descent: Descent,
    checkpoint: Path,
    chosen: Chosen | None = None,
) -> tuple[Weights, list[float]]:
    """The lens of one layer, and the loss of every step. z, final: the same positions, kept from one forward.

    chosen: the words with maps of their own; None for all.
    """
    target = whole_target(subject, final) if chosen is None else chosen.target(subject, final)
    begun = start(subject, layer, z, final, None if chosen is None else chosen.words)
    learned = {name: begun.pop(name) for name in ("weight", "bias")}

    def loss(weights: Weights, rows: Tensor) -> Tensor:
        return kl_to(target(rows), _said(weights, z[rows]))

    with frozen(subject.model):
        what, at_once = f"attention lens, layer {layer}", rows_at_once(len(learned["bias"]))
        weights, losses = descend(learned, loss, len(z), descent, checkpoint, what, at_once)
    return weights | begun, losses
