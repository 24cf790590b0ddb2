"""The slow way, without crosslens: an eager copy called as a user would, with edits made by hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

Change = Callable[[Tensor], Tensor]


class Plain:
    """An eager model whose layers are told by their names in a subject's model.

    masks: layer -> change of the attention mask. reads: layer -> change of what W_O reads.
    states, reads, patterns: of the last forward, by layer.
    """

    def __init__(self, model: Any, layers: list[str], projections: dict[int, str]):
        self.model = model
        self.layers = [model.get_submodule(name) for name in layers]
        self.projections = {i: model.get_submodule(name) for i, name in projections.items()}
        self.owner = {id(module): i for i, layer in enumerate(self.layers) for module in layer.modules()}
        self.masks: dict[int, Change] = {}
        self.states: dict[int, Tensor] = {}
        self.reads: dict[int, Tensor] = {}
        self.patterns: dict[int, Tensor] = {}
        AttentionInterface.register("plain", self.attention)
        AttentionMaskInterface.register("plain", eager_mask)
        for module in (model.get_decoder() or model).modules():
            config = getattr(module, "config", None)
            if hasattr(config, "_attn_implementation"):
                config._attn_implementation = "plain"

    def attention(self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask, **more: Any) -> Any:
        """The family's own eager attention, with an edit of its mask."""
        layer, mask = self.owner.get(id(module)), attention_mask
        if layer in self.masks:
            mask = self.masks[layer](mask)
        if more.get("indices") is not None and mask is not None:
            # Sparse indexers put their choice into the mask of "eager" and "sdpa" alone, by these names.
            unread = torch.ones(len(query), query.shape[2], key.shape[2], dtype=torch.bool)
            unread = unread.scatter(-1, more["indices"].long(), False)[:, None]
            mask = mask.masked_fill(unread, torch.finfo(mask.dtype).min)
        more.pop("output_attentions", None)
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", sdpa_attention_forward)
        z, pattern = eager(module, query, key, value, mask, **more)
        if layer is not None and pattern is not None:
            self.patterns[layer] = pattern
        return z, pattern

    @torch.no_grad()
    def logits(self, given: dict[str, Tensor], reads: dict[int, Change] | None = None) -> Tensor:
        """Float[Tensor, "b p vocab"] of a forward; what the layers and W_O read is kept."""
        with ExitStack() as hooks:
            for i, layer in enumerate(self.layers):
                hooks.callback(layer.register_forward_pre_hook(self._state(i), with_kwargs=True).remove)
            for i, projection in self.projections.items():
                change = (reads or {}).get(i, lambda read: read)
                hooks.callback(projection.register_forward_pre_hook(self._read(i, change)).remove)
            return logits_of(self.model(**given, use_cache=False))

    def _state(self, i: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            self.states[i] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    def _read(self, i: int, change: Change) -> Callable[..., Any]:
        def hook(module: Any, args: Any) -> Any:
            self.reads[i] = args[0].clone()
            return (change(args[0]), *args[1:])

        return hook


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output."""
    found = output.logits if hasattr(output, "logits") else output[0]
    return found if isinstance(found, Tensor) else found[0]
