"""Tiny vision-language models with processors of their own, built without files or network."""

from __future__ import annotations

from typing import Any

from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

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
FAMILIES = ("llava", "idefics3", "gemma3", "internvl")


def tokenizer(**named: str) -> Any:
    """Words w0 … split at spaces, and the special tokens of images at the ids that the tiny models expect."""
    vocabulary = {word: i for i, word in enumerate(BASE + WORDS + SPECIAL)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


def processor(family: str) -> Any:
    """A processor that makes 36, 4 (per crop), 4 and 4 tokens of an image."""
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if family == "llava":
        seen = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, **mean)
        named = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return LlavaProcessor(seen, tokenizer(), chat_template=CHAT, **named)
    if family == "idefics3":
        edge = {"longest_edge": 16}
        seen = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False, **mean)
        return Idefics3Processor(seen, tokenizer(), image_seq_len=4)
    if family == "gemma3":
        seen = Gemma3ImageProcessorPil(size={"height": 8, "width": 8}, **mean)
        named = tokenizer(image_token="<image>", boi_token="<start>", eoi_token="<end>")
        return Gemma3Processor(seen, named, image_seq_length=4)
    seen = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, crop_to_patches=False, **mean)
    marks = {"start_image_token": "<start>", "end_image_token": "<end>"}
    named = tokenizer(context_image_token="<image>", video_token="<video>", **marks)
    return InternVLProcessor(seen, named, image_seq_length=4)


def build(family: str) -> tuple[Any, Any]:
    """Model and processor of a family."""
    wide = {"vision_config": vision.VISION["llava"]["vision_config"] | {"image_size": 24}} if family == "llava" else {}
    return vision.build(family, **wide), processor(family)


def picture(seed: int = 0, size: tuple[int, int] = (30, 30)) -> Image.Image:
    """Coloured noise."""
    return Image.effect_noise(size, 64 + seed).convert("RGB")
