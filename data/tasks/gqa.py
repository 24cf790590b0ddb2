"""GQA: questions about objects, their attributes and relations"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..asking import Asking
from ..broken import first_of
from ..errors import UserError
from ..example import Example
from ..local_or_hub import field, find, local, picture, read_json
from ..own_marks import Box, box_inside

VERSION = 1
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SPELLING = "free"  # answers are read in the model's own spelling
SOURCE = "GQA (Hudson and Manning 2019, arXiv 1902.09506): questions and scene graphs of a local directory"
FILES = "val_balanced_questions.json, val_sceneGraphs.json and the images"
DEFAULT_N = 500
# The six of arXiv 2411.18620 by GQA's own types.detailed, as its files are named.
SUBSETS = {
    "ChooseAttr": ("choose",),
    "ChooseCat": ("categoryThatThisChoose", "objThisChoose"),
    "ChooseRel": ("relChooser",),
    "CompareAttr": ("twoCommon",),
    "LogicalObj": ("existThatOr",),
    "QueryAttr": ("positionQuery",),
}
INSTRUCTION = " \nAnswer the question using a single word or phrase."
OVER = 3  # pixels that Visual Genome's boxes reach over the edges


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    template: str = TEMPLATE,
    broken: list[str] | None = None,
    path: str = "",
    subset: str = "+".join(SUBSETS),
    part: str = "val",
    opening: str = "",
    instruction: str = INSTRUCTION,
    prefix: str | None = None,
    split: str = "test",
) -> list[Example]:
    """Balanced questions of the subsets, drawn with `seed`, subsets in turn (default n = 500).

    path: a directory with <part>_balanced_questions.json, <part>_sceneGraphs.json and, anywhere below, the images.
    subset: of SUBSETS, joined by "+"; "all" for every question of the file. opening: what stands between image and
    question ("\\n" in raw prompts of LLaVA). Answer: GQA's; wrong: the option that the question offers beside it, yes
    or no, left or right; none elsewhere. Boxes: `asked_object`, the objects that the annotations of the question name,
    and `other_objects` of the scene graph. Marks: `asked_word`, `true_option`, `false_option`. Group: the image. Meta:
    subset, type, question. split "validation" gives others. broken: takes what is left out. The paper keeps only what
    its model answers rightly; here all are asked. UserError: a missing file or image, fields that are not GQA's.
    """
    directory = local(path, "gqa", FILES)
    asked, graphs = (find(directory, f"{part}_{name}.json", "gqa") for name in ("balanced_questions", "sceneGraphs"))
    questions, scenes = read_json(asked), read_json(graphs)
    chosen = _in_turn(questions, _types(subset), random.Random(seed))
    asking = Asking(template, opening, instruction, prefix)

    def make(item: tuple[str, str]) -> Example:
        name, kind = item
        where, question = f"{asked}, question {name}", questions[name]
        number, text, answer = (str(field(question, (key,), where)) for key in ("imageId", "question", "answer"))
        if number not in scenes:
            raise UserError(f"{where}: {graphs.name} has no image {number}")
        image = picture(f"{number}.jpg", directory, "gqa", where)
        words, others = (question.get("annotations") or {}).get("question") or {}, _wrong(question, answer)
        right, wrong = asking.answers(text, answer, others)
        marks = {"asked_word": _spans(text, words)} | _options(text, answer, others)
        boxes = _boxes(scenes[number], set(words.values()), image.size, f"{graphs}, image {number}")
        meta = {"subset": kind, "type": str(question["types"]["detailed"]), "question": text}
        segments = asking.segments(image, text, marks)
        return Example(f"gqa-{name}", f"gqa-{number}", segments, right, wrong, boxes=boxes, meta=meta)

    return first_of(chosen, make, DEFAULT_N if n is None else n, split, broken)


def _types(subset: str) -> dict[str, str]:
    """GQA's detailed type -> subset; {} for all questions."""
    if subset == "all":
        return {}
    for name in subset.split("+"):
        if name not in SUBSETS:
            raise UserError(f"gqa: no subset {name!r}; there are {', '.join(SUBSETS)}, or all")
    return {kind: name for name in subset.split("+") for kind in SUBSETS[name]}


def _in_turn(questions: Mapping[str, Any], types: Mapping[str, str], rng: random.Random) -> list[tuple[str, str]]:
    """(question, subset), shuffled, one of each subset after the other."""
    found: dict[str, list[str]] = {}
    for name in sorted(questions):
        kind = questions[name].get("types", {}).get("detailed", "")
        if not types or kind in types:
            found.setdefault(types.get(kind, "all"), []).append(name)
    for several in found.values():
        rng.shuffle(several)
    longest = max(map(len, found.values()), default=0)
    return [(found[kind][i], kind) for i in range(longest) for kind in found if i < len(found[kind])]


def _wrong(question: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    """The other options: those of the question's program ("red|blue", "car,left of|right of,s (1)"), yes or no."""
    for pair in (("yes", "no"), ("left", "right"), ("top", "bottom")):
        if answer in pair:
            return tuple(word for word in pair if word != answer)
    steps = [s for s in question.get("semantic", ()) if str(s.get("operation", "")).startswith("choose")]
    arguments = [part for s in steps for part in str(s.get("argument", "")).split(",") if "|" in part]
    options = [re.sub(r"\s*\(.*\)$", "", word).strip() for part in arguments for word in part.split("|")]
    return tuple(dict.fromkeys(word for word in options if word != answer)) if answer in options else ()


def _spans(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """Characters of words by number: "3", or "3:5" for those before the fifth."""
    places = [match.span() for match in re.finditer(r"\S+", text)]
    found = []
    for numbers in words:
        first, _, end = numbers.partition(":")
        inside = places[int(first) : int(end or int(first) + 1)]
        if inside:
            stop = len(text[: inside[-1][1]].rstrip("?,."))
            found.append((inside[0][0], stop))
    return found


def _options(text: str, answer: str, wrong: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """Where the question names its options; nowhere unless it names both."""
    named = {"true_option": answer, "false_option": wrong[0] if wrong else ""}
    found = {}
    for name, word in named.items():
        match = re.search(rf"\b{re.escape(word)}\b", text) if word else None
        if match is None:
            return {}
        found[name] = [match.span()]
    return found


def _boxes(graph: Mapping[str, Any], asked: set[str], size: tuple[int, int], where: str) -> dict[str, list[Box]]:
    stated = graph.get("width", size[0]), graph.get("height", size[1])
    if stated != size:
        raise UserError(f"{where}: its image has {size[0]} × {size[1]} pixels, the scene graph says {stated}")
    found: dict[str, list[Box]] = {"asked_object": [], "other_objects": []}
    for name, thing in field(graph, ("objects",), where).items():
        left, top, width, height = (field(thing, (key,), f"{where}, object {name}") for key in "xywh")
        box = box_inside((left, top, left + width, top + height), size, f"{where}, object {name}", OVER)
        found["asked_object" if name in asked else "other_objects"].append(box)
    return found
