"""Tiny vision-language models with processors of their own, built without files or network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from crosslens import Subject
from crosslens.probes.model.processors import NoVideo, images_only, processor_class
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from . import vision

BASE = ["<pad>", "<s>", "</s>", "<unk>"]
ANSWERS = ["yes", "no"]
WORDS = [f"w{i}" for i in range(vision.WORDS - len(BASE + ANSWERS))] + ANSWERS
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
MEAN: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SQUARE = {"height": 8, "width": 8}


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


def _llava() -> Any:
    seen = t.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, **MEAN)
    marks: dict[str, Any] = {"patch_size": 4, "vision_feature_select_strategy": "default"}
    return t.LlavaProcessor(seen, tokenizer(), chat_template=CHAT, num_additional_image_tokens=1, **marks)


def _llava_next() -> Any:
    edges = {"size": {"shortest_edge": 8}, "crop_size": SQUARE, "image_grid_pinpoints": vision.TILES}
    seen = t.LlavaNextImageProcessorPil(**edges, **MEAN)
    marks: dict[str, Any] = {"patch_size": 4, "vision_feature_select_strategy": "default"}
    return t.LlavaNextProcessor(seen, tokenizer(), num_additional_image_tokens=1, **marks)


def _llava_onevision() -> Any:
    seen = t.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=vision.TILES, **MEAN)
    marks: dict[str, Any] = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
    return images_only(t.LlavaOnevisionProcessor)(seen, tokenizer(), NoVideo(), **marks)


def _idefics3() -> Any:
    edge = {"longest_edge": 16}
    seen = t.Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False, **MEAN)
    return t.Idefics3Processor(seen, tokenizer(), image_seq_len=4)


def _smolvlm() -> Any:
    edge = {"longest_edge": 16}
    seen = t.SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False, **MEAN)
    return images_only(t.SmolVLMProcessor)(seen, tokenizer(), NoVideo(), image_seq_len=4)


def _gemma3() -> Any:
    named = tokenizer(image_token="<image>", boi_token="<start>", eoi_token="<end>")
    return t.Gemma3Processor(t.Gemma3ImageProcessorPil(size=SQUARE, **MEAN), named, image_seq_length=4)


def _paligemma() -> Any:
    seen = t.SiglipImageProcessorPil(size=SQUARE, **MEAN)
    seen.image_seq_length = 4
    return t.PaliGemmaProcessor(seen, tokenizer())


def _qwen(kind: Any) -> Any:
    seen = t.Qwen2VLImageProcessorPil(patch_size=4, min_pixels=64, max_pixels=256, **MEAN)
    return images_only(kind)(seen, tokenizer(image_token="<image>", video_token="<video>"), NoVideo())


def _glm4v() -> Any:
    seen = t.Glm4vImageProcessorPil(patch_size=4, size={"shortest_edge": 128, "longest_edge": 512}, **MEAN)
    named = tokenizer(image_token="<image>", video_token="<video>")
    return images_only(t.Glm4vProcessor)(seen, named, NoVideo())


def _internvl() -> Any:
    seen = t.GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, crop_to_patches=False, **MEAN)
    marks = {"start_image_token": "<start>", "end_image_token": "<end>"}
    named = tokenizer(context_image_token="<image>", video_token="<video>", **marks)
    return images_only(t.InternVLProcessor)(seen, named, NoVideo(), image_seq_length=4)


def _aya_vision() -> Any:
    seen = t.GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=2, **MEAN)
    marks = {"start_of_img_token": "<start>", "end_of_img_token": "<end>", "tile_global_token": "<global-img>"}
    sizes = {"patch_size": 4, "downsample_factor": 2, "img_size": 16}
    holder = {"image_token": "<fake_token_around_image>", "img_patch_token": "<image>"}
    return t.AyaVisionProcessor(seen, tokenizer(), **sizes, **holder, **marks)


def _mistral3() -> Any:
    size = {"size": {"longest_edge": 16}, "patch_size": {"height": 4, "width": 4}}
    marks = {"image_token": "<image>", "image_break_token": "<start>", "image_end_token": "<end>"}
    return images_only(processor_class("PixtralProcessor"))(
        t.PixtralImageProcessorPil(**size, **MEAN), tokenizer(), 4, 2, **marks
    )


# At the sizes of the tiny models: 4 tokens an image, 36 in Llava, more in families with tiles.
PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "idefics3": _idefics3,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "paligemma": _paligemma,
    "qwen2_vl": lambda: _qwen(t.Qwen2VLProcessor),
    "qwen2_5_vl": lambda: _qwen(t.Qwen2_5_VLProcessor),
    "qwen3_vl": lambda: _qwen(t.Qwen3VLProcessor),
    "smolvlm": _smolvlm,
    "mistral3": _mistral3,
    "aya_vision": _aya_vision,
    "glm4v": _glm4v,
}
FAMILIES = tuple(PROCESSORS)
# Families that tell the grid of an image and stand it in a frame of two tokens.
GRIDDED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")


def build(family: str) -> tuple[Any, Any]:
    """Model and processor of a family. Windows are wider than the prompts, so that the last word may read the image."""
    changed: dict[str, Any] = {}
    if family == "llava":
        changed["vision_config"] = vision.VISION[family]["vision_config"] | {"image_size": 24}
    if vision.VISION[family]["text_config"].get("sliding_window"):
        changed["text_config"] = vision.VISION[family]["text_config"] | {"sliding_window": 64}
    return vision.build(family, **changed), PROCESSORS[family]()


def save(family: str, directory: Path, answer: str = "") -> Subject:
    """A family's model and processor as a checkpoint on the hub has them, with a video part of its own; the subject.

    answer: the word that the model always answers.
    """
    model, processor = build(family)
    if answer:
        _always_answer(model, processor.tokenizer.convert_tokens_to_ids(answer))
    model.save_pretrained(directory, max_shard_size="50KB")
    processor.save_pretrained(directory)
    for file in directory.glob("*processor_config.json"):
        named = type(processor.image_processor).__name__.replace("ImageProcessorPil", "VideoProcessor")
        file.write_text(file.read_text("utf-8").replace("NoVideo", named), "utf-8")
    return Subject(model, processor)


def picture(seed: int = 0, size: tuple[int, int] = (30, 30)) -> Image.Image:
    """Coloured noise, the same for the same seed."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@torch.no_grad()
def _always_answer(model: Any, token: int) -> None:
    """A large first dimension in every word's state, which speaks for one token."""
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    words[:, 0] = 20
    if head is words:
        head[token, 0] = 30
    else:
        head[:, 0] = 0
        head[token, 0] = 3
