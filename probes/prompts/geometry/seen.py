"""What a layout is told: the model's and the processor's numbers, and one prompt's pictures as the tower takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .views import Box, View


@dataclass(frozen=True)
class Seen:
    """The pictures of one prompt.

    sizes: width and height of each, turned as their EXIF says. pixels: what the processor makes of them. blocks: what
    it writes in their places. counts: placeholders of each.
    """

    model: Any
    processor: Any
    sizes: Sequence[tuple[int, int]]
    pixels: Mapping[str, Tensor]
    blocks: Sequence[str]
    counts: Sequence[int]

    @property
    def images(self) -> Any:
        """The part of the processor that makes pixels."""
        return self.processor.image_processor

    @property
    def patch(self) -> tuple[int, int] | None:
        """Height and width of the tower's patches in its input's pixels."""
        size = getattr(getattr(self.model.config, "vision_config", None), "patch_size", None)
        pair = (size, size) if isinstance(size, int) else size
        return (pair[0], pair[1]) if isinstance(pair, list | tuple) and len(pair) == 2 else None

    @property
    def merge(self) -> int:
        """How many patches of a side become one token: merger, pixel shuffle or pooling, each under its own name."""
        config, vision = self.model.config, getattr(self.model.config, "vision_config", None)
        projector = getattr(getattr(self.model, "model", None), "multi_modal_projector", None)
        named = (
            (config, "spatial_merge_size"),  # Mistral 3
            (vision, "spatial_merge_size"),  # Qwen-VL, GLM-V
            (config, "scale_factor"),  # Idefics3, SmolVLM
            (vision, "scale_factor"),  # Granite Docling
            (config, "downsample_factor"),  # Aya Vision
            (vision, "hidden_stride"),  # Ovis2
            (vision, "pooling_kernel_size"),  # Gemma 4
            (projector, "kernel_size"),  # Gemma 3
        )
        found = next((n for owner, name in named if isinstance(n := getattr(owner, name, None), int)), 0)
        ratio = getattr(config, "downsample_ratio", None)  # InternVL: 0.5
        return found or (round(1 / ratio) if isinstance(ratio, float) and ratio else 1)

    def view(self, kind: str, box: Box, height: int, width: int, row: int = 0, column: int = 0) -> View | None:
        """The view of a tower's input of so many pixels that shows `box`; None where the patches are not known.

        Pixels behind the last whole token are in no cell. row, column: how many such inputs lie before it.
        """
        if self.patch is None:
            return None
        tall, wide = (side * self.merge for side in self.patch)
        rows, columns = height // tall, width // wide
        left, top, right, bottom = box
        right = left + (right - left) * (columns * wide) / width
        bottom = top + (bottom - top) * (rows * tall) / height
        return View(kind, rows, columns, (left, top, right, bottom), row * rows, column * columns)


def whole(size: tuple[int, int]) -> Box:
    """The box of a whole picture."""
    return (0, 0, *size)


def part(size: tuple[int, int], row: int, column: int, rows: int, columns: int) -> Box:
    """The box of one of rows × columns equal parts of a picture."""
    width, height = size
    return width * column / columns, height * row / rows, width * (column + 1) / columns, height * (row + 1) / rows
