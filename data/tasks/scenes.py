"""Questions about pictures of coloured shapes"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import UserError
from ..example import Example, Objects, Segment
from ..templates import require_equal_length
from ..world import world
from ..world.questions import KINDS, NUMBERS, POPE, WORDS, Question, answer, ask, asked_things
from ..world.render import render
from ..world.told import Made, require_told, told, twin_of, with_choices
from ..world.world import DIFFICULTIES, SIDE, TINY, Scene, Thing

VERSION = 1
TEMPLATE = "raw"
BOS = True  # as the subject `scenes` was trained
SOURCE = "Crosslens, data/scenes.py: pictures drawn from a seed, whose objects, colours, places and boxes are known"
DEFAULT_N = 400
ALL = "+".join(KINDS)
# The prompt that the subject was trained on: BOS, image, OPENING, question, CLOSING.
OPENING, CLOSING = "\nQuestion: ", " Answer:"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    split: str = "test",
    kinds: str | Sequence[str] = ALL,
    difficulty: str | Sequence[str] = "clear",
    size: int = SIDE,
    twin: str = "image",
    form: str = "image",
    choices: bool = False,
) -> list[Example]:
    """Questions about scenes, kinds and difficulties in turn (default n = 400).

    split: "train", "validation", "test"; no layout (which shapes in which colours in which cells) is in two of them.
    kinds: of KINDS and POPE, joined by "+" or as a sequence. difficulty: of DIFFICULTIES, likewise, or
    TINY. size: pixels of a side, a multiple of 84, which the subject sees: larger ones are shrunk for it, and can be
    cropped (`crop_and_ask`). twin: what the corrupt twin has another of, "image" or "question" (of the same kind, about
    the same scene, as long and with another answer). form: "words" tells the scene in place of the image, "Image: a red
    circle, an orange star.", with marks `asked_object` and `other_objects` where the things stand.
    choices: the question ends with the answer and the twin's, "Select one: blue, red.", in an order by chance, with
    marks `true_option` and `false_option`. UserError: no such one of these, a negative seed, a kind that has one
    question or asks for what words do not tell.
    Answers, space in front, are one token of SmolLM2's tokenizer, except the captions'. Wrong: the other possible
    answers, the corrupt twin's first; none beside it for captions. Corrupt, by default: the same question about
    the same scene with one thing changed. Group: the scene; the kinds of one round share it where it allows them all.
    Boxes: `asked_object` (all things for count and caption, none where what is asked for is absent), `other_objects`.
    Marks in the question: `asked_word`, `other_word`. Meta: kind, difficulty, objects ("red circle, blue star"),
    n_objects, question, answer, asked ("circle"), treatment of the asked thing ("" without one).
    """
    kinds, difficulties = _chosen(kinds, (*KINDS, *POPE), "kind"), _chosen(difficulty, DIFFICULTIES, "difficulty", TINY)
    if size < SIDE or size % SIDE:
        raise UserError(f"scenes: size {size} is no multiple of {SIDE}, the pixels of a side that its subject sees")
    if seed < 0:
        raise UserError(f"scenes: seed {seed} is negative")
    if split not in world.SPLITS:
        raise UserError(f"scenes: no split {split!r}; there are {', '.join(world.SPLITS)}")
    require_told(kinds, twin, form, choices=choices)
    make = Made(tokenizer, size, twin, form, choices)
    cells = [(kind, level) for level in difficulties for kind in kinds]
    made = []
    for i in range(DEFAULT_N if n is None else n):
        kind, level = cells[i % len(cells)]
        scenes = _scenes(split, seed, i // len(cells), level)
        made.append(_example(f"scenes-{split}-{seed}-{i:05d}", kind, scenes, make))
    return made


def _chosen(given: str | Sequence[str], known: Sequence[str], what: str, *beside: str) -> list[str]:
    """The names that are given; "all": the known ones, without those beside them."""
    names = given.split("+") if isinstance(given, str) else list(given)
    names = list(known) if names == ["all"] else names
    for name in names:
        if name not in (*known, *beside):
            raise UserError(f"scenes: no {what} {name!r}; there are {', '.join((*known, *beside))}, or all")
    return names


def _example(id: str, kind: str, scenes: Iterator[Scene], make: Made) -> Example:
    for scene in scenes:
        # The three POPE sets ask for the same things where they ask for what is there.
        rng = random.Random(f"{scene.key} {'pope' if kind in POPE else kind}")
        question = ask(kind, scene, rng)
        pair = None if question is None else twin_of(question, scene, rng, make)
        if question is not None and pair is not None:
            return _paired(id, (question, scene), pair, make)
    raise AssertionError("endless")


def _paired(id: str, own: tuple[Question, Scene], pair: tuple[Question, Scene], make: Made) -> Example:
    """The example with its twin; in words both have to have as many tokens."""
    answers = [answer(*own), answer(*pair)]
    given = random.Random(id).sample(answers, 2) if make.choices else []
    how: dict[str, Any] = {"size": make.size, "form": make.form, "choices": given}
    corrupt = prompt(f"{id}-corrupt", *pair, answers[:1], **how)
    example = prompt(id, *own, answers[1:], corrupt, **how)
    known = make.form == "words" and make.tokenizer is not None
    return require_equal_length(make.tokenizer, example) if known else example


def _scenes(split: str, seed: int, number: int, level: str) -> Iterator[Scene]:
    """The round's scene, then spare ones that no other round has."""
    yield world.sample(split, seed, number, level)
    spare = 1_000_000 + number * 1000
    while True:
        yield world.sample(split, seed, spare, level)
        spare += 1


def prompt(
    id: str,
    question: Question,
    scene: Scene,
    wrong: Sequence[str] = (),
    corrupt: Example | None = None,
    size: int = SIDE,
    form: str = "image",
    choices: Sequence[str] = (),
) -> Example:
    """One question about one scene as an example. wrong: answers that come before the other possible ones.
    size: of the picture, in pixels, and so of the boxes. form: "image" or "words". choices: answers that it names.
    """
    text, spans = question.text()
    asked, right = asked_things(question, scene), answer(question, scene)
    marks = {f"{name}_word": spans[name] for name in ("asked", "other") if name in spans}
    told_text, options_at = with_choices(text, choices, right)
    marks |= options_at
    shown = Segment("image", render(scene, size)) if form == "image" else Segment("text", *told(scene, asked))
    segments = (
        shown,
        Segment("text", OPENING.rstrip()),
        Segment("question", " " + told_text, {n: [(a + 1, b + 1) for a, b in places] for n, places in marks.items()}),
        Segment("text", CLOSING),
    )
    boxes = _boxes(scene, asked, size) if form == "image" else {}
    meta = {
        "kind": question.kind,
        "difficulty": scene.difficulty,
        "objects": ", ".join(f"{thing.colour} {thing.shape}" for thing in scene.things),
        "n_objects": len(scene.things),
        "asked": question.asked,
        "question": text,
        "answer": right,
        "treatment": asked[0].treatment if len(asked) == 1 else "",
    }
    others = [option for option in options(question) if option != right and option not in wrong]
    # Captions alone are held to the objects that they name.
    caption = question.kind == "caption"
    held_to = Objects(WORDS, frozenset(scene.shapes)) if caption else None
    wrongs = tuple(" " + w for w in (*wrong, *others))
    return Example(id, scene.key, segments, " " + right, wrongs, corrupt, boxes, meta, held_to)


def _boxes(scene: Scene, asked: Sequence[Thing], size: int) -> dict[str, list[tuple[int, int, int, int]]]:
    return {
        "asked_object": [_drawn(thing, size) for thing in asked],
        "other_objects": [_drawn(thing, size) for thing in scene.things if thing not in asked],
    }


def _drawn(thing: Thing, size: int) -> tuple[int, int, int, int]:
    """The box of a thing in pixels of a picture of this size."""
    left, top, right, bottom = (edge * (size // SIDE) for edge in thing.box)
    return left, top, right, bottom


def scene_of(group: str) -> Scene:
    """The scene that an example's group names."""
    split, seed, index, difficulty = group.split("-")
    return world.sample(split, int(seed), int(index), difficulty)


def things_of(example: Example) -> dict[tuple[int, int, int, int], Thing]:
    """The things in the picture of one of this task's examples, by their boxes; none for any other example."""
    if not example.id.startswith("scenes-") or not example.images:
        return {}
    things = scene_of(example.group).things
    said = ", ".join(f"{thing.colour} {thing.shape}" for thing in things)
    # A corrupt twin's picture is another one of the same group.
    own = said == example.meta.get("objects")
    return {_drawn(thing, example.images[0].width): thing for thing in things} if own else {}


def other_scene(group: str) -> Scene:
    """Another scene of the same split and difficulty, of a seed that no example has: for swapped images."""
    split, seed, index, difficulty = group.split("-")
    return world.sample(split, -1 - int(seed), int(index), difficulty)


def options(question: Question) -> tuple[str, ...]:
    """The answers that a question of this kind can have; none are listed for captions."""
    if question.kind in ("left_right", "above_below"):
        return tuple(question.kind.split("_"))
    lists = {"colour": tuple(world.COLOURS), "shape": tuple(world.SHAPES), "count": NUMBERS, "caption": ()}
    return lists.get(question.kind, ("yes", "no"))
