"""TextVQA: questions about text in pictures"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..asking import BRIEFLY, Asking
from ..broken import first_of
from ..errors import UserError
from ..example import Example
from ..local_or_hub import Row, field, find, hub_rows, local, picture, read_json
from ..own_marks import Box, box_inside

VERSION = 1
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SPELLING = "free"  # answers are read in the model's own spelling
SOURCE = "TextVQA 0.5.1 (Singh et al. 2019, arXiv 1904.08920); local files, or lmms-lab/textvqa of the hub"
FILES = "TextVQA_0.5.1_val.json, TextVQA_Rosetta_OCR_v0.2_val.json (for boxes) and the images"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    template: str = TEMPLATE,
    broken: list[str] | None = None,
    path: str = "",
    hub: str = "",
    revision: str = "",
    part: str = "val",
    opening: str = "",
    instruction: str = BRIEFLY,
    prefix: str | None = None,
    split: str = "test",
) -> list[Example]:
    """Questions in the file's order, an image before each (default: all).

    path: a directory with TextVQA_0.5.1_<part>.json and, anywhere below, <image_id>.jpg; with
    TextVQA_Rosetta_OCR_v0.2_<part>.json beside it every word that was read has a box. hub: instead a data set with
    TextVQA's columns and image (lmms-lab/textvqa, split validation), read at `revision`; it has no boxes. Answer: what
    most of the ten said, the first of several; none is wrong. Boxes: `answer_text`, words that the answer has;
    `other_text`. Words that lie turned have the box around them. Group: the image. Meta: agreed (how many of the ten
    said so), question. opening, prefix, split, broken: as in `gqa`. UserError: a missing file or image, fields that are
    not TextVQA's, a part without answers.
    """
    directory = Path() if hub else local(path, "textvqa", FILES)
    rows = hub_rows(hub, "validation", revision, "textvqa") if hub else _from_file(directory, part)
    words = {} if hub else _words(directory, part)
    asking = Asking(template, opening, instruction, prefix)

    def make(row: Row) -> Example:
        item, where = row.read(), row.where
        text, name, image = (str(field(item, (key,), where)) for key in ("question", "question_id", "image_id"))
        answer, agreed = _most_said(item, where)
        shown = picture(item.get("image") or f"{image}.jpg", directory, "textvqa", where)
        boxes = _boxes(words[image], answer, shown.size, where) if image in words else {}
        right, wrong = asking.answers(text, answer)
        meta, segments = {"agreed": agreed, "question": text}, asking.segments(shown, text)
        return Example(f"textvqa-{name}", f"textvqa-{image}", segments, right, wrong, boxes=boxes, meta=meta)

    return first_of(rows, make, n, split, broken)


def _from_file(directory: Path, part: str) -> list[Row]:
    file = find(directory, f"TextVQA_0.5.1_{part}.json", "textvqa")
    named = [(str(item.get("question_id")), item) for item in field(read_json(file), ("data",), str(file))]
    return [Row(f"{file}, question {name}", name, lambda item=item: item) for name, item in named]


def _words(directory: Path, part: str) -> dict[str, list[Any]]:
    """Image -> ocr_info, where there is that file."""
    try:
        file = find(directory, f"TextVQA_Rosetta_OCR_v0.2_{part}.json", "textvqa")
    except UserError:
        return {}
    return {item["image_id"]: item.get("ocr_info", []) for item in field(read_json(file), ("data",), str(file))}


def _most_said(item: Mapping[str, Any], where: str) -> tuple[str, int]:
    said = [str(answer) for answer in field(item, ("answers",), where) if str(answer).strip()]
    if not said:
        raise UserError(f"{where}: no answers (the test part has none): take part=val")
    return Counter(said).most_common(1)[0]


def _boxes(words: list[Any], answer: str, size: tuple[int, int], where: str) -> dict[str, list[Box]]:
    """Rosetta's boxes are shares of the picture's width and height."""
    known = set(answer.lower().split())
    found: dict[str, list[Box]] = {"answer_text": [], "other_text": []}
    for item in words:
        box, word = field(item, ("bounding_box",), where), str(field(item, ("word",), where))
        left, top, width, height = (
            field(box, (key,), where) for key in ("top_left_x", "top_left_y", "width", "height")
        )
        x, y = size
        pixels = (left * x, top * y, (left + width) * x, (top + height) * y)
        inside = (max(0, pixels[0]), max(0, pixels[1]), min(x, pixels[2]), min(y, pixels[3]))
        # A word of less than a pixel, or beyond the edge, has no place.
        if round(inside[0]) < round(inside[2]) and round(inside[1]) < round(inside[3]):
            name = "answer_text" if word.lower() in known else "other_text"
            found[name].append(box_inside(inside, size, f"{where}, word {word!r}"))
    return found
