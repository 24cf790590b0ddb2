"""Inputs with images for tiny vision-language models: what a processor would give, made of noise.

For most families several forms are tried until the model makes features of one; the rest are written by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .shrinking import WORDS

N = 2  # examples, one image each


def noise(seed: int, *shape: int) -> Tensor:
    """Random numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def number(config: Any, *names: str, default: int) -> int:
    """The first of the named fields that is a number, or a list of numbers."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], int):
            value = value[0]
        if isinstance(value, int):
            return value
    return default


def candidates(model: Any, seed: int) -> Iterator[dict[str, Tensor]]:
    """Forms of N images, in the order in which they are tried."""
    config = model.config
    vision = getattr(config, "vision_config", None) or config
    patch = number(vision, "patch_size", default=4)
    side = number(vision, "image_size", default=4 * patch)
    channels = number(vision, "in_channels", "num_channels", default=3)
    temporal = number(vision, "temporal_patch_size", "patch_temporal", default=1)
    wide = dict.fromkeys(("image_grid_thw",), torch.tensor([[1, 4, 4]]).repeat(N, 1))
    sizes = {"image_sizes": torch.tensor([[side, side]]).repeat(N, 1)}
    takes = set(inspect.signature(model.forward).parameters)
    if "image_grid_thw" in takes:
        for t in dict.fromkeys((temporal, 2, 1)):
            yield wide | {"pixel_values": noise(seed, 16 * N, channels * t * patch * patch)}
        yield wide | {"pixel_values": noise(seed, 16 * N, channels, patch, patch)}
        return
    owner = owner_of_features(model)
    if owner is not None and "image_sizes" in inspect.signature(owner.get_image_features).parameters:
        pins = getattr(config, "image_grid_pinpoints", None)
        if pins:
            h, w = pins[0]
            tiles = 1 + (h // side) * (w // side)
            yield {
                "pixel_values": noise(seed, N, tiles, channels, side, side),
                "image_sizes": torch.tensor([[h, w]]).repeat(N, 1),
            }
        yield {"pixel_values": noise(seed, N, channels, side, side)} | sizes
    if "pixel_attention_mask" in takes:
        yield {
            "pixel_values": noise(seed, N, 1, channels, side, side),
            "pixel_attention_mask": torch.ones(N, 1, side, side).long(),
        }
    yield {"pixel_values": noise(seed, N, channels, side, side)}
    yield {"pixel_values": noise(seed, N, 1, channels, side, side)}


def owner_of_features(model: Any) -> Any:
    """The module that makes features of images."""
    for owner in (getattr(model, "model", None), model):
        if owner is not None and hasattr(owner, "get_image_features"):
            return owner
    return None


@torch.no_grad()
def tokens_per_image(model: Any, seen: dict[str, Tensor]) -> int:
    """Placeholders that one image needs, from the features that the model makes of all."""
    owner = owner_of_features(model)
    known = inspect.signature(owner.get_image_features).parameters
    given = {k: v for k, v in seen.items() if k in known or "kwargs" in known or "args" in known}
    features = owner.get_image_features(**given)
    features = getattr(features, "pooler_output", features)
    several = features if isinstance(features, (tuple, list)) else [features]
    return sum(one.numel() // one.shape[-1] for one in several) // N


def placeholder(config: Any) -> int | None:
    for name in ("image_token_id", "image_token_index", "image_patch_id"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def border(config: Any, end: bool) -> list[int]:
    names = ("eoi", "vision_end", "image_end") if end else ("boi", "vision_start", "image_start")
    for name in names:
        for tail in ("token_id", "token_index"):
            value = getattr(config, f"{name}_{tail}", None)
            if isinstance(value, int):
                return [value]
    return []


def prompt(model: Any, count: int, seed: int, image: int | None = None) -> dict[str, Tensor]:
    """N prompts of one length: two words, an image's placeholders, six words."""
    config = model.config
    image = placeholder(config) if image is None else image
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, WORDS, (N, 8), generator=generator).tolist()
    middle = [*border(config, False), *[image] * count, *border(config, True)] if image is not None else []
    ids = torch.tensor([[*w[:2], *middle, *w[2:]] for w in words])
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    takes = inspect.signature(model.forward).parameters
    if image is not None and "mm_token_type_ids" in takes:
        out["mm_token_type_ids"] = (ids == image).long()
    if image is not None and "token_type_ids" in takes:
        out["token_type_ids"] = (ids == image).long()
    return out


def image_inputs(model_type: str, model: Any, seed: int) -> dict[str, Tensor]:
    """N prompts with an image each. ValueError: no form is known that the model takes, with what it said to each."""
    if model_type in BY_HAND:
        with torch.no_grad():
            return BY_HAND[model_type](model, seed)
    errors = []
    for form in candidates(model, seed):
        try:
            given = _with_features(model, seed, form)
            with torch.no_grad():
                model(**given, use_cache=False)
            return given
        except Exception as error:  # whatever a form that is not the family's leads to
            errors.append(f"{type(error).__name__}: {str(error)[:120]}")
    raise ValueError(" || ".join(errors))


# Families whose images come in a form of their own.


def _square(model: Any, seed: int, *before: int) -> Tensor:
    vision = getattr(model.config, "vision_config", model.config)
    side = number(vision, "image_size", default=16)
    return noise(seed, N, *before, number(vision, "num_channels", default=3), side, side)


def _with_features(model: Any, seed: int, form: dict[str, Any]) -> dict[str, Any]:
    return prompt(model, tokens_per_image(model, form), seed) | form


def _positions(side: int) -> Tensor:
    return torch.tensor([[x, y] for y in range(side) for x in range(side)]).repeat(N, 1, 1)


def gemma4(model: Any, seed: int) -> dict[str, Any]:
    patch = model.config.vision_config.patch_size
    values = torch.rand(N, 16, 3 * patch * patch, generator=torch.Generator().manual_seed(seed))
    return _with_features(model, seed, {"pixel_values": values, "image_position_ids": _positions(4)})


def gemma4_unified(model: Any, seed: int) -> dict[str, Any]:
    patch = model.config.vision_config.model_patch_size
    values = torch.rand(N, 16, 3 * patch * patch, generator=torch.Generator().manual_seed(seed))
    return _with_features(model, seed, {"pixel_values": values, "image_position_ids": _positions(4)})


def lfm2_vl(model: Any, seed: int) -> dict[str, Any]:
    patch = model.config.vision_config.patch_size
    form = {
        "pixel_values": noise(seed, N, 16, 3 * patch * patch),
        "spatial_shapes": torch.tensor([[4, 4]]).repeat(N, 1),
        "pixel_attention_mask": torch.ones(N, 16).long(),
    }
    return _with_features(model, seed, form)


def minicpmv(model: Any, seed: int) -> dict[str, Any]:
    patch = number(model.config.vision_config, "patch_size", default=4)
    form = {
        "pixel_values": noise(seed, 1, 3, patch, patch * 16 * N),
        "target_sizes": torch.tensor([[4, 4]]).repeat(N, 1).int(),
    }
    return _with_features(model, seed, form)


def molmo2(model: Any, seed: int) -> dict[str, Any]:
    patch = model.config.vision_config.patch_size
    pooling = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    form = {
        "pixel_values": noise(seed, N, 16, 3 * patch * patch),
        "image_token_pooling": torch.cat([pooling + 16 * i for i in range(N)]),
        "image_grids": torch.tensor([[2, 2, 0, 0]]).repeat(N, 1),
        "image_num_crops": torch.ones(N).long(),
    }
    return prompt(model, 4, seed) | form


def nemotron_h_omni(model: Any, seed: int) -> dict[str, Any]:
    patch = model.config.vision_config.patch_size
    form = {
        "pixel_values": noise(seed, N * 16, 3 * patch * patch),
        "image_grid_hw": torch.tensor([[4, 4]]).repeat(N, 1),
    }
    return _with_features(model, seed, form)


def mllama(model: Any, seed: int) -> dict[str, Any]:
    side, tiles = number(model.config.vision_config, "image_size", default=16), model.config.vision_config.max_num_tiles
    given = prompt(model, 1, seed)
    length = given["input_ids"].shape[1]
    mask = torch.zeros(N, length, 1, tiles).long()
    mask[:, 2:, :, 0] = 1
    return given | {
        "pixel_values": noise(seed, N, 1, tiles, 3, side, side),
        "aspect_ratio_ids": torch.ones(N, 1).long(),
        "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]]).repeat(N, 1, 1),
        "cross_attention_mask": mask,
    }


def fuyu(model: Any, seed: int) -> dict[str, Any]:
    width = model.config.num_channels * model.config.patch_size**2
    return prompt(model, 4, seed) | {"pixel_values": noise(seed, N, 4, width)}


def deepseek_vl_hybrid(model: Any, seed: int) -> dict[str, Any]:
    side = number(model.config.high_res_vision_config, "image_size", default=16)
    form = {"pixel_values": _square(model, seed), "high_res_pixel_values": noise(seed + 3, N, 3, side, side)}
    return _with_features(model, seed, form)


def granite_docling(model: Any, seed: int) -> dict[str, Any]:
    form = {"pixel_values": _square(model, seed, 1), "pixel_attention_mask": torch.ones(N, 1, dtype=torch.bool)}
    return _with_features(model, seed, form)


def granite4_vision(model: Any, seed: int) -> dict[str, Any]:
    form = {
        "pixel_values": _square(model, seed, 3),
        "image_sizes": torch.tensor([[16, 32]]).repeat(N, 1),
    }
    found = (
        owner_of_features(model)
        .get_image_features(**form, vision_feature_select_strategy="full")
        .deepstack_features[0][1]
    )
    return prompt(model, sum(len(f) for f in found) // N, seed) | form


def llama4(model: Any, seed: int) -> dict[str, Any]:
    form = {"pixel_values": _square(model, seed)}
    features = model.get_image_features(**form, vision_feature_select_strategy="default")
    features = getattr(features, "last_hidden_state", features)
    return prompt(model, features.reshape(-1, features.shape[-1]).shape[0] // N, seed) | form


def inkling2(model: Any, seed: int) -> dict[str, Any]:
    vision = model.config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    form = {"pixel_values": noise(seed, 4 * N, side, side, 3), "image_grid_thw": torch.tensor([[1, 2, 2]]).repeat(N, 1)}
    return _with_features(model, seed, form)


def inkling(model: Any, seed: int) -> dict[str, Any]:
    vision = model.config.vision_config
    form = {"pixel_values": noise(seed, 4 * N, vision.temporal_patch_size, vision.patch_size, vision.patch_size, 3)}
    return _with_features(model, seed, form)


def video_llama_3(model: Any, seed: int) -> dict[str, Any]:
    patch = model.config.vision_config.patch_size
    form = {
        "pixel_values": noise(seed, 16 * N, 3 * patch * patch),
        "image_grid_thw": torch.tensor([[1, 4, 4]]).repeat(N, 1),
        "image_merge_sizes": torch.full((N,), 2),
    }
    return _with_features(model, seed, form)


def blip2(model: Any, seed: int) -> dict[str, Any]:
    return prompt(model, model.config.num_query_tokens, seed) | {"pixel_values": _square(model, seed)}


def instructblip(model: Any, seed: int) -> dict[str, Any]:
    asked = torch.randint(3, WORDS, (N, 5), generator=torch.Generator().manual_seed(seed + 9))
    return blip2(model, seed) | {"qformer_input_ids": asked, "qformer_attention_mask": torch.ones_like(asked)}


def instructblipvideo(model: Any, seed: int) -> dict[str, Any]:
    frames = 2
    asked = torch.randint(3, WORDS, (N, 5), generator=torch.Generator().manual_seed(seed + 9))
    count = model.config.num_query_tokens * frames
    return prompt(model, count, seed, model.config.video_token_index) | {
        "pixel_values": _square(model, seed, frames),
        "qformer_input_ids": asked,
        "qformer_attention_mask": torch.ones_like(asked),
    }


def hunyuan_vl(model: Any, seed: int) -> dict[str, Any]:
    """With each prompt's images numbered from 0, as the family says; the model itself numbers those of a batch."""
    given = _with_features(model, seed, next(candidates(model, seed)))
    rows = [{name: tensor.chunk(N)[i] for name, tensor in given.items()} for i in range(N)]
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    positions = [model.model.get_rope_index(*(row[name] for name in names))[0] for row in rows]
    return given | {"position_ids": torch.cat(positions, 1)}


def idefics(model: Any, seed: int) -> dict[str, Any]:
    given = prompt(model, 0, seed)
    return given | {
        "pixel_values": _square(model, seed, 1),
        "image_attention_mask": torch.ones(N, given["input_ids"].shape[1], 1).long(),
    }


BY_HAND: dict[str, Any] = {
    "blip-2": blip2,
    "instructblip": instructblip,
    "instructblipvideo": instructblipvideo,
    "idefics": idefics,
    "gemma4": gemma4,
    "gemma4_unified": gemma4_unified,
    "lfm2_vl": lfm2_vl,
    "minicpmv4_6": minicpmv,
    "minicpmv4_7": minicpmv,
    "minicpm_ocr": minicpmv,
    "hunyuan_vl": hunyuan_vl,
    "molmo2": molmo2,
    "nemotron_h_omni": nemotron_h_omni,
    "mllama": mllama,
    "fuyu": fuyu,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "granite_docling": granite_docling,
    "granite4_vision": granite4_vision,
    "llama4": llama4,
    "inkling2": inkling2,
    "inkling_mm_model": inkling,
    "video_llama_3": video_llama_3,
}
