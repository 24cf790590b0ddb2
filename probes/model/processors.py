"""A vision-language checkpoint's processor for texts and images: images through Pillow, and no video part.

Transformers asks for torchvision (and SmolVLM for num2words) to build the video part, which nothing here uses.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import processor_class_from_name
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME
from transformers.utils.import_utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from ...data.errors import UserError
from .checkpoint_files import settings_in

TOKENIZER_FILE = "tokenizer_config.json"
PIXTRAL = "transformers.models.pixtral"


class NoVideo(VideoProcessorMixin):
    """Stands where a processor wants its video processor: the checkpoint's settings for videos, no way to use them."""

    slice_mode, downsample_mode = True, "16x"  # what MiniCPM-V's processor reads there when it is built


def open_processor(name: str, path: str, config: Any, **reading: Any) -> Any:
    """The processor of the checkpoint at `path` (directory or hub id); name: the checkpoint's, in errors.

    reading: revision and trust_remote_code. Code of the checkpoint's own is left to transformers.
    UserError: its images are processed by torchvision alone, and there is none.
    """
    kind = _class_of(path, config, reading.get("revision"))
    if kind is None:
        return AutoProcessor.from_pretrained(path, **reading)
    try:
        return images_only(kind).from_pretrained(path, **reading)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error) or is_torchvision_available():
            raise
        raise UserError(
            f"{name}: {config.model_type} processes images with torchvision alone: install the torchvision of your "
            "torch's release from the index that torch came from (README.md, Torchvision)"
        ) from error


def images_only(kind: Any) -> Any:
    """A processor class whose images go through Pillow where they can, and whose video processor may be `NoVideo`."""

    class ImagesOnly(kind):
        @staticmethod
        def get_possibly_dynamic_module(module_name: str) -> Any:
            wants_video = module_name == "VideoProcessorMixin"  # transformers hides it where torchvision is missing
            return VideoProcessorMixin if wants_video else kind.get_possibly_dynamic_module(module_name)

        @classmethod
        def _get_arguments_from_pretrained(cls, path: str, processor_dict: Any = None, **reading: Any) -> list[Any]:
            return [_part(kind, attribute, path, processor_dict, reading) for attribute in kind.get_attributes()]

    ImagesOnly.__name__ = kind.__name__
    _allow_no_words(sys.modules[kind.__module__])
    return ImagesOnly


def _part(kind: Any, attribute: str, path: str, settings: Any, reading: dict[str, Any]) -> Any:
    """One argument of a processor's constructor."""
    if attribute == "image_processor":
        return AutoImageProcessor.from_pretrained(path, backend="pil", **reading)
    if attribute == "video_processor":
        return NoVideo.from_pretrained(path, **reading)
    alone = type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: [attribute])})
    return alone._get_arguments_from_pretrained(path, settings, **reading)[0]


def _class_of(path: str, config: Any, revision: str | None) -> Any:
    """The class that the checkpoint's files name, or else its family's; None: not one of transformers'."""
    for file in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, TOKENIZER_FILE):
        named = settings_in(path, file, revision).get("processor_class")
        if named:
            break
    else:
        named = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    return processor_class(named) if named else None


def processor_class(named: str) -> Any:
    """A processor class of transformers by its name; None: it has none of that name."""
    missing = named == "PixtralProcessor" and not is_torchvision_available()
    return _pixtral() if missing else processor_class_from_name(named)


def _pixtral() -> Any:
    """Pixtral's class: its file imports one function from the torchvision image processor's, which Pillow's has too."""
    wanted = f"{PIXTRAL}.image_processing_pixtral"
    sys.modules[wanted] = import_module(f"{PIXTRAL}.image_processing_pil_pixtral")
    try:
        return import_module(f"{PIXTRAL}.processing_pixtral").PixtralProcessor
    finally:
        del sys.modules[wanted]


def _allow_no_words(module: Any) -> None:
    """SmolVLM's file spells out numbers of frames with num2words, and its class refuses to be built without it."""
    if getattr(module, "num2words", _no_words) is None:
        module.num2words = _no_words


def _no_words(number: int) -> str:
    raise ImportError("videos of SmolVLM need num2words: pip install num2words")
