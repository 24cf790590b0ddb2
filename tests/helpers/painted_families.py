"""Tiny subjects of more families: transformers' tiny model and its processor, cut down to the model's sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..sweep.building import build
from .processor_checkpoints import opened

SQUARE = {"height": 16, "width": 16}
PIXELS = {"size": {"shortest_edge": 256, "longest_edge": 1024}, "patch_size": 4}
# Family -> settings of its image processor, settings of its processor.
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma4": ({"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}, {}),
    "ovis2": ({"size": SQUARE, "crop_to_patches": True, "max_patches": 6}, {"image_seq_length": 16}),
    "granite_docling": ({"size": SQUARE, "max_patches": 6}, {"image_seq_len": 1}),
    "minicpmv4_6": ({"patch_size": 4, "scale_resolution": 32, "max_slice_nums": 4}, {}),
    "lighton_ocr": (
        {"patch_size": {"height": 4, "width": 4}, "size": {"longest_edge": 32}},
        {"patch_size": 4, "effective_patch_size": 8},
    ),
    "paddleocr_vl": (PIXELS, {}),
    "video_llama_3": (PIXELS, {}),
    "glm46v": ({**PIXELS, "size": {"shortest_edge": 256, "longest_edge": 2048}}, {}),
    "exaone4_5": (PIXELS, {}),
    "cosmos3_edge": (PIXELS, {}),
    "janus": ({"size": SQUARE, "min_size": 2}, {"num_image_tokens": 16}),
    "deepseek_vl": ({"size": SQUARE, "min_size": 2}, {"num_image_tokens": 16}),
    "vipllava": (
        {"size": {"shortest_edge": 16}, "crop_size": SQUARE},
        {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
}
# Placeholders of the model that are not the processor's own, with the tokens around them.
HELD = {"ovis2": ["<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]}


def build_painted(family: str, home: Path) -> tuple[Any, Any]:
    """Model and processor of one of SETTINGS."""
    processor, model = opened(family, home), build(("vision", family, ""))
    of_images, own = SETTINGS[family]
    for owner, settings in ((processor.image_processor, of_images), (processor, own)):
        for name, value in settings.items():
            setattr(owner, name, value)
    held = HELD.get(family, [str(processor.image_token)])
    processor.tokenizer.add_tokens(held, special_tokens=True)
    for end in ("id", "index"):
        if hasattr(model.config, f"image_token_{end}"):
            setattr(model.config, f"image_token_{end}", processor.tokenizer.convert_tokens_to_ids(held[0]))
    return model, processor
