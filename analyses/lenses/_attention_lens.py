"""The Attention Lens: for every head of a layer a learned linear map from its output to the vocabulary.

A map L (vocabulary × d_model) is only ever applied to what the head writes, z · W_O, so L · W_O (vocabulary × d_head)
says the same with d_model / d_head times fewer numbers: that is what is learned and kept, [h, d_head, vocab].
Trained as in arXiv 2310.16270: KL of the model's output to the softmax of the sum over the layer's heads.

How the final norm enters: as a constant linear map. The start is W_U · diag(gain) · W_O / s, with s the mean over the
training text of the scale that the final norm divides by (for LayerNorm the mean is taken off too); the norm's bias
and the head's bias start the layer's bias. So at the start the lens is what direct logit attribution says of the
layer's heads, at the mean scale. The released code starts at W_U alone; the maps that can be reached are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.model import anatomy, frozen_norms
from ._descent import Descent, Weights, descend, frozen, kl_to


@torch.no_grad()
def start(subject: Any, layer: int, z: Float[Tensor, "n h d_head"], final: Float[Tensor, "n d"]) -> Weights:
    """weight [h, d_head, vocab] and bias [vocab] before training. final: the last residual, before its norm."""
    norm = frozen_norms.affine(subject.norm, final)
    read = norm.pull(subject.W_U.float()) / norm.scale(final).mean()
    block, W_O = subject.layers[layer], subject.W_O(layer).detach().float()
    if (tail := frozen_norms.attention_tail(block)) is not None:  # a norm between the heads and the residual
        heads = torch.einsum("nhd,hdm->nm", z.float(), W_O)
        behind = frozen_norms.affine(tail, final)
        read = behind.pull(read) / behind.scale(heads.to(final.dtype)).mean()
    weight = W_O @ read.T * anatomy.multiplier(block)
    bias = subject.W_U.float() @ norm.bias
    return {"weight": weight, "bias": bias if subject.b_U is None else bias + subject.b_U.float()}


def logits(weights: Weights, z: Float[Tensor, "n h d_head"]) -> Float[Tensor, "n vocab"]:
    """The lens of the whole layer: the sum over its heads, and the bias."""
    return z.float().flatten(1) @ weights["weight"].flatten(0, 1) + weights["bias"]


def head_logits(weights: Weights, z: Float[Tensor, "n h d_head"], head: int) -> Float[Tensor, "n vocab"]:
    """What one head adds to `logits`; the bias belongs to none."""
    return z[:, head].float() @ weights["weight"][head]


def train(
    subject: Any,
    layer: int,
    z: Float[Tensor, "n h d_head"],
    final: Float[Tensor, "n d"],
    descent: Descent,
    checkpoint: Path,
) -> tuple[Weights, list[float]]:
    """The lens of one layer, and the loss of every step. z, final: the same positions, kept from one forward."""

    def loss(weights: Weights, rows: Tensor) -> Tensor:
        with torch.no_grad():
            target = subject.unembed(subject.norm(final[rows])).float().log_softmax(-1)
        return kl_to(target, logits(weights, z[rows]))

    what = f"attention lens, layer {layer}"
    with frozen(subject.model):
        return descend(start(subject, layer, z, final), loss, len(z), descent, checkpoint, what)
