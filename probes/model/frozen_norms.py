"""Norms read as linear maps at a given scale: what is linear in a layer.

A norm divides by a scale that depends on its input; with that scale held at the value it has, it is affine:
norm(x) = gain · (x − mean x) / scale(x) + bias, the mean taken off in LayerNorm only. Its parts are probed, not read
by name: families keep them differently (Gemma's gain is 1 + weight).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...data.errors import SubjectError
from . import anatomy

INPUT_NORM = ("input_layernorm", "ln_1", "self_attn_layer_norm")


@dataclass(frozen=True, eq=False)
class Affine:
    """A norm's parts. gain, bias: [d], float32. centers: whether the mean is taken off first."""

    norm: Callable[[Tensor], Tensor]
    gain: Float[Tensor, "d"]
    bias: Float[Tensor, "d"]
    centers: bool

    def centered(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centers else x

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        """What the norm divides x by: read off its own output, eps and all; infinite where x is nothing (padding)."""
        ahead = self.centered(x.float()) * self.gain
        out = self.norm(x).float() - self.bias
        scale = (ahead * ahead).sum(-1, keepdim=True) / (ahead * out).sum(-1, keepdim=True)
        return scale.where(ahead.any(-1, keepdim=True), torch.inf)

    def share(self, part: Float[Tensor, "*b d"], whole: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """What `part` of `whole` adds behind the norm, the scale held at that of `whole`.

        The shares of parts that sum to `whole`, and the bias, sum to norm(whole).
        """
        return self.centered(part.float()) * self.gain / self.scale(whole)

    def pull(self, direction: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The direction before the norm that reads, divided by the scale, what `direction` reads behind it."""
        return self.centered(direction * self.gain)


@torch.no_grad()
def affine(norm: nn.Module, like: Tensor) -> Affine:
    """The parts of a norm module. like: a tensor of its width, type and device. SubjectError: not such a norm."""
    signs = torch.ones_like(like.reshape(-1, like.shape[-1])[0])
    signs[1::2] = -1  # mean 0 and root mean square 1, so the scale is 1 but for eps, which a large factor hides
    up, down = (norm(sign * 1e4 * signs).float() for sign in (1, -1))
    gain, bias = (up - down) / 2 * signs.float(), (up + down) / 2
    lifted = norm(1e4 * (signs + 1)).float() - bias
    centers = bool((lifted[1::2].abs() > 0.5 * gain[1::2].abs()).any())
    found = Affine(norm, gain, bias, centers)
    trial = torch.linspace(-1, 1, like.shape[-1]).to(like) * 1e3 + signs
    expected = found.centered(trial.float()) * gain / found.scale(trial) + bias
    if (norm(trial).float() - expected).abs().max() > 1e-2 * expected.abs().max():
        raise SubjectError(f"{type(norm).__name__} is not a norm that can be held at a scale")
    return found


def attention_tail(layer: nn.Module) -> nn.Module | None:
    """The norm between the output projection and the residual, in families that have one."""
    writer = anatomy.attention_writer(layer)
    return None if writer is anatomy.attention_of(layer) else writer


def input_norm(layer: nn.Module) -> nn.Module | None:
    """The norm in front of the attention; None in families that norm behind it (OLMo 2)."""
    return next((getattr(layer, name) for name in INPUT_NORM if hasattr(layer, name)), None)


def written_by_heads(subject: Any, layer: int, z: Float[Tensor, "n h d_head"]) -> tuple[Tensor, Tensor]:
    """What each head of a layer adds to the residual [n, h, d], and what biases add [n, d]; they sum to attn_out.

    A norm behind the output projection is held at the scale that it has for the sum. float32. SubjectError: a layer
    where something else is added with the heads, or behind which the residual stream is scaled.
    """
    heads = torch.einsum("nhd,hdm->nhm", z.float(), subject.W_O(layer).detach().float())
    reach, bias = behind_projection(subject, layer, heads.sum(1), z.dtype)
    return reach(heads), bias


def behind_projection(
    subject: Any, layer: int, heads: Float[Tensor, "n d"], dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """How a part [n, …, d] of what heads give behind W_O, `heads` their sum, reaches the residual, and what biases add
    [n, d]. dtype: the layer's, in which its norm reads. SubjectError as in `written_by_heads`.
    """
    _require_own_shares(subject, layer)
    block = subject.layers[layer]
    bias, gain = anatomy.output_bias(block), anatomy.gain(block, "attn_out")
    bias = torch.zeros_like(heads) if bias is None else bias.float().expand_as(heads)
    tail = attention_tail(block)
    if tail is None:
        return partial(anatomy.times, gain=gain), anatomy.times(bias, gain)
    held, whole = affine(tail, heads.new_zeros(heads.shape[-1], dtype=dtype)), (heads + bias).to(dtype)
    scale = held.scale(whole)

    def reach(parts: Tensor) -> Tensor:
        between = [1] * (parts.ndim - 2)
        return anatomy.times(held.centered(parts) * held.gain / scale.reshape(-1, *between, 1), gain)

    return reach, anatomy.times(held.share(bias, whole) + held.bias, gain)


def _require_own_shares(subject: Any, layer: int) -> None:
    if anatomy.earlier_writers(subject.layers[layer], "attn_out"):
        raise SubjectError(f"in layer {layer} another mixer is added to what the heads write")
    for i, block in enumerate(subject.layers[layer:], layer):
        if not all(map(anatomy.is_one, anatomy.carries(block))):
            raise SubjectError(f"layer {i} scales the whole residual stream, and with it what was written before")
