"""How a processor resizes, pads and cuts a picture that goes to the tower whole."""

from __future__ import annotations

from typing import Any

from .views import Box


def framed(images: Any, size: tuple[int, int], made: tuple[int, int]) -> Box | None:
    """What of a picture of `size` an input of `made` pixels shows (width and height), in pixels of the picture.

    It reaches beyond the picture where the processor pads it to a square first, and is smaller where it cuts out the
    middle. None for ways that are not known here.
    """
    width, height = size
    left = top = 0.0
    if getattr(images, "do_pad", None) and not hasattr(images, "do_image_splitting"):
        if not hasattr(images, "pad_to_square"):
            return None
        side = max(size)
        left, top = -((side - width) // 2), -((side - height) // 2)
        width = height = side
    resized = _resized(images, (width, height))
    if resized is None or resized[0] < made[0] or resized[1] < made[1]:
        return None
    across, down = width / resized[0], height / resized[1]
    left, top = left + (resized[0] - made[0]) / 2 * across, top + (resized[1] - made[1]) / 2 * down
    return left, top, left + made[0] * across, top + made[1] * down


def _resized(images: Any, size: tuple[int, int]) -> tuple[int, int] | None:
    """Width and height after the processor's resize."""
    if not getattr(images, "do_resize", False):
        return size
    if hasattr(images, "do_image_splitting"):  # Idefics3: whatever its shape, to a square at last
        side = images.max_image_size["longest_edge"]
        return side, side
    wanted = images.size
    read = wanted.get if isinstance(wanted, dict) else lambda name: getattr(wanted, name, None)
    width, height, short, long = (read(n) for n in ("width", "height", "shortest_edge", "longest_edge"))
    if width and height:
        return width, height
    if not short or long:
        return None
    long = int(short * max(size) / min(size))
    return (short, long) if size[0] <= size[1] else (long, short)
