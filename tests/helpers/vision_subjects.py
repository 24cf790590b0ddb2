"""Tiny vision-language models with processors of their own, built without files or network."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers as t
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from . import vision

BASE = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = [f"w{i}" for i in range(vision.WORDS - len(BASE))]
SPECIAL = [
    "<global-img>",
    "<video>",
    "<start>",
    "<end>",
    "<image>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<row_1_col_1>",
]
CHAT = (
    "{% for m in messages %}{{ m.role }} {% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %} </s>{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
QWEN = {"qwen2_vl": t.Qwen2VLProcessor, "qwen2_5_vl": t.Qwen2_5_VLProcessor, "qwen3_vl": t.Qwen3VLProcessor}
SAVED = ("llava", "idefics3", "gemma3")
FAMILIES = (
    *SAVED,
    "internvl",
    "llava_next",
    "llava_onevision",
    "paligemma",
    *QWEN,
)


def tokenizer(**named: str) -> Any:
    """Words w0 … split at spaces, and the special tokens of images at the ids that the tiny models expect."""
    vocabulary = {word: i for i, word in enumerate(BASE + WORDS + SPECIAL)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        add_bos_token=True,
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


def images_only(kind: Any) -> Any:
    """A processor class that may be built without its video processor, which needs torchvision."""

    class ImagesOnly(kind):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    ImagesOnly.__name__ = kind.__name__
    return ImagesOnly


def processor(family: str) -> Any:
    """A family's processor at the sizes of the tiny models: 4 tokens an image, 36 in Llava, more in tiled families."""
    mean: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    square, plain = {"height": 8, "width": 8}, {"patch_size": 4, "vision_feature_select_strategy": "default"}
    if family == "llava":
        seen = t.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, **mean)
        return t.LlavaProcessor(seen, tokenizer(), chat_template=CHAT, num_additional_image_tokens=1, **plain)
    if family == "llava_next":
        edges = {"size": {"shortest_edge": 8}, "crop_size": square, "image_grid_pinpoints": vision.TILES}
        seen = t.LlavaNextImageProcessorPil(**edges, **mean)
        return t.LlavaNextProcessor(seen, tokenizer(), num_additional_image_tokens=1, **plain)
    if family == "llava_onevision":
        seen = t.LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=vision.TILES, **mean)
        named = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
        return images_only(t.LlavaOnevisionProcessor)(seen, tokenizer(), **named)
    if family == "idefics3":
        edge = {"longest_edge": 16}
        seen = t.Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False, **mean)
        return t.Idefics3Processor(seen, tokenizer(), image_seq_len=4)
    if family == "gemma3":
        named = tokenizer(image_token="<image>", boi_token="<start>", eoi_token="<end>")
        return t.Gemma3Processor(t.Gemma3ImageProcessorPil(size=square, **mean), named, image_seq_length=4)
    if family == "paligemma":
        seen = t.SiglipImageProcessorPil(size=square, **mean)
        seen.image_seq_length = 4
        return t.PaliGemmaProcessor(seen, tokenizer())
    if family in QWEN:
        seen = t.Qwen2VLImageProcessorPil(patch_size=4, min_pixels=64, max_pixels=256, **mean)
        return images_only(QWEN[family])(seen, tokenizer(image_token="<image>", video_token="<video>"))
    seen = t.GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, crop_to_patches=False, **mean)
    marks = {"start_image_token": "<start>", "end_image_token": "<end>"}
    named = tokenizer(context_image_token="<image>", video_token="<video>", **marks)
    return images_only(t.InternVLProcessor)(seen, named, image_seq_length=4)


def build(family: str) -> tuple[Any, Any]:
    """Model and processor of a family."""
    wide = {"vision_config": vision.VISION["llava"]["vision_config"] | {"image_size": 24}} if family == "llava" else {}
    return vision.build(family, **wide), processor(family)


def picture(seed: int = 0, size: tuple[int, int] = (30, 30)) -> Image.Image:
    """Coloured noise, the same for the same seed."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
