"""What a vision-language model must be given beside token ids: whatever is missing runs silently, and wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...data.errors import SubjectError, UserError
from . import anatomy
from .fingerprint import execution_device

# Placeholder ids of the config, and the input that fills them.
MEDIA = {"image": ("pixel_values", "mm_encoder_outputs"), "video": ("pixel_values_videos", "pixel_values")}
GRIDS = ("image_grid_thw", "image_sizes")
# Inputs with one entry per token; the others belong to the pictures.
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")


def placeholder_id(model: Any, kind: str = "image") -> int | None:
    """The token id that stands for a piece of an image; None for a language model."""
    found = (getattr(model.config, f"{kind}_token_{end}", None) for end in ("id", "index"))
    return next((value for value in found if isinstance(value, int)), None)


def media_ids(model: Any) -> list[int]:
    """All ids that have to do with images, video or sound: no random text may hold them."""
    words, values = ("image", "video", "audio", "vision", "boi_", "eoi_"), vars(model.config)
    names = [name for name in values if name.endswith(("token_id", "token_index")) and name.startswith(words)]
    return sorted({values[name] for name in names if isinstance(values[name], int)})


def few_words(model: Any) -> dict[str, Tensor]:
    """Inputs of four words: what a small forward reads, to tell how a model is made. No image, if one is not needed."""
    embeddings, media = model.get_input_embeddings(), media_ids(model)
    words = [i for i in range(len(embeddings.weight)) if i not in media][-4:]
    inputs = {"input_ids": torch.tensor([words], device=execution_device(embeddings) or model.device)}
    if required(model):
        inputs = made_up(model, inputs["input_ids"])
    inputs["attention_mask"] = torch.ones_like(ids := inputs["input_ids"])
    return inputs | ({"token_type_ids": torch.zeros_like(ids)} if has_prefix(model) else {})


def image_positions(model: Any, input_ids: Int[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
    """Where the image is."""
    image = placeholder_id(model)
    return torch.zeros_like(input_ids, dtype=torch.bool) if image is None else input_ids == image


def required(model: Any) -> list[str]:
    """Inputs beside the tokens without which the model cannot be called (BLIP-2: pixel_values); of most none."""
    parameters = signature(model.forward).parameters.values()
    named = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD and one.name not in PER_TOKEN]
    return [one.name for one in named if one.default is one.empty]


def made_up(model: Any, words: Int[Tensor, "b p"]) -> dict[str, Tensor]:
    """A picture of noise in front of each prompt, for a model that reads none without: `required` says which.

    SubjectError: a model that wants several pictures (a video).
    """
    if not hasattr(model, "get_image_features"):
        raise SubjectError(f"{_family(model)} reads no prompt without a picture, and not one picture alone")
    tower, generator = model.config.vision_config, torch.Generator().manual_seed(0)
    noise = torch.randn(len(words), 3, tower.image_size, tower.image_size, generator=generator)
    given = {"pixel_values": noise.to(words.device)}
    if "qformer_input_ids" in required(model):  # InstructBLIP's other reader of the prompt
        given["qformer_input_ids"] = words[:, :4]
    with torch.no_grad():
        features = model.get_image_features(**given).pooler_output
    return given | {"input_ids": torch.cat([words.new_full(features.shape[:2], placeholder_id(model) or 0), words], 1)}


def complete(model: Any, arguments: dict[str, Any]) -> None:
    """Adds the token types that follow from the ids. UserError: something is missing that only the caller knows."""
    lacking = [name for name in required(model) if arguments.get(name) is None]
    if lacking:
        raise UserError(f"{_family(model)} needs {' and '.join(lacking)}: it reads no prompt without an image")
    _refuse_cross_attention(model, arguments)
    ids = arguments.get("input_ids")
    if ids is None or placeholder_id(model) is None:
        return
    _require_pixels(model, ids, arguments)
    if has_prefix(model) and arguments.get("token_type_ids") is None:
        # Without them, SDPA sees everything from everywhere, eager attention and padded batches are causal.
        raise UserError(
            f"{_family(model)} needs token_type_ids: 0 for the image and the prompt, which see each other, "
            "1 for an answer"
        )
    if arguments.get("pixel_values") is None:
        return
    for name in GRIDS:
        if name in _needed(model) and arguments.get(name) is None:
            raise UserError(f"{_family(model)} needs {name} beside pixel_values: take all that the processor returns")
    for name in token_type_names(model):
        if arguments.get(name) is None:
            arguments[name] = image_positions(model, ids).long()


def _refuse_cross_attention(model: Any, arguments: Mapping[str, Any]) -> None:
    given = [name for name in ("pixel_values", "cross_attention_states") if arguments.get(name) is not None]
    layers = anatomy.child(anatomy.find_decoder(model), anatomy.LAYERS, "list of layers").children() if given else ()
    between = [layer for layer in layers if anatomy.reads_image(layer)]
    if between:
        raise UserError(
            f"{_family(model)} reads an image in {len(between)} layers of cross-attention between the others, which "
            "crosslens does not see: prompts with an image are refused, texts are read"
        )


def positions_of_images(model: Any, arguments: Mapping[str, Any]) -> Int[Tensor, "axes b p"] | None:
    """Positions of families with an axis for an image's number (HunYuan-VL), each prompt's images counted from 0.

    The models number the images of a whole batch, so that a prompt's place in it would change what it reads. None:
    another family, or no image.
    """
    axes = (getattr(model.config.get_text_config(), "rope_parameters", None) or {}).get("mrope_section") or ()
    kinds, grids = arguments.get("mm_token_type_ids"), arguments.get("image_grid_thw")
    if len(axes) < 4 or kinds is None or grids is None:
        return None
    shown = torch.nn.functional.pad((kinds == 1).int(), (1, 0)).diff().clamp(min=0).sum(1).tolist()
    mask = arguments.get("attention_mask", torch.ones_like(kinds))
    rows = zip(arguments["input_ids"].split(1), kinds.split(1), grids.split(shown), mask.split(1), strict=True)
    return torch.cat([_reader(model).get_rope_index(*row)[0] for row in rows], 1)


def _require_pixels(model: Any, ids: Tensor, arguments: Mapping[str, Any]) -> None:
    for kind, inputs in MEDIA.items():
        token = placeholder_id(model, kind)
        if token is not None and bool((ids == token).any()) and all(arguments.get(name) is None for name in inputs):
            raise UserError(
                f"the prompt holds {kind} placeholders (id {token}) but {inputs[0]} is missing: "
                f"{_family(model)} would read the placeholder's own embedding"
            )


def complete_processor(model: Any, processor: Any) -> None:
    """Sets what older LLaVA processors were saved without, and cannot count an image's tokens without, from the model.

    patch_size and vision_feature_select_strategy are the config's; additional tokens: the class token of the tower.
    """
    config = model.config
    known = {
        "patch_size": getattr(getattr(config, "vision_config", None), "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
    }
    for name, value in known.items():
        if getattr(processor, name, value) is None:
            setattr(processor, name, value)
    if getattr(processor, "num_additional_image_tokens", None) == 0 and _has_class_token(model):
        processor.num_additional_image_tokens = 1


def _has_class_token(model: Any) -> bool:
    return any(name.endswith(("class_embedding", "cls_token")) for name, _ in model.named_parameters())


def frame(subject: Any) -> tuple[str, str]:
    """The texts that stand around an image where the family's chat template writes them (Qwen-VL, GLM-V); else ""."""
    config, convert = subject.model.config, subject.tokenizer.convert_ids_to_tokens
    for name in ("vision", "image"):
        ids = [getattr(config, f"{name}_{end}_token_id", None) for end in ("start", "end")]
        if all(isinstance(token, int) for token in ids):
            start, end = convert(ids)
            return (start, end) if start and end else ("", "")
    return "", ""


def token_type_names(model: Any) -> list[str]:
    """Inputs that tell image tokens from text, where the family takes one."""
    return [name for name in ("token_type_ids", "mm_token_type_ids") if name in signature(model.forward).parameters]


def token_kinds(model: Any, with_image: bool) -> dict[str, str]:
    """Input name -> the role that it marks with 1, for the token types that a batch must carry."""
    if placeholder_id(model) is None or not (with_image or has_prefix(model)):
        return {}
    return {name: "answer" if has_prefix(model) else "image" for name in token_type_names(model)}


def has_prefix(model: Any) -> bool:
    """Whether the whole prompt is seen from everywhere in it, not the image alone (PaliGemma)."""
    return model.config.model_type.startswith("paligemma")


def reads_features(model: Any, layer: int) -> bool:
    """Whether image features are added in front of a layer, so that on image rows it does not read what the one before
    wrote: behind the first layers of Qwen3-VL, in front of those that Granite 4 Vision's config names.
    """
    config = model.config
    named = [to for _, to in getattr(config, "deepstack_layer_map", None) or ()]
    named += getattr(config, "spatial_target_layers", None) or ()
    tower = getattr(config, "vision_config", None)
    return layer in named or layer <= len(getattr(tower, "deepstack_visual_indexes", None) or ())


@contextmanager
def counted(model: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
    """During the block, images must fill the placeholders of their own prompt exactly.

    The models compare totals of the batch only: 5 + 3 placeholders for 4 + 4 features would shift one image into
    another's prompt.
    """
    inner = _reader(model)
    ids = arguments.get("input_ids")
    if arguments.get("pixel_values") is None or ids is None or inner is None:
        yield
        return
    before, shown = inner.get_image_features, image_positions(model, ids)
    own = "get_image_features" in vars(inner)
    original = getattr(before, "unchecked", before)  # a forward inside of another's has images of its own

    def checked(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        features = getattr(output, "pooler_output", output)
        if isinstance(features, Tensor | tuple | list):  # others (Granite 4 Vision: by layer) are not to be counted
            _compare(shown, features)
        return output

    checked.unchecked = original  # pyright: ignore[reportFunctionMemberAccess]
    inner.get_image_features = checked
    try:
        yield
    finally:
        del inner.get_image_features
        if own:
            inner.get_image_features = before


def _reader(model: Any) -> Any:
    """The module that makes features of images, None where there is none: the wrapped model, or the model itself."""
    owners = (getattr(model, "model", None), model)
    return next((owner for owner in owners if hasattr(owner, "get_image_features")), None)


def _compare(shown: Bool[Tensor, "b p"], features: Any) -> None:
    """Placeholders per prompt against tokens per image, in order: prompts end where images end."""
    if isinstance(features, Tensor) and features.ndim < 3:
        features = [features]
    images = [image.numel() // image.shape[-1] for image in features]
    ends = {0, *accumulate(images)}
    prompts = shown.sum(1).tolist()
    off = next((i for i, end in enumerate(accumulate(prompts)) if len(images) > 1 and end not in ends), None)
    if sum(prompts) != sum(images) or off is not None:
        raise UserError(
            f"the images make {_listed(images)} tokens, the prompts hold {_listed(prompts)} placeholders: "
            "every prompt needs as many placeholders as its own images make"
        )


def _listed(numbers: list[int]) -> str:
    return " + ".join(map(str, numbers[:8])) + (" + …" if len(numbers) > 8 else "")


def _needed(model: Any) -> tuple[str, ...]:
    """Which of GRIDS the model cannot do without."""
    features = getattr(_reader(model), "get_image_features", None)
    known = signature(features).parameters if features is not None else {}
    return tuple(n for n in GRIDS if n in known and (n == "image_grid_thw" or known[n].default is known[n].empty))


def _family(model: Any) -> str:
    return model.config.model_type
