"""What a head reads and promotes, from its weights alone: the OV circuit between embeddings and unembeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.model import frozen_norms
from ...probes.model.head import along_words, few_words, head_parts, in_rows, times_words
from ...probes.observe.gates import require_no_gate
from ..common.head_weights import value_circuit


@torch.no_grad()
def promoted(subject: Any, directions: int, words: int) -> dict[str, Tensor]:
    """reads_ids, promotes_ids (and _values) [layers, h, directions, words]: the tokens whose embedding (of length 1),
    or unembedding behind the final norm's gain, lies most along the largest singular directions of W_V · W_O;
    strength [layers, h, directions]: each direction's share of Σ s²; copying [layers, h]: Σ Re λ / Σ |λ| of
    W_E · W_V · W_O · W_U. NaN (ids: 0) in layers without heads.

    Through TransformerLens' FactoredMatrix. A pair of directions has no sign: that of the strongest embedding is taken.
    """
    from transformer_lens import FactoredMatrix

    require_no_gate(subject, "the value circuit")

    W_E = subject.model.get_input_embeddings().weight
    # The norm in front of a layer takes a word's length away.
    length = torch.cat([part.float().norm(dim=-1) for part in few_words(W_E)]).clamp_min(1e-12)
    norm = frozen_norms.affine(subject.norm, head_parts(subject.model)[0][0].detach())
    # [d, d], from what is written to what is read, over the whole vocabulary.
    between = norm.pull(_between(subject.model, W_E).T).T
    layers = []
    for layer in subject.decoder.attending:
        values, out = value_circuit(subject, layer)
        reads, sizes, writes = FactoredMatrix(values, out).svd()
        eigenvalues = FactoredMatrix(values, out @ between).eigenvalues
        reads, writes = reads[..., :directions].mT, writes[..., :directions].mT  # [h, directions, d]
        behind = norm.centered(writes) * norm.gain
        both = reads.flatten(0, 1), behind.flatten(0, 1)
        read = in_rows(partial(_words_along, subject.model, W_E, length, words), subject.model, *both)
        tops = {name: values.unflatten(0, reads.shape[:2]) for name, values in read.items()}
        layers.append(
            tops
            | {"strength": (sizes.square() / sizes.square().sum(-1, keepdim=True))[..., :directions]}
            | {"copying": eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)}
        )
    return {name: _in_all_layers(subject, [layer[name] for layer in layers]) for name in layers[0]}


def _between(model: Any, W_E: Tensor) -> Float[Tensor, "d d"]:
    """W_Uᵀ · W_E, float32, a few words at a time."""
    weight, _, scale = head_parts(model)
    total = torch.zeros(weight.shape[1], W_E.shape[1], device=weight.device)
    for unembeddings, embeddings in zip(few_words(weight), few_words(W_E), strict=True):
        total += unembeddings.float().T @ embeddings.float()
    return total * scale


def _words_along(
    model: Any, W_E: Tensor, length: Tensor, words: int, reads: Float[Tensor, "n d"], writes: Float[Tensor, "n d"]
) -> dict[str, Tensor]:
    """The words [n, words] that lie most along pairs of directions, turned to the strongest embedding's side."""
    along = {"reads": times_words(reads, W_E) / length, "promotes": along_words(model, writes)}
    sign = along["reads"].gather(-1, along["reads"].abs().argmax(-1, keepdim=True)).sign()
    tops = {side: (logits * sign).topk(words, -1) for side, logits in along.items()}
    ids = {f"{side}_ids": top.indices.int() for side, top in tops.items()}
    return ids | {f"{side}_values": top.values for side, top in tops.items()}


def _in_all_layers(subject: Any, parts: list[Tensor]) -> Tensor:
    """[layers, ...] of the layers that have heads; NaN, or the id 0, in the others."""
    nothing = torch.nan if parts[0].is_floating_point() else 0
    whole = parts[0].new_full((subject.n_layers, *parts[0].shape), nothing)
    whole[subject.decoder.attending] = torch.stack(parts)
    return whole
