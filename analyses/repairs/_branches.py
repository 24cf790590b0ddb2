"""Prompts with what they show and without, as one batch: what head reinforcement compares."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...probes.model.subject import last_positions
from ...probes.prompts.image_ablation import PER_TOKEN, drop_image, image_columns, real_positions


@dataclass(frozen=True, eq=False)
class Branches:
    """The prompts with image, then without, as one batch; the last real position of each; columns to hide."""

    inputs: dict[str, Any]
    last: Tensor
    hidden: Tensor


def branches_of(subject: Any, inputs: Mapping[str, Any], image: str) -> Branches:
    """Prompts as they are given to the model, and the same without what they show."""
    whole = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and k not in _OF_THE_FORWARD}
    whole["attention_mask"] = real_positions(whole).long()
    seen = inputs.get("mm_encoder_outputs")  # `generate` runs the vision tower before the first forward
    blind = drop_image(subject, whole)[0] if image == "dropped" else {k: whole[k] for k in PER_TOKEN if k in whole}
    width = whole["input_ids"].shape[1]
    joined: dict[str, Any] = {
        name: torch.cat([whole[name], pad(blind[name], (0, width - blind[name].shape[1]))]) if name in blind else tensor
        for name, tensor in whole.items()
    }
    hidden = torch.zeros_like(joined["input_ids"], dtype=torch.bool)
    if image == "masked":
        hidden[len(whole["input_ids"]) :] = image_columns(subject, whole)
        joined |= {name: torch.cat([tensor, tensor]) for name, tensor in whole.items() if name not in PER_TOKEN}
        seen = {kind: _twice(output) for kind, output in seen.items()} if seen else None
    if seen:
        joined["mm_encoder_outputs"] = seen
    places = inputs.get("position_ids")
    if places is not None:
        texts = (joined["attention_mask"][len(hidden) // 2 :].cumsum(1) - 1).clamp(min=0).expand_as(places)
        joined["position_ids"] = torch.cat([places, places if image == "masked" else texts], -2)
    return Branches(joined, last_positions(joined["input_ids"], joined["attention_mask"]), hidden)


_OF_THE_FORWARD = ("position_ids", "cache_position", "labels", "logits_to_keep")


def _twice(output: Any) -> Any:
    """A vision tower's output for every image twice: features by image, and Qwen3-VL's by layer."""
    double = copy(output)
    features = output.pooler_output
    double.pooler_output = torch.cat([features] * 2) if isinstance(features, Tensor) else [*features, *features]
    if getattr(output, "deepstack_features", None) is not None:
        double.deepstack_features = [
            torch.cat([layer, layer]) if isinstance(layer, Tensor) else (*layer, *layer)
            for layer in output.deepstack_features
        ]
    return double
