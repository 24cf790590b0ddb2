"""Scenes drawn: coloured shapes on grey, a little noise; the same scene gives the same pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .world import CELL, COLOURS, GRID, SIDE, Scene, Thing

SCALE = 4  # masks are drawn larger and shrunk, for smooth edges
TINT, NOISE = 12, 5.0  # of 255
FAINT = (0.12, 0.3)  # opacity
Points = Sequence[tuple[float, float]]


def render(scene: Scene, side: int = SIDE) -> Image.Image:
    """The picture, side × side RGB; side: a multiple of 84, the scene's own pixels."""
    return Image.fromarray(pixels(scene, side // SIDE))


def pixels(scene: Scene, scale: int = 1) -> np.ndarray:
    """The picture as uint8 [84 · scale, 84 · scale, 3]: the same things, drawn finer; noise of each pixel."""
    rng = random.Random(scene.seed)
    shape = (SIDE * scale, SIDE * scale, 3)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, NOISE, shape)
    canvas = np.full(shape, float(rng.randint(120, 185)))
    # Draws belong to cells, so that scenes that differ in one thing share all other pixels.
    draws = [(rng.uniform(*FAINT), [rng.randint(-TINT, TINT) for _ in range(3)]) for _ in range(GRID * GRID)]
    for thing in scene.things:
        opacity, tint = draws[thing.cell]
        _paint(canvas, thing, opacity if thing.treatment == "faint" else 1.0, tint, scale)
    if scene.panel is not None:
        _board(canvas, scene.panel, scale)
    return (canvas + noise).clip(0, 255).astype(np.uint8)


def _paint(canvas: np.ndarray, thing: Thing, opacity: float, tint: Sequence[int], scale: int) -> None:
    cell = CELL * scale
    top, left = thing.row * cell, thing.column * cell
    tile = canvas[top : top + cell, left : left + cell]
    colour = np.array(COLOURS[thing.colour], float) + tint
    tile += (colour - tile) * (opacity * _mask(thing, scale))[..., None]


def _mask(thing: Thing, scale: int) -> np.ndarray:
    """[28 · scale, 28 · scale] in 0 … 1: the share of each pixel of the cell that the thing covers."""
    fine, cell = SCALE * scale, CELL * scale
    tile = Image.new("L", (CELL * fine, CELL * fine))
    left, top, right, _ = thing.box
    x, y = (left - thing.column * CELL) * fine, (top - thing.row * CELL) * fine
    radius = (right - left) * fine / 2
    _DRAW[thing.shape](ImageDraw.Draw(tile), x + radius, y + radius, radius)
    return np.asarray(tile.resize((cell, cell), Image.Resampling.BOX), float) / 255


def _board(canvas: np.ndarray, box: tuple[int, int, int, int], scale: int) -> None:
    """Dark grey with slanting lines: like nothing else in a scene."""
    left, top, right, bottom = (edge * scale for edge in box)
    rows, columns = np.mgrid[top:bottom, left:right] // scale
    canvas[top:bottom, left:right] = np.where((rows + columns) % 6 < 2, 105, 70)[..., None]


Draw = Callable[[ImageDraw.ImageDraw, float, float, float], None]


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _moon(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    _circle(draw, x, y, r)
    draw.ellipse((x - 0.35 * r, y - 0.9 * r, x + 1.45 * r, y + 0.9 * r), fill=0)


def _heart(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    h = 0.54 * r
    for side in (-1, 1):
        draw.ellipse((x + side * 0.46 * r - h, y - 0.95 * r, x + side * 0.46 * r + h, y - 0.95 * r + 2 * h), fill=255)
    draw.polygon([(x - 0.96 * r, y - 0.2 * r), (x + 0.96 * r, y - 0.2 * r), (x, y + r)], fill=255)


def _polygon(corners: Points) -> Draw:
    """A shape from its corners in units of the radius."""

    def draw_it(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
        draw.polygon([(x + r * a, y + r * b) for a, b in corners], fill=255)

    return draw_it


def _star() -> Points:
    radii = [1.0, 0.42] * 5
    return [(r * math.sin(math.pi * i / 5), 0.05 - r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]


_ARM = 0.34
_CROSS = [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]
_CROSS += [(-a, -b) for a, b in _CROSS]

_DRAW: dict[str, Draw] = {
    "circle": _circle,
    "square": _polygon([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    "triangle": _polygon([(0, -0.95), (1, 0.85), (-1, 0.85)]),
    "star": _polygon(_star()),
    "heart": _heart,
    "cross": _polygon(_CROSS),
    "moon": _moon,
    "diamond": _polygon([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]),
}
