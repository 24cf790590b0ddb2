"""VQA v2: open questions about pictures, ten people's answers each"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..asking import BRIEFLY, Asking
from ..broken import first_of
from ..errors import UserError
from ..example import Example
from ..local_or_hub import Row, field, find, hub_rows, local, picture, read_json

VERSION = 1
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SPELLING = "free"  # answers are read in the model's own spelling
SOURCE = "VQA v2 (Goyal et al. 2017, arXiv 1612.00837) on COCO; local files, or lmms-lab/VQAv2 of the hub"
FILES = "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and the images"


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
    part: str = "val2014",
    kind: str = "all",
    opening: str = "",
    instruction: str = BRIEFLY,
    prefix: str | None = None,
    split: str = "test",
) -> list[Example]:
    """Questions in the file's order, an image before each (default: all).

    path: a directory with v2_OpenEnded_mscoco_<part>_questions.json, v2_mscoco_<part>_annotations.json and, anywhere
    below, COCO_<part>_<12 digits>.jpg. hub: instead a data set with VQA's columns and image (lmms-lab/VQAv2, split
    validation), read at `revision`. kind: yes/no, number, other or all (VQA's answer_type). Answer: VQA's
    multiple_choice_answer, the most frequent one; wrong: yes or no beside the other, none elsewhere. Group: the image.
    Meta: kind, question_type, agreed (how many of the ten said so), question. opening, prefix, split, broken: as in
    `gqa`. UserError: a missing file or image, fields that are not VQA's.
    """
    if kind not in ("yes/no", "number", "other", "all"):
        raise UserError(f"vqav2: no kind {kind!r}; there are yes/no, number, other, all")
    directory = Path() if hub else local(path, "vqav2", FILES)
    rows = hub_rows(hub, "validation", revision, "vqav2") if hub else _from_files(directory, part)
    asking = Asking(template, opening, instruction, prefix)

    def make(row: Row) -> Example | None:
        item, where = row.read(), row.where
        if kind not in ("all", item.get("answer_type")):
            return None
        text, answer, name, image = (str(field(item, (key,), where)) for key in NEEDED)
        shown = picture(item.get("image") or f"COCO_{part}_{int(image):012d}.jpg", directory, "vqav2", where)
        others = [word for word in ("yes", "no") if word != answer] if answer in ("yes", "no") else []
        right, wrong = asking.answers(text, answer, others)
        said = [str(one.get("answer")) for one in item.get("answers") or ()]
        meta = {"kind": str(item.get("answer_type", "")), "question_type": str(item.get("question_type", ""))}
        meta |= {"agreed": said.count(answer), "question": text}
        return Example(f"vqav2-{name}", f"vqav2-{image}", asking.segments(shown, text), right, wrong, meta=meta)

    return first_of(rows, make, n, split, broken)


NEEDED = ("question", "multiple_choice_answer", "question_id", "image_id")


def _from_files(directory: Path, part: str) -> list[Row]:
    """Every question with its annotation."""
    asked = find(directory, f"v2_OpenEnded_mscoco_{part}_questions.json", "vqav2")
    told = find(directory, f"v2_mscoco_{part}_annotations.json", "vqav2")
    answers = {one.get("question_id"): one for one in field(read_json(told), ("annotations",), str(told))}

    def read(question: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**answers.get(question.get("question_id"), {}), **question}

    questions = field(read_json(asked), ("questions",), str(asked))
    names = [str(question.get("question_id")) for question in questions]
    return [Row(f"{asked}, question {n}", n, partial(read, q)) for n, q in zip(names, questions, strict=True)]
