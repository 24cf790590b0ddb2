"""Every part's share in a logit, and the words that each head raises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...probes.model import frozen_norms


@torch.no_grad()
def attribute(subject: Any, kept: dict[str, Tensor], directions: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Every part's share in `directions` · norm(final) + bias. directions: [b, n, d]; bias: [b, n]."""
    kept = {name: tensor.to(directions.device) for name, tensor in kept.items()}
    final = kept["final"][:, 0]
    norm = frozen_norms.affine(subject.norm, final)
    read = norm.pull(directions) / norm.scale(final)[:, None]
    heads, biases = [], []
    for layer, z in enumerate(kept["z"].unbind(1)):
        written, rest = frozen_norms.written_by_heads(subject, layer, z)
        heads.append(torch.einsum("bhd,bnd->bnh", written, read))
        biases.append(torch.einsum("bd,bnd->bn", rest, read))
    return {
        "heads": torch.stack(heads, 2),
        "attention bias": torch.stack(biases, 2),
        "mlp": torch.einsum("bld,bnd->bnl", kept["mlp"].float(), read),
        "embedding": torch.einsum("bd,bnd->bn", kept["embedding"][:, 0].float(), read),
        "final bias": directions @ norm.bias + bias,
        "logit": torch.einsum("bd,bnd->bn", subject.norm(final).float(), directions) + bias,
    }


@torch.no_grad()
def head_words(subject: Any, kept: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The tokens that each head's output raises most, one layer's logits alive at a time."""
    final = kept["final"][:, 0].to(subject.device)
    norm = frozen_norms.affine(subject.norm, final)
    W_U = subject.W_U.float()
    mean, scale = W_U.mean(0), norm.scale(final)
    ids, logits = [], []
    for layer, z in enumerate(kept["z"].unbind(1)):
        heads, _ = frozen_norms.written_by_heads(subject, layer, z.to(subject.device))
        seen = norm.centered(heads) * norm.gain / scale[:, None]
        top = [(one @ W_U.T - (one @ mean)[:, None]).topk(count, -1) for one in seen]
        ids.append(torch.stack([t.indices for t in top]).int())
        logits.append(torch.stack([t.values for t in top]))
    return {"word_ids": torch.stack(ids, 1), "word_logits": torch.stack(logits, 1)}
