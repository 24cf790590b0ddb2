"""Questions about scenes: what is asked, the true answer, and the smallest change of the scene that changes it."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from ..object_words import mentions
from ..templates import Spans, fill
from . import world
from .world import Scene, Thing

KINDS = ("colour", "shape", "existence", "coloured_existence", "left_right", "above_below", "count", "caption")
POPE = ("pope_random", "pope_popular", "pope_adversarial")
TEMPLATES = {
    "colour": "What color is the {asked}?",
    "shape": "What shape is the {asked} object?",
    "existence": "Is there {article} {asked}?",
    "coloured_existence": "Is there {article} {asked}?",
    "left_right": "Is the {asked} left or right of the {other}?",
    "above_below": "Is the {asked} above or below the {other}?",
    "count": "How many objects are there?",
    "caption": "Describe the image.",
}
TEMPLATES |= dict.fromkeys(POPE, TEMPLATES["existence"])
NUMBERS = ("one", "two", "three", "four")
WORDS = {shape: shape for shape in world.SHAPES}


class Question(NamedTuple):
    """asked, other: the words put into the kind's template ("" where it has none)."""

    kind: str
    asked: str = ""
    other: str = ""

    def text(self) -> tuple[str, Spans]:
        """The question and where its words stand."""
        article = "an" if self.asked[:1] in ("a", "e", "i", "o", "u") else "a"
        words = {"asked": self.asked, "other": self.other, "article": article}
        return fill(TEMPLATES[self.kind], words)


def ask(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    """A question of this kind with one true answer about this scene; None where the scene allows none."""
    return _ASK[kind](kind, scene, rng)


def answer(question: Question, scene: Scene) -> str:
    """The true answer, without a space in front; "" where the question has none in this scene."""
    kind, things = question.kind, asked_things(question, scene)
    if kind == "caption":
        return caption(scene)
    if kind == "count":
        return NUMBERS[len(scene.things) - 1]
    if kind.endswith("existence") or kind in POPE:
        return "yes" if things else "no"
    if len(things) != 1:
        return ""
    if kind == "colour":
        return things[0].colour
    return things[0].shape if kind == "shape" else _side(kind, things[0], _named(scene, question.other))


def asked_things(question: Question, scene: Scene) -> list[Thing]:
    """The things that the question is about: none where what is asked for is not there."""
    if question.kind in ("count", "caption"):
        return list(scene.things)
    words = question.asked.split()
    return [thing for thing in scene.things if all(word in (thing.colour, thing.shape) for word in words)]


def caption(scene: Scene) -> str:
    """ "a red circle, an orange star." in reading order."""
    return ", ".join(name for _, name in named_things(scene)) + "."


def named_things(scene: Scene) -> list[tuple[Thing, str]]:
    """Every thing with its name and article, "an orange star", in reading order."""
    ordered = sorted(scene.things, key=lambda thing: thing.cell)
    return [(t, f"{'an' if t.colour[0] == 'o' else 'a'} {t.colour} {t.shape}") for t in ordered]


def mentioned(text: str) -> list[str]:
    """The object words of a caption, in order and as often as it says them: what CHAIR counts."""
    return [mention.object for mention in mentions(text, WORDS)]


def coloured(text: str) -> set[str]:
    """The coloured objects that a caption names: {"red circle", …}."""
    words = text.replace(",", " ").replace(".", " ").split()
    pairs = pairwise(words)
    return {f"{a} {b}" for a, b in pairs if a in world.COLOURS and b in world.SHAPES}


def _side(kind: str, thing: Thing, other: Thing | None) -> str:
    if other is None:
        return ""
    step = thing.column - other.column if kind == "left_right" else thing.row - other.row
    return "" if step == 0 else kind.split("_")[step > 0]


def _named(scene: Scene, shape: str) -> Thing | None:
    return next((thing for thing in scene.things if thing.shape == shape), None)


def _ask_colour(kind: str, scene: Scene, rng: random.Random) -> Question:
    return Question(kind, rng.choice(scene.shapes))


def _ask_shape(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    colours = [thing.colour for thing in scene.things]
    unique = [colour for colour in colours if colours.count(colour) == 1]
    return Question(kind, rng.choice(unique)) if unique else None


def _ask_existence(kind: str, scene: Scene, rng: random.Random) -> Question:
    return Question(kind, rng.choice(scene.shapes if rng.random() < 0.5 else _absent(scene)))


def _ask_coloured(kind: str, scene: Scene, rng: random.Random) -> Question:
    """No: half of the time a shape that is there in another colour, else another shape in a colour that is there."""
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        return Question(kind, f"{thing.colour} {thing.shape}")
    if rng.random() < 0.5:
        return Question(kind, f"{rng.choice([c for c in world.COLOURS if c != thing.colour])} {thing.shape}")
    return Question(kind, f"{thing.colour} {rng.choice(_absent(scene))}")


def _ask_relation(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    pairs = [(a.shape, b.shape) for a in scene.things for b in scene.things if _side(kind, a, b)]
    return Question(kind, *rng.choice(pairs)) if pairs else None


def _ask_nothing(kind: str, scene: Scene, rng: random.Random) -> Question:
    return Question(kind)


def _ask_pope(kind: str, scene: Scene, rng: random.Random) -> Question:
    """Half present; else an absent shape: any, the most frequent in training, or the best company of what is there."""
    if rng.random() < 0.5:
        return Question(kind, rng.choice(scene.shapes))
    single, double = world.cooccurrence()

    def company(shape: str) -> float:
        return max(double[there, shape] / single[there] for there in scene.shapes)

    absent = _absent(scene)
    rank = {"pope_popular": single.__getitem__, "pope_adversarial": company}.get(kind)
    return Question(kind, rng.choice(absent) if rank is None else max(absent, key=rank))


def _absent(scene: Scene) -> list[str]:
    return [shape for shape in world.SHAPES if shape not in scene.shapes]


_ASK: dict[str, Callable[[str, Scene, random.Random], Question | None]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "existence": _ask_existence,
    "coloured_existence": _ask_coloured,
    "left_right": _ask_relation,
    "above_below": _ask_relation,
    "count": _ask_nothing,
    "caption": _ask_nothing,
    **dict.fromkeys(POPE, _ask_pope),
}


def twin(question: Question, scene: Scene, rng: random.Random) -> Scene:
    """The same scene with one thing changed (two swapped, one more or fewer) so that the answer is another."""
    kind, things = question.kind, asked_things(question, scene)
    if kind in ("left_right", "above_below"):
        return _swapped(scene, things[0], _named(scene, question.other))
    if kind == "count":
        return _one_more_or_fewer(scene, rng)
    thing = things[0] if things and kind != "caption" else rng.choice(scene.things)
    if kind in ("colour", "caption") or (kind == "coloured_existence" and things):
        return _with(scene, thing, colour=rng.choice([c for c in world.COLOURS if c != thing.colour]))
    if things:
        return _with(scene, thing, shape=rng.choice(_absent(scene)))
    colour, shape = question.asked.split() if " " in question.asked else (thing.colour, question.asked)
    there = _named(scene, shape)  # shapes differ within a scene: one that is there takes the colour
    return _with(scene, there or thing, colour=colour, shape=shape)


def _with(scene: Scene, thing: Thing, **changed: str) -> Scene:
    new = thing._replace(**changed)
    return scene._replace(things=tuple(new if other == thing else other for other in scene.things))


def _moved(thing: Thing, cell: int) -> Thing:
    right, down = (world.CELL * n for n in (cell % 3 - thing.column, cell // 3 - thing.row))
    left, top, far, low = thing.box
    return thing._replace(cell=cell, box=(left + right, top + down, far + right, low + down))


def _swapped(scene: Scene, a: Thing, b: Thing | None) -> Scene:
    """Two things change their shapes and colours, so that size, faintness and board stay where they are."""
    assert b is not None
    new = {a: a._replace(shape=b.shape, colour=b.colour), b: b._replace(shape=a.shape, colour=a.colour)}
    return scene._replace(things=tuple(new.get(thing, thing) for thing in scene.things))


def _one_more_or_fewer(scene: Scene, rng: random.Random) -> Scene:
    n = len(scene.things)
    if n > 1 and (n == world.MOST or rng.random() < 0.5):
        lost = rng.choice(scene.things)
        return scene._replace(things=tuple(thing for thing in scene.things if thing != lost))
    taken = {thing.cell for thing in scene.things}
    free = [cell for cell in range(9) if cell not in taken and not _behind(scene.panel, cell)]
    new = _moved(rng.choice(scene.things), rng.choice(free))
    shape, colour = rng.choice(_absent(scene)), rng.choice(list(world.COLOURS))
    return scene._replace(things=(*scene.things, new._replace(shape=shape, colour=colour)))


def _behind(panel: world.Box | None, cell: int) -> bool:
    return panel is not None and cell == panel[1] // world.CELL * 3 + panel[0] // world.CELL
