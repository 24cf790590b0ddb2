"""The world of the scenes: what can be in a picture, how often, together with what, and which split a layout is in."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from typing import NamedTuple

COLOURS = {
    "red": (220, 45, 40),
    "green": (45, 160, 60),
    "blue": (50, 85, 220),
    "yellow": (240, 220, 60),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
# How often a shape is drawn first: the popular ones are what POPE calls popular.
SHAPES = {"circle": 4, "square": 3, "triangle": 2, "star": 2, "heart": 1, "cross": 1, "moon": 1, "diamond": 1}
# Who keeps company with whom, and how often a further object is the partner of one that is there.
PARTNERS = {"circle": "moon", "square": "heart", "triangle": "diamond", "star": "cross"}
PARTNERS |= {rare: popular for popular, rare in PARTNERS.items()}
TOGETHER = 0.7
# Every shape has a colour of its own, three times as likely as each of the others.
USUAL_COLOUR = dict(zip(SHAPES, COLOURS, strict=True))
COLOUR_WEIGHT = 3

SIDE, CELL, GRID = 84, 28, 3  # pixels of a picture and of a cell; cells in a row
MOST = 4  # objects
TREATMENTS = ("clear", "faint", "small", "hidden")
DIFFICULTIES = (*TREATMENTS, "hard")
TINY = "tiny"  # a further one, below half a patch: for pictures drawn larger than a model sees them
PANEL_EMPTY = 0.25  # a panel with nothing behind it
SPLITS = {"train": range(0, 8), "validation": range(8, 9), "test": range(9, 10)}
Box = tuple[int, int, int, int]


class Thing(NamedTuple):
    """One object. cell: 0 … 8, row by row. treatment: one of TREATMENTS, or TINY. box: left, top, right, bottom."""

    shape: str
    colour: str
    cell: int
    treatment: str
    box: Box

    @property
    def column(self) -> int:
        return self.cell % GRID

    @property
    def row(self) -> int:
        return self.cell // GRID


class Scene(NamedTuple):
    """A picture before it is drawn. panel: what a grey board covers. seed: of background, tints and noise."""

    key: str
    things: tuple[Thing, ...]
    panel: Box | None
    seed: str
    difficulty: str

    @property
    def shapes(self) -> list[str]:
        return [thing.shape for thing in self.things]


def sample(split: str, seed: int, index: int, difficulty: str = "clear") -> Scene:
    """Scene number `index` of a split: 1 to 4 things of different shapes in different cells.

    difficulty: "clear"; "faint", "small": every thing with chance ½ and one at least; "hidden": a board in front of
    one thing or, in a quarter of the scenes, of an empty cell; "hard": things clear, faint or small, and a board;
    "tiny": every thing.
    """
    key = f"{split}-{seed}-{index}-{difficulty}"
    rng = random.Random(f"scenes {key}")
    layout = _layout(rng)
    while split_of(layout) != split:
        layout = _layout(rng)
    return _furnish(key, rng, layout, difficulty)


Layout = list[tuple[int, str, str]]  # (cell, shape, colour)


def split_of(layout: Sequence[tuple[int, str, str]]) -> str:
    """The one split that scenes of this layout belong to, whatever their size, tint and noise."""
    digest = hashlib.sha256(repr(sorted(layout)).encode()).digest()
    return next(name for name, share in SPLITS.items() if digest[0] % 10 in share)


def _layout(rng: random.Random) -> Layout:
    cells = rng.sample(range(GRID * GRID), rng.randint(1, MOST))
    shapes: list[str] = []
    for _ in cells:
        shapes.append(_next_shape(rng, shapes))
    return [(cell, shape, _colour(rng, shape)) for cell, shape in zip(cells, shapes, strict=True)]


def _next_shape(rng: random.Random, present: list[str]) -> str:
    lonely = [PARTNERS[shape] for shape in present if PARTNERS[shape] not in present]
    if lonely and rng.random() < TOGETHER:
        return rng.choice(lonely)
    absent = [shape for shape in SHAPES if shape not in present]
    return rng.choices(absent, [SHAPES[shape] for shape in absent])[0]


def _colour(rng: random.Random, shape: str) -> str:
    weights = [COLOUR_WEIGHT if colour == USUAL_COLOUR[shape] else 1 for colour in COLOURS]
    return rng.choices(list(COLOURS), weights)[0]


def _furnish(key: str, rng: random.Random, layout: Layout, difficulty: str) -> Scene:
    treatments = _treatments(rng, layout, difficulty)
    things = tuple(
        Thing(shape, colour, cell, treatment, _box(rng, cell, treatment))
        for (cell, shape, colour), treatment in zip(layout, treatments, strict=True)
    )
    return Scene(key, things, _panel(rng, things, difficulty), f"{key} paint", difficulty)


def _treatments(rng: random.Random, layout: Layout, difficulty: str) -> list[str]:
    n = len(layout)
    if difficulty in ("faint", "small"):
        chosen = [difficulty if rng.random() < 0.5 else "clear" for _ in range(n)]
        chosen[rng.randrange(n)] = difficulty
    elif difficulty == "hard":
        chosen = [rng.choice(("clear", "faint", "small")) for _ in range(n)]
    else:
        chosen = [TINY if difficulty == TINY else "clear"] * n
    if difficulty in ("hidden", "hard") and rng.random() >= PANEL_EMPTY:
        # Whoever has its partner in the picture is hidden first: what stands there tells what may stand behind.
        shapes = [shape for _, shape, _ in layout]
        paired = [i for i, shape in enumerate(shapes) if PARTNERS[shape] in shapes]
        chosen[rng.choice(paired or list(range(n)))] = "hidden"
    return chosen


def _box(rng: random.Random, cell: int, treatment: str) -> Box:
    """A square in the cell that touches all four patches of it; a tiny one lies anywhere in it."""
    if treatment == TINY:
        return _tiny_box(rng, cell)
    size = rng.randint(8, 11) if treatment == "small" else rng.randint(18, 26)
    low, high = max(0, CELL // 2 + 2 - size), min(CELL - size, CELL // 2 - 2)
    left, top = (corner + rng.randint(low, high) for corner in (cell % GRID * CELL, cell // GRID * CELL))
    return left, top, left + size, top + size


def _tiny_box(rng: random.Random, cell: int) -> Box:
    size = rng.randint(3, 6)
    left, top = (at * CELL + rng.randint(2, CELL - size - 2) for at in (cell % GRID, cell // GRID))
    return left, top, left + size, top + size


def _panel(rng: random.Random, things: Sequence[Thing], difficulty: str) -> Box | None:
    """The board: over its whole cell or from one side, at least over half of what it hides."""
    if difficulty not in ("hidden", "hard"):
        return None
    behind = [thing.cell for thing in things if thing.treatment == "hidden"]
    free = [cell for cell in range(GRID * GRID) if cell not in {thing.cell for thing in things}]
    cell = behind[0] if behind else rng.choice(free)
    left, top = cell % GRID * CELL, cell // GRID * CELL
    cut = rng.choice((0, 0, rng.randint(4, 12)))
    side = rng.randrange(4)
    return (
        left + cut * (side == 0),
        top + cut * (side == 1),
        left + CELL - cut * (side == 2),
        top + CELL - cut * (side == 3),
    )


@cache
def cooccurrence(scenes: int = 4000) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How many training scenes hold a shape, and how many hold two (both orders)."""
    single: Counter[str] = Counter()
    double: Counter[tuple[str, str]] = Counter()
    for index in range(scenes):
        shapes = sample("train", 0, index).shapes
        single.update(shapes)
        double.update(permutations(shapes, 2))
    return single, double
