"""Every part's share in a logit, and the words that each head raises."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...probes.model import frozen_norms
from ...probes.model.head import along_words, few_words, head_parts, in_rows


@torch.no_grad()
def attribute(subject: Any, kept: dict[str, Tensor], directions: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Every part's share in `directions` · norm(final) + bias. directions: [b, n, d]; bias: [b, n]."""
    kept = {name: tensor.to(directions.device) for name, tensor in kept.items()}
    final = kept["final"][:, 0]
    norm = frozen_norms.affine(subject.norm, final)
    read = norm.pull(directions) / norm.scale(final)[:, None]
    z = kept["z"]
    heads = read.new_full((*read.shape[:2], *z.shape[1:3]), torch.nan)  # and so it stays in layers without heads
    biases = heads[..., 0].clone()
    for layer in subject.decoder.attending:
        written, rest = frozen_norms.written_by_heads(subject, layer, z[:, layer])
        heads[:, :, layer] = torch.einsum("bhd,bnd->bnh", written, read)
        biases[:, :, layer] = torch.einsum("bd,bnd->bn", rest, read)
    mixer = {"mixer": torch.einsum("bld,bnd->bnl", kept["mixer"].float(), read)} if "mixer" in kept else {}
    return mixer | {
        "heads": heads,
        "attention bias": biases,
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
    scale, device = norm.scale(final), subject.device
    # What is taken off every word: the mean logit, which a direction of its own reads.
    mean = _mean_word(subject)
    b, layers, n_heads, _ = kept["z"].shape
    ids = torch.zeros(b, layers, n_heads, count, dtype=torch.int32, device=device)
    logits = torch.full(ids.shape, torch.nan, device=device)  # and so it stays in layers without heads
    for layer in subject.decoder.attending:
        heads, _ = frozen_norms.written_by_heads(subject, layer, kept["z"][:, layer].to(subject.device))
        seen = norm.centered(heads) * norm.gain / scale[:, None]
        top = in_rows(partial(_most_raised, subject, mean, count), subject.model, seen.flatten(0, 1))
        ids[:, layer] = top["ids"].unflatten(0, (b, n_heads)).int()
        logits[:, layer] = top["logits"].unflatten(0, (b, n_heads))
    return {"word_ids": ids, "word_logits": logits}


def _most_raised(subject: Any, mean: Tensor, count: int, seen: Tensor) -> dict[str, Tensor]:
    """The likeliest words of what heads write, [n, d] behind the norm, against the mean over all words."""
    top = (along_words(subject.model, seen) - (seen @ mean)[:, None]).topk(count, -1)
    return {"ids": top.indices, "logits": top.values}


def _mean_word(subject: Any) -> Tensor:
    """The mean row of W_U [d], float32."""
    weight, _, scale = head_parts(subject.model)
    sums = torch.stack([part.float().sum(0) for part in few_words(weight)])
    return sums.sum(0) / len(weight) * scale
