"""The language model on packed rows: its own layers and weights, in bfloat16, with our masks and positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from .packs import NOTHING, Pack
from .patches import features

NAME = "crosslens_training"


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention in the open: with a mask and short rows, its backward is several times faster than SDPA's on a CPU."""
    batch, heads, length, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, width)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, length).float() * scaling
    pattern = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(value.dtype)
    z = pattern.view(batch, key.shape[1], -1, length) @ value
    return z.view(batch, heads, length, width).transpose(1, 2), None


class Reader:
    """The whole model as a function of pictures and packed rows.

    dtype: of the language model. compiled: its layers go through torch.compile (once per shape, a minute).
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.bfloat16, *, compiled: bool = False) -> None:
        self.model, self.dtype = model, dtype
        self.language, self.head = model.model.language_model.to(dtype), model.lm_head.to(dtype)
        AttentionInterface.register(NAME, attention)
        self.attention = NAME
        model.set_attn_implementation({"text_config": NAME})
        if compiled:
            for layer in self.language.layers:
                layer.compile(dynamic=False)

    def states(self, packed: Pack, images: Tensor) -> Tensor:
        """Final states [b, p, d] after the norm; the first rows of the pack have the images, in order."""
        embedded = self.language.embed_tokens(packed.ids).detach()
        shown = self.model.model.multi_modal_projector(features(self.model, images)).to(self.dtype)
        n, width = shown.shape[:2]
        rows = torch.cat([embedded[:n, :1], shown, embedded[:n, 1 + width :]], 1)
        return self.run(torch.cat([rows, embedded[n:]]), packed.mask(), packed.positions)

    def run(self, states: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """The layers and the final norm."""
        turned = self.language.rotary_emb(states, positions)
        for layer in self.language.layers:
            states = layer(states, attention_mask=mask, position_ids=positions, position_embeddings=turned)
        return self.language.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """float32 logits of states."""
        return self.head(states).float()

    @torch.no_grad()
    def correct(self, packed: Pack, images: Tensor) -> dict[tuple[int, int], bool]:
        """Row and part -> whether greedy decoding says exactly the answer and ends (read by teacher forcing)."""
        due = packed.labels != NOTHING
        said = self.logits(self.states(packed, images)[due]).argmax(-1)
        right = torch.ones_like(packed.labels, dtype=torch.bool)
        right[due] = said == packed.labels[due]
        return {(row, part): bool(right[row][packed.part[row] == part].all()) for row, part in packed.kinds}
