"""A tiny LLaVA with one head, 1.0, whose words look at white patches; all other heads look at everything alike."""

from __future__ import annotations

from typing import Any

import torch
from crosslens import Subject
from crosslens.analyses.look.asking import BLANK
from PIL import Image

from .painting import GREY, WHITE, prepared
from .vision_subjects import build

SIDE, PATCH = 24, 4  # px: 6 × 6 patches
LAYER, HEAD, SHARP = 1, 0, 40.0
SEEN, WORD = 0, 1  # dimensions of the residual: a white patch, a word


@torch.no_grad()
def subject() -> Subject:
    """The projector writes SEEN for white patches and nothing for greys up to BLANK; no layer writes anything."""
    opened = prepared(*build("llava"))
    model: Any = opened.model
    for name, parameter in model.model.vision_tower.named_parameters():
        if "position_embedding" in name:
            parameter.zero_()
    _see_white(model.model)
    words = model.get_input_embeddings().weight
    words[:, SEEN], words[:, WORD] = 0, 1
    for index, layer in enumerate(opened.layers):
        layer.input_layernorm.weight.fill_(1)
        attention = layer.self_attn
        for part in (attention.q_proj, attention.k_proj, attention.o_proj, layer.mlp.down_proj):
            part.weight.zero_()
        if index == LAYER:
            slow = opened.d_head // 2 - 1  # the pair of dimensions that turns least from place to place
            attention.q_proj.weight[HEAD * opened.d_head + slow, WORD] = SHARP
            attention.k_proj.weight[slow, SEEN] = SHARP
    return opened


def _see_white(inner: Any) -> None:
    grey, white = (_feature(inner, colour) for colour in (BLANK, WHITE))
    apart = (white - grey) / (white - grey).square().sum()
    first, second = inner.multi_modal_projector.linear_1, inner.multi_modal_projector.linear_2
    for part in (first, second):
        part.weight.zero_()
        part.bias.zero_()
    first.weight[0] = 40 * apart
    first.bias[0] = -40 * apart @ (white + grey) / 2
    second.weight[SEEN, 0] = 1


def _feature(inner: Any, colour: tuple[int, int, int]) -> torch.Tensor:
    """What the tower says of a patch in the middle of a picture of one colour."""
    pixels = (torch.tensor(colour) / 255 - 0.5) / 0.5
    seen = inner.vision_tower(pixels[None, :, None, None].expand(1, 3, SIDE, SIDE), output_hidden_states=True)
    return seen.hidden_states[inner.config.vision_feature_layer][0, 1:].mean(0)


def picture(row: int, column: int) -> Image.Image:
    """Grey with one white patch."""
    made = Image.new("RGB", (SIDE, SIDE), GREY)
    made.paste(WHITE, (column * PATCH, row * PATCH, (column + 1) * PATCH, (row + 1) * PATCH))
    return made
