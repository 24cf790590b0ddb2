"""V*: small things in large pictures"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..asking import Asking
from ..broken import first_of
from ..errors import UserError
from ..example import Example
from ..local_or_hub import Row, field, find, json_rows, local, picture, read_json
from ..own_marks import Box, box_inside

VERSION = 1
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SPELLING = "free"  # answers are read in the model's own spelling
SOURCE = "V* (Wu and Xie 2023, arXiv 2312.14135): the files of craigwu/vstar_bench in a local directory"
FILES = "test_questions.jsonl, direct_attributes/ and relative_position/ with a picture and a JSON each"
CATEGORIES = ("direct_attributes", "relative_position")
OPTION = re.compile(r"\(([A-F])\) ")


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    template: str = TEMPLATE,
    broken: list[str] | None = None,
    path: str = "",
    category: str = "+".join(CATEGORIES),
    opening: str = "",
    prefix: str | None = None,
    split: str = "test",
) -> list[Example]:
    """Questions with lettered options in the file's order, a picture before each (default: all 191).

    path: craigwu/vstar_bench as it was downloaded. category: of CATEGORIES, joined by "+". Answer: the letter, wrong:
    the other letters. Boxes: `asked_object`, the target objects, from the JSON beside the picture (left, top, width,
    height). Marks: `true_option`, the right option's text. Group: the picture. Meta: category, objects, question.
    opening, prefix, split, broken: as in `gqa`. UserError: a missing file or picture, fields that are not V*'s, a label
    that is none of the options.
    """
    for name in category.split("+"):
        if name not in CATEGORIES:
            raise UserError(f"vstar: no category {name!r}; there are {', '.join(CATEGORIES)}")
    file = find(local(path, "vstar", FILES), "test_questions.jsonl", "vstar")
    asking = Asking(template, opening, prefix=prefix)

    def make(row: Row) -> Example | None:
        item, where = row.read(), row.where
        kind = str(field(item, ("category",), where))
        if kind not in category.split("+"):
            return None
        image, text, label = (str(field(item, (key,), where)) for key in ("image", "text", "label"))
        shown, folder = picture(image, file.parent / kind, "vstar", where), file.parent / kind
        told = read_json(find(folder, f"{Path(image).stem}.json", "vstar"))
        options = _options(text, label.strip(), where)
        right, wrong = asking.answers(text, label.strip(), [o for o in options if o != label.strip()])
        segments = asking.segments(shown, text, {"true_option": [options[label.strip()]]})
        things = ", ".join(map(str, field(told, ("target_object",), where)))
        meta = {"category": kind, "objects": things, "question": text.split("\n")[0]}
        name, group = f"vstar-{item.get('question_id', row.name)}", f"vstar-{Path(image).stem}"
        return Example(name, group, segments, right, wrong, boxes=_boxes(told, shown.size, where), meta=meta)

    return first_of(list(json_rows(file)), make, n, split, broken)


def _options(text: str, label: str, where: str) -> dict[str, tuple[int, int]]:
    """Letter -> the characters of its option, to the end of the line."""
    found = {match[1]: match.end() for match in OPTION.finditer(text)}
    if label not in found:
        raise UserError(
            f"{where}: the label {label!r} is none of the options ({', '.join(found) or 'none in the text'})"
        )
    ends = {letter: text.find("\n", start) for letter, start in found.items()}
    return {letter: (start, ends[letter] if ends[letter] > 0 else len(text)) for letter, start in found.items()}


def _boxes(told: Mapping[str, Any], size: tuple[int, int], where: str) -> dict[str, list[Box]]:
    boxes = []
    for left, top, width, height in field(told, ("bbox",), where):
        boxes.append(box_inside((left, top, left + width, top + height), size, f"{where}: bbox", slack=2))
    return {"asked_object": boxes}
