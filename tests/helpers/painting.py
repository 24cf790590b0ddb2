"""Painting: a small square of a picture in another colour, and which positions of the prompt read something else.

The tower's attention is put out, so that a token shows its own part of the picture and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from crosslens import Subject, capture
from crosslens.data.example import Example, Segment
from crosslens.probes.prompts.geometry.views import THUMBNAIL, Picture, View
from PIL import Image
from torch import Tensor

GREY, WHITE = (90, 90, 90), (255, 255, 255)
MOST = 8  # painted cells of a picture, about
TOWERS = ("vision", "visual")


@torch.no_grad()
def prepared(model: Any, processor: Any) -> Subject:
    """The subject with its towers' attention writing nothing, and pictures blurred little as they are resized."""
    for name, module in model.named_modules():
        inside = any(part in name for part in TOWERS)
        if inside and name.endswith(("attn", "attention")):
            for parameter in module.parameters():
                parameter.zero_()
    model.config.get_text_config().max_position_embeddings = 8192
    processor.image_processor.resample = Image.Resampling.BILINEAR
    return Subject(model, processor, name=f"tiny-{model.config.model_type}")


def show(sizes: tuple[tuple[int, int], ...], painted: tuple[int, tuple[float, ...]] | None = None) -> Example:
    """Grey pictures of these sizes between words; of one of them the middle of a box is white."""
    segments = [Segment("text", "w1 ")]
    for i, size in enumerate(sizes):
        picture = Image.new("RGB", size, GREY)
        if painted is not None and painted[0] == i:
            picture.paste(WHITE, _middle(painted[1]))
        segments += [Segment("image", picture), Segment("text", " w2 ")]
    return Example(f"e{painted}", "g", tuple(segments))


def _middle(box: tuple[float, ...]) -> tuple[int, int, int, int]:
    """A twelfth of a box about its centre, of one pixel at least."""
    left, top, right, bottom = box
    half = [max(0.5, (high - low) / 24) for low, high in ((left, right), (top, bottom))]
    x, y = (left + right) / 2, (top + bottom) / 2
    return round(x - half[0]), round(y - half[1]), round(x + half[0]), round(y + half[1])


def chosen(picture: Picture) -> list[tuple[float, ...]]:
    """Boxes of some cells from the first to the last, of all views but the thumbnail; none in the padding alone."""
    every = [tuple(box) for view in picture.mapped for box in view.boxes.flatten(0, 1).tolist()]
    on = [box for box in every if _on(picture, _middle(box))]
    return [*on[: -1 : max(1, len(on) // MOST)], on[-1]]


def _on(picture: Picture, box: tuple[int, int, int, int]) -> bool:
    left, top, right, bottom = box
    width, height = picture.size
    return left >= 0 and top >= 0 and right <= width and bottom <= height


def prove(opened: Subject, sizes: tuple[tuple[int, int], ...]) -> int:
    """Every painted cell is what the geometry says, in all views; how many were painted.

    In a map's views no other cell changes; in the thumbnail, whose cells are large and whose blur is wide, the cell
    that changes most is the one.
    """
    geometry = opened.batch([show(sizes)]).geometry[0]
    assert not geometry.unknown, geometry.unknown
    painted = [(i, box) for i, picture in enumerate(geometry.pictures) for box in chosen(picture)]
    batch = opened.batch([show(sizes), *(show(sizes, one) for one in painted)])
    states = capture(opened, batch, ["resid_pre"])["blocks.0.hook_resid_pre"]
    moved = (states[1:] - states[:1]).abs().amax(-1)
    moved = moved / moved.amax(1, keepdim=True)
    for change, (i, box) in zip(moved, painted, strict=True):
        expected = torch.zeros(len(change), dtype=torch.bool)
        for view in geometry.pictures[i].views:
            at = geometry.pictures[i].at(view)
            here = _holding(view, box)
            if view.kind == THUMBNAIL:
                most = at.flatten()[change[at].argmax()]
                assert bool(here[at == most].all()), (view, box)
                expected[at] = change[at] > 1e-3
            else:
                expected[at] = here
        assert torch.equal(change > 1e-3, expected), (i, box, (change > 1e-3).nonzero(), expected.nonzero())
    return len(painted)


def _holding(view: View, box: tuple[float, ...]) -> Tensor:
    """The cells in which the centre of a box lies."""
    left, top, right, bottom = view.boxes.unbind(-1)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
