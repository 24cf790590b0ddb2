"""Weights kept in 8 or 4 bits by bitsandbytes, computed with as the numbers that they stand for.

Only weights are rounded. LLM.int8's own product rounds activations too, and sets apart the outliers of a whole batch:
an example's numbers would depend on its neighbours, and two exact ways to one number would part at every rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...data.errors import UserError

METHODS = ("int8", "nf4")
INSTALL = "quantised weights need bitsandbytes: pip install 'crosslens[quantized]'"


def packing(quantize: str | None) -> dict[str, Any]:
    """What `from_pretrained` is told so that linear layers are packed while they are read; nothing for None.

    UserError: another method, or no bitsandbytes.
    """
    if quantize is None:
        return {}
    if quantize not in METHODS:
        raise UserError(f"unknown quantize {quantize!r}: {' or '.join(METHODS)}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(INSTALL) from error
    from transformers import BitsAndBytesConfig

    asked: dict[str, Any] = {"load_in_8bit": True} if quantize == "int8" else {"load_in_4bit": True}
    return {"quantization_config": BitsAndBytesConfig(**asked, bnb_4bit_quant_type="nf4")}


def open_packed(model: Any) -> None:
    """Lets every packed layer compute x · W + b, W as `weight_of` reads it; other models are left as they are.

    UserError: none of the linear layers was packed.
    """
    layers = list(_packed_layers(model))
    for layer in layers:
        layer.reads_as = model.dtype
        # Where accelerate stands in front of a layer, it calls what it found there.
        setattr(layer, "_old_forward" if hasattr(layer, "_old_forward") else "forward", partial(_forward, layer))
    if not layers:
        raise UserError(f"{type(model).__name__} has no linear layer that bitsandbytes packs: open it as it is")


def is_opened(layer: nn.Module) -> bool:
    """Whether a layer's packed weight is read by `weight_of`."""
    return hasattr(getattr(layer, "base_layer", layer), "reads_as")


def weight_of(layer: Any) -> Tensor:
    """The weight that an opened layer computes with, [out, in], in the model's dtype; an adapter's share is in it."""
    if hasattr(layer, "base_layer"):
        shares = [layer.get_delta_weight(name) for name in layer.active_adapters]
        weight = weight_of(layer.base_layer)
        return (weight.float() + torch.stack(shares).float().sum(0)).to(weight.dtype)
    if hasattr(layer.weight, "SCB"):  # int8: of each row, its largest |value| stands for 127
        return (layer.weight.data * (layer.weight.SCB / 127)[:, None]).to(layer.reads_as)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.reads_as)


def _packed_layers(model: nn.Module) -> Iterator[Any]:
    kinds = ("Int8Params", "Params4bit")
    return (layer for layer in model.modules() if type(getattr(layer, "weight", None)).__name__ in kinds)


def _forward(layer: Any, states: Tensor) -> Tensor:
    product = _Product.apply(states, layer)
    return product if layer.bias is None else product + layer.bias


class _Product(torch.autograd.Function):
    """x · Wᵀ, W unpacked for its use and again on the way back: a graph never holds the weights of all layers."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: Any) -> Any:
        ctx.layer = layer
        return states @ weight_of(layer).to(states.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        return gradient @ weight_of(ctx.layer).to(gradient.dtype), None
