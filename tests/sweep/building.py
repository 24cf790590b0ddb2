"""A tiny random model of a type, and two sets of inputs for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from .exceptions import VARIANTS, exceptions
from .pictures import N, image_inputs
from .shrinking import WORDS, tiny_config

POSITIONS = 12
REGISTERED = {
    "text": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "vision": (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
}
Type = tuple[str, str, str]  # "text" or "vision", transformers' name, variant ("" for the type's own defaults)
# A variant of these in half precision, as their checkpoints are kept. Not gpt_oss and qwen3_moe: with four experts, in
# one row of 24, two right forwards round to different ones, and no number says which is right.
HALF = "bfloat16"
IN_HALF = {
    "text": "llama qwen2 qwen3 gemma2 gemma3_text mistral mixtral phi3 olmo2 cohere2 smollm3 granite glm4 "
    "gpt_neox gpt2 deepseek_v3 llama4_text qwen3_next qwen3_5_text lfm2",
    "vision": "llava llava_onevision qwen2_5_vl qwen3_vl gemma3 internvl idefics3 paligemma mistral3",
}


def all_types() -> list[Type]:
    """Every type registered for causal language models or for image-text-to-text, its variants, some in bfloat16."""
    types = [(kind, name) for kind, (_, names) in REGISTERED.items() for name in names]
    half = [(kind, name, HALF) for kind, names in IN_HALF.items() for name in names.split()]
    return [(*one, variant) for one in types for variant in ("", *VARIANTS.get(one, ()))] + half


def build(one: Type, implementation: str | None = None) -> Any:
    """The tiny model; the same weights for every attention implementation."""
    kind, name, variant = one
    config = tiny_config(name, exceptions(kind, name, variant if variant != HALF else ""))
    torch.manual_seed(0)
    options = {} if implementation is None else {"attn_implementation": implementation}
    model = enlivened(REGISTERED[kind][0].from_config(config, **options)).eval()
    return model.to(torch.bfloat16) if variant == HALF else model


@torch.no_grad()
def enlivened(model: nn.Module) -> nn.Module:
    """Weights away from zero and gains away from one: else wrong wiring would not show."""
    torch.manual_seed(1)
    for name, parameter in sorted(model.named_parameters()):
        if not bool((parameter.abs() > 1e-4).any() & torch.isfinite(parameter).all()):
            nn.init.normal_(parameter, std=0.02)
        noise = torch.randn_like(parameter) * 0.1
        if any(part in name for part in ("A_log", "dt_bias")):
            parameter.add_(noise)
        elif parameter.dim() > 1:
            parameter.mul_(5)
        else:
            parameter.add_(10 * noise if "sinks" in name else noise)
    parameters = dict(model.named_parameters())
    for name, buffer in sorted(model.state_dict().items()):  # saved ones: Gemma 4's layer scalar, routers' biases
        own = name in parameters or "running" in name or "vision" in name or "audio" in name
        if not own and buffer.is_floating_point() and buffer.numel():
            buffer.add_(torch.randn_like(buffer) * 0.1)
    return model


def inputs(one: Type, model: Any, seed: int) -> tuple[dict[str, Tensor], str]:
    """Two prompts of one length without padding, with an image each where one can be made; and why there is none."""
    kind, name, _ = one
    if kind == "vision":
        try:
            return image_inputs(name, model, seed), ""
        except Exception as error:  # a form by hand may not fit either
            return text_inputs(seed), f"text alone: {' '.join(str(error).split())[:200]}"
    return text_inputs(seed), ""


def text_inputs(seed: int) -> dict[str, Tensor]:
    """Two prompts of random words."""
    ids = torch.randint(3, WORDS, (N, POSITIONS), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
