"""RefCOCO: expressions that refer to one object of a picture"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..asking import Asking
from ..broken import first_of
from ..errors import UserError
from ..example import Example
from ..local_or_hub import Row, field, find, hub_rows, json_rows, local, picture
from ..own_marks import box_inside

VERSION = 1
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SOURCE = (
    "RefCOCO (Kazemzadeh et al. 2014; Yu et al. 2016, arXiv 1608.00272); local files, or lmms-lab/RefCOCO of the hub"
)
FILES = "refcoco_val.jsonl as Qwen-VL publishes it, and the images"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    broken: list[str] | None = None,
    path: str = "",
    hub: str = "",
    revision: str = "",
    part: str = "val",
    kind: str = "refcoco",
    question: str = "Where is {}?",
    opening: str = "",
    split: str = "test",
) -> list[Example]:
    """Expressions in the file's order, an image before each (default: all).

    path: a directory with <kind>_<part>.jsonl (image, sent, bbox as corners, height, width: Qwen-VL's conversion of the
    published refs, which are a pickle and not read) and, anywhere below, the images. hub: instead a data set with the
    columns question_id, image, answer (several expressions), bbox as left, top, width, height, file_name
    (lmms-lab/RefCOCO), read at `revision`. kind: refcoco, refcoco+, refcocog. question: "{}" is the expression. No
    answer is asked. Boxes: `asked_object`. Marks: `expression`. Group: the image. Meta: expression. opening, split,
    broken: as in `gqa`. UserError: a missing file or image, fields that are not those, a box outside its picture.
    """
    if question.count("{}") != 1:
        raise UserError(f"refcoco: the question {question!r} needs one {{}} for the expression")
    directory, file = Path() if hub else local(path, "refcoco", FILES), f"{kind}_{part}.jsonl"
    before, after = question.split("{}")
    asking = Asking(opening=opening)
    rows = hub_rows(hub, part, revision, "refcoco") if hub else list(json_rows(find(directory, file, "refcoco")))

    def make(row: Row) -> Example:
        item, where = row.read(), row.where
        text, image = _expression(item, where), field(item, ("image",), where)
        shown = picture(image, directory, "refcoco", where)
        boxes = {"asked_object": [box_inside(_corners(item, where), shown.size, f"{where}: bbox", slack=2)]}
        marks = {"expression": [(len(before), len(before) + len(text))]}
        segments = asking.segments(shown, before + text + after, marks)
        group = Path(str(image if isinstance(image, str) else item.get("file_name") or row.name)).name
        name = f"{kind}-{part}-{item.get('question_id') or row.name}"
        return Example(name, group, segments, boxes=boxes, meta={"expression": text})

    return first_of(rows, make, n, split, broken)


def _expression(item: Mapping[str, Any], where: str) -> str:
    """Qwen-VL's one, or the first of the hub's."""
    said = field(item, ("sent", "answer"), where)
    text = str(said if isinstance(said, str) else next(iter(said), "")).strip()
    if not text:
        raise UserError(f"{where}: no expression")
    return text


def _corners(item: Mapping[str, Any], where: str) -> Any:
    """Qwen-VL's boxes are corners already, COCO's and the hub's left, top, width, height."""
    box = field(item, ("bbox",), where)
    if "sent" in item or len(box) != 4:
        return tuple(box)
    left, top, width, height = box
    return left, top, left + width, top + height
