"""Parts of a sum, and edits that steer."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics


def route_contributions(parts, residual, threshold):
    shares = metrics.route_shares(parts, residual)
    strong = metrics.strong_routes(shares, threshold)
    return {
        "whole": parts.sum(0) + residual,
        "parts": shares.parts,
        "residual": shares.residual,
        "parts_after_threshold": strong.parts,
        "residual_after_threshold": strong.residual,
    }


def difference_of_means(positive, negative, x, alpha):
    direction = metrics.difference_of_means(positive, negative)
    unit = direction / direction.norm()
    return {
        "direction": direction,
        "unit": unit,
        "added": x + alpha * direction,
        "ablated": metrics.project_out(x, direction),
        "x_along_unit": x @ unit,
        "separation_d_prime": direction @ unit,  # in raw units
        "pooled_std_along_unit": metrics.spread_along(positive, negative, direction),
    }


def lofit(z, A, v, k):
    strength = metrics.edit_strength(A)
    shifted = metrics.edit_heads(z + 1, A, v) - metrics.edit_heads(z, A, v) - (1 + A)
    return {
        "edited": metrics.edit_heads(z, A, v),
        "head_score": strength,
        "top_heads": metrics.ranks(strength).argsort()[:k],
        "l1_penalty": A.abs().sum(),
        "offset_in_residual_is_constant": bool(shifted.abs().max() < 1e-5),
    }


def pasta(scores, v, highlighted_spans, prompt_length, alpha):
    n = torch.arange(len(scores))
    spans = [(n >= start) & (n < end) for start, end in highlighted_spans.tolist()]
    prompt, union = n < prompt_length, torch.stack(spans).any(0)
    steered = metrics.emphasize_keys(scores, union, prompt, alpha).softmax(-1)
    released = scores  # its slip: ln α once per span
    for span in spans:
        released = metrics.emphasize_keys(released, span, prompt, alpha)
    return {
        "pattern_union": steered,
        "z_union": steered @ v,
        "pattern_released_two_spans": released.softmax(-1),
        "pattern_first_span_alone": metrics.emphasize_keys(scores, spans[0], prompt, alpha).softmax(-1),
    }
