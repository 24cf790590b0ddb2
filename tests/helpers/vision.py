"""Tiny random vision-language models, one per family, with inputs that hold images. They prove wiring alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from .families import SHAPE, enliven

# Ids below are words; then the ids that families give to images.
VOCAB, WORDS = 64, 56
VIDEO, START, END, IMAGE = 57, 58, 59, 60
ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
LANGUAGE: dict[str, Any] = SHAPE | {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
LOCAL = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
CLIP = TOWER | {"model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False}
INDEX, ID = {"image_token_index": IMAGE}, {"image_token_id": IMAGE}
TILES = [[8, 16], [16, 8], [16, 16]]
GRID = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
QWEN = ID | {"video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}


def _language(kind: str, **more: Any) -> dict[str, Any]:
    return LANGUAGE | {"model_type": kind} | more


VISION: dict[str, dict[str, Any]] = {
    "llava": {"text_config": _language("llama"), "vision_config": CLIP, **INDEX},
    "llava_next": {
        "text_config": _language("mistral", sliding_window=4),
        "vision_config": CLIP,
        "image_grid_pinpoints": TILES,
        **INDEX,
    },
    "llava_onevision": {
        "text_config": _language("qwen2"),
        "vision_config": SIGLIP,
        "image_grid_pinpoints": TILES,
        "video_token_index": VIDEO,
        **INDEX,
    },
    "qwen2_vl": {
        "text_config": LANGUAGE | ROTARY,
        "vision_config": GRID | {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
        **QWEN,
    },
    "qwen2_5_vl": {
        "text_config": LANGUAGE | ROTARY,
        "vision_config": GRID
        | {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "window_size": 16}
        | {"fullatt_block_indexes": [1]},
        **QWEN,
    },
    "qwen3_vl": {
        "text_config": LANGUAGE | ROTARY,
        "vision_config": GRID
        | {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "num_position_embeddings": 16}
        | {"deepstack_visual_indexes": [0, 1]},
        **QWEN,
    },
    "idefics3": {
        "text_config": _language("llama"),
        "vision_config": TOWER | {"image_size": 16},
        "scale_factor": 2,
        **ID,
    },
    "smolvlm": {
        "text_config": _language("llama"),
        "vision_config": TOWER | {"image_size": 16},
        "scale_factor": 2,
        **ID,
    },
    "internvl": {
        "text_config": _language("qwen2"),
        "vision_config": TOWER | {"image_size": [16, 16], "patch_size": [4, 4]},
        "image_seq_length": 4,
        **ID,
    },
    "gemma3": {
        "text_config": LANGUAGE | LOCAL,
        "vision_config": SIGLIP,
        "mm_tokens_per_image": 4,
        "boi_token_index": START,
        "eoi_token_index": END,
        **INDEX,
    },
    "paligemma": {
        "text_config": _language("gemma"),
        "vision_config": SIGLIP | {"projection_dim": 32},
        "projection_dim": 32,
        "hidden_size": 32,
        **INDEX,
    },
    "mistral3": {
        "text_config": _language("mistral", sliding_window=4),
        "vision_config": TOWER | {"model_type": "pixtral", "image_size": 16, "head_dim": 8},
        **INDEX,
    },
    "aya_vision": {
        "text_config": _language("cohere2", logit_scale=0.3, **LOCAL),
        "vision_config": SIGLIP | {"image_size": 16},
        **INDEX,
    },
    "glm4v": {
        "text_config": LANGUAGE | ROTARY,
        "vision_config": GRID | {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "image_size": 16},
        **ID,
        "video_token_id": VIDEO,
        "image_start_token_id": START,
        "image_end_token_id": END,
    },
}
# Families whose image rows are told apart by an extra input.
COUNTS_IMAGES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
TYPES_TOKENS = ("gemma3", "paligemma")


def build(family: str, seed: int = 0, implementation: str | None = None, **changed: Any) -> Any:
    """A tiny model of a family. The same seed gives the same weights under every attention implementation."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **VISION[family] | changed)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=implementation)
    for parameter in model.parameters():
        if not bool(parameter.any()):  # A projector that starts at zero would hide the image.
            torch.nn.init.normal_(parameter, std=0.02)
    return enliven(model).eval()


def pixels(family: str, n: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """What the vision tower of a family takes for `n` images: random pixels, sizes, grids."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if family in COUNTS_IMAGES:
        grid = torch.tensor([[1, 4, 4]]).repeat(n, 1)
        return {"pixel_values": noise(16 * n, 3 * 2 * 4 * 4), "image_grid_thw": grid}
    if family in ("llava_next", "llava_onevision"):
        return {"pixel_values": noise(n, 3, 3, 8, 8), "image_sizes": torch.tensor([[8, 16]]).repeat(n, 1)}
    if family in ("idefics3", "smolvlm"):
        whole = torch.ones(n, 1, 16, 16, dtype=torch.long)
        return {"pixel_values": noise(n, 1, 3, 16, 16), "pixel_attention_mask": whole}
    side = 16 if family in ("internvl", "mistral3", "aya_vision") else 8
    sizes = {"image_sizes": torch.tensor([[side, side]]).repeat(n, 1)} if family == "mistral3" else {}
    return {"pixel_values": noise(n, 3, side, side), **sizes}


@torch.no_grad()
def tokens_per_image(model: Any, seen: dict[str, Tensor]) -> int:
    """Placeholders that one image needs, from the features that the model makes of it."""
    features = model.model.get_image_features(**seen).pooler_output
    return features[0].reshape(-1, features[0].shape[-1]).shape[0]


def inputs(model: Any, padding: str, seed: int = 0, lengths: tuple[int, ...] = (5, 3, 2)) -> dict[str, Tensor]:
    """Three prompts of random words with an image each: "left" or "right" padded, or "none" of one length."""
    family = model.config.model_type
    seen = pixels(family, len(lengths), seed)
    generator = torch.Generator().manual_seed(seed)
    suffix = [max(lengths)] * len(lengths) if padding == "none" else lengths
    image = [START] + [IMAGE] * tokens_per_image(model, seen) + [END]
    words = [torch.randint(1, WORDS, (2 + n,), generator=generator).tolist() for n in suffix]
    prompts = [[*w[:2], *image, *w[2:]] for w in words]
    ids, mask = pad(prompts, padding)
    out = {"input_ids": ids, "attention_mask": mask, **seen}
    if family in COUNTS_IMAGES:
        out["mm_token_type_ids"] = (ids == IMAGE).long()
    if family == "gemma3":
        out["token_type_ids"] = (ids == IMAGE).long()
    if family == "paligemma":  # The last word is the answer, the rest the prefix that sees itself.
        out["token_type_ids"] = pad([[0] * (len(p) - 1) + [1] for p in prompts], padding)[0]
    return out


def pad(rows: list[list[int]], padding: str) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor padded with 0, and its attention mask."""
    size = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), size, dtype=torch.long), torch.zeros(len(rows), size, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(size - len(row), size) if padding == "left" else slice(len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def alone(given: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """One example of a batch without its padding."""
    real, n = given["attention_mask"][index].bool(), len(given["input_ids"])

    def own(name: str, tensor: Tensor) -> Tensor:
        share = len(tensor) // n
        rows = tensor[index * share : (index + 1) * share]
        return rows[:, real] if name in PER_TOKEN else rows

    return {name: own(name, tensor) for name, tensor in given.items()}
