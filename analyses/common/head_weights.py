"""What a head is without prompts: the OV and the QK circuit, norms folded in, float32; scales that depend on the input,
and biases, are left out (Elhage et al. 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.model import frozen_norms
from ...probes.model.head import head_parts
from ...probes.model.head_weights import key_weight, query_weight, value_weight

Factors = tuple[Float[Tensor, "h d d_head"], Float[Tensor, "h d_head d"]]


@torch.no_grad()
def value_circuit(subject: Any, layer: int) -> Factors:
    """W_V with the layer's input norm folded in (its gain; LayerNorm's centering) and W_O, of every head.

    A norm behind the attention gives its gain to W_O. SubjectError: values that are normed, or are not found.
    """
    values, out = _read(subject, layer, value_weight(subject, layer)), subject.W_O(layer).detach().float()
    if (tail := frozen_norms.attention_tail(subject.layers[layer])) is not None:
        behind = frozen_norms.affine(tail, _like(subject))
        out = behind.centered(out) * behind.gain
    return values, out


@torch.no_grad()
def score_circuit(subject: Any, layer: int) -> Factors:
    """W_Q and W_Kᵀ with the layer's input norm folded in; rotary positions are left out: it is distance 0.

    SubjectError: queries or keys that are normed, or are not found.
    """
    queries, keys = (_read(subject, layer, weight(subject, layer)) for weight in (query_weight, key_weight))
    return queries, keys.mT


def _read(subject: Any, layer: int, weight: Tensor) -> Tensor:
    """What the residual in front of the norm is read by."""
    norm = frozen_norms.input_norm(subject.layers[layer])
    return weight.float() if norm is None else frozen_norms.affine(norm, _like(subject)).pull(weight.float().mT).mT


def _like(subject: Any) -> Tensor:
    return head_parts(subject.model)[0][0].detach()
