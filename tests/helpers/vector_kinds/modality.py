"""The modality budget."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics
from torch import Tensor


def _single(pattern: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One example of real tokens alone: pattern, image, mask, and the uniform pattern."""
    mask = torch.ones(1, pattern.shape[-1], dtype=torch.bool)
    return pattern[None], image.bool()[None], mask, metrics.uniform_pattern(metrics.causal_visibility(mask)).double()


def aia_intensity(pattern, image, **_):
    pattern, image, mask, uniform = _single(pattern, image)
    flows, null = (metrics.modality_flows(p, image, mask) for p in (pattern, uniform))
    values = {}
    for name in ("text_to_image", "image_to_text"):
        heads = getattr(flows, name)[0]
        values |= {f"{name}_per_head": heads, name: heads.mean(), f"uniform_{name}": getattr(null, name)[0, 0]}
    return values


def modality_flows(pattern, image):
    pattern, image, mask, uniform = _single(pattern, image)
    flows, null = (metrics.modality_flows(p, image, mask) for p in (pattern, uniform))
    values = {}
    for name, heads, floor in zip(flows._fields, flows, null, strict=True):
        mass, keys = heads.mean(), (image if name.endswith("image") else ~image).sum()
        values[name] = {"mass": mass, "mass_per_key": mass / keys, "uniform": floor[0, 0], "lift": mass / floor[0, 0]}
    return values


def yopo_head_ratio(pattern, n_before, n_image, votes, threshold, share_of_samples):
    n = pattern.shape[-1]
    image = (torch.arange(n) >= n_before) & (torch.arange(n) < n_before + n_image)
    pattern, image, mask, _ = _single(pattern, image)
    last = torch.arange(n)[None] == n - 1
    return {
        "ratio_all_rows": metrics.visual_text_ratio(pattern, image, mask, mask)[0],
        "ratio_last_row": metrics.visual_text_ratio(pattern, image, mask, last)[0],
        "votes": metrics.visual_votes(votes, threshold),
        "keep": metrics.visual_heads(votes, threshold, share_of_samples),
    }


def wings_curves(pattern, image):
    layers = [metrics.attention_around_image(*_single(layer, image)[:3]) for layer in pattern]
    before, visual, behind = (torch.stack([heads.mean() for heads in part]) for part in zip(*layers, strict=True))
    return {"before": before, "after": behind, "image": visual, "pearson": metrics.correlation(before, behind)}


def avl_overlap(rows_a, rows_b, percents):
    a, b = rows_a.mean(0), rows_b.mean(0)
    shares = {str(percent): metrics.top_token_overlap(a, b, percent) for percent in percents.tolist()}
    chance = {str(percent): int(percent * len(a) / 100) / len(a) for percent in percents.tolist()}
    return {"score_a": a, "score_b": b, "overlap": shares, "chance": chance}


def text_to_image_focus(attention, text_tokens):
    hop = metrics.one_hop_focus(attention[:, :text_tokens], attention[:, text_tokens:])
    return {"one_hop": hop, "row_mass": hop.sum(-1)}


def adaptive_token_choice(attention, threshold):
    return {"selected": metrics.attended_patches(attention, threshold)}
