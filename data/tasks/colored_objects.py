"""Colored objects"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from ..errors import UserError
from ..example import Example, Segment
from ..templates import Spans, fill, require_equal_length, single_tokens

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Merullo et al., arXiv 2310.08744, after BIG-bench's reasoning about colored objects"
DEFAULT_N = 270

QUESTION = (
    "Q: On the {surface}, {form} {a0} {color0} {object0}, {a1} {color1} {object1}, "
    "and {a2} {color2} {object2}. What color is the {asked}?"
)
SURFACES = ("table", "desk", "floor")
FORMS = ("there is", "you see", "I see")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black")
_OBJECTS = """pencil notebook pen cup plate jug mug puzzle textbook leash necklace bracelet bottle ball
envelope lighter bowl"""
OBJECTS = tuple(_OBJECTS.split())


class Scene(NamedTuple):
    surface: str
    form: str
    colors: list[str]
    objects: list[str]


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, shots: int = 1) -> list[Example]:
    """`shots` answered questions, then one left open; its answer is the Capitalised colour (default n = 270).

    Marks, all in the open question: `asked_object` (where it is asked for), `asked_color`, `other_colors`.
    Wrong: the two other colours of that question. Group: surface and sentence form of that question, in turn.
    Corrupt: another object of the same scene is asked for. Scenes of one prompt share no object, and the
    open question shares no colour with the answered ones. UserError where too few words are single tokens.
    """
    if shots not in (1, 2):
        raise UserError(f"colored_objects: shots must be 1 or 2, not {shots}")
    colors = set(single_tokens(tokenizer, [c.title() for c in COLORS], least=6, what="colored_objects, answers"))
    colors = [c for c in COLORS if c.title() in colors]
    colors = single_tokens(tokenizer, colors, least=6, what="colored_objects, colours")
    objects = single_tokens(tokenizer, OBJECTS, least=3 * (shots + 1), what="colored_objects, objects")
    rng = random.Random(seed)
    made = (_example(i, rng, colors, objects, shots) for i in range(DEFAULT_N if n is None else n))
    return [require_equal_length(tokenizer, example) for example in made]


def _example(index: int, rng: random.Random, colors: list[str], objects: list[str], shots: int) -> Example:
    colors, objects = rng.sample(colors, len(colors)), rng.sample(objects, len(objects))
    surface, form = SURFACES[index % 3], FORMS[index // 3 % 3]
    last = Scene(surface, form, colors[:3], objects[:3])
    shown = "".join(_shot(rng, colors[3:], objects[3 * k : 3 * k + 3]) for k in range(1, shots + 1))
    asked, other = rng.sample(range(3), 2)
    id, group = f"colored_objects-{index:04d}", f"{surface}, {form}"
    twin = _prompt(f"{id}-corrupt", group, shown, last, other)
    return _prompt(id, group, shown, last, asked, corrupt=twin)


def _shot(rng: random.Random, colors: list[str], objects: list[str]) -> str:
    scene = Scene(rng.choice(SURFACES), rng.choice(FORMS), rng.sample(colors, 3), objects)
    asked = rng.randrange(3)
    return f"{_question(scene, asked)[0]}\nA: {scene.colors[asked].title()}\n"


def _question(scene: Scene, asked: int) -> tuple[str, Spans]:
    values = {"surface": scene.surface, "form": scene.form, "asked": scene.objects[asked]}
    for i, (color, item) in enumerate(zip(scene.colors, scene.objects, strict=True)):
        values |= {f"a{i}": "an" if color[0] in "aeiou" else "a", f"color{i}": color, f"object{i}": item}
    return fill(QUESTION, values)


def _prompt(id: str, group: str, shown: str, scene: Scene, asked: int, corrupt: Example | None = None) -> Example:
    text, spans = _question(scene, asked)
    others = [i for i in range(3) if i != asked]
    marks = {
        "asked_object": spans["asked"],
        "asked_color": spans[f"color{asked}"],
        "other_colors": [span for i in others for span in spans[f"color{i}"]],
    }
    segments = (Segment("text", shown), Segment("question", text, marks), Segment("text", "\nA:"))
    wrong = tuple(" " + scene.colors[i].title() for i in others)
    return Example(id, group, segments, " " + scene.colors[asked].title(), wrong, corrupt)
