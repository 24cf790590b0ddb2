"""POPE: is there such an object in the image?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..broken import first_of
from ..errors import UserError
from ..example import Example, Segment
from ..local_or_hub import Row, field, find, hub_rows, json_rows, local, picture

VERSION = 2
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SOURCE = "POPE (Li et al. 2023, arXiv 2305.10355) on COCO val2014; local files, or lmms-lab/POPE of the hub"
KINDS = ("random", "popular", "adversarial")
FILES = "coco_pope_random.json, …_popular.json, …_adversarial.json, and the images"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    broken: list[str] | None = None,
    path: str = "",
    hub: str = "",
    revision: str = "",
    kind: str = "random",
    opening: str = "",
    prefix: str = "",
    split: str = "test",
) -> list[Example]:
    """POPE's questions in the file's order, an image before each.

    path: a directory with POPE's JSON lines (coco_pope_<kind>.json) and, anywhere below, the images that they name.
    hub: instead a data set with columns question, answer, image, category (lmms-lab/POPE), read by `datasets` at
    `revision`. kind: random, popular or adversarial, or several joined by "+". opening: what stands between image and
    question, "" in a chat, whose template sets them apart itself (LLaVA's with a newline); "\\n" in raw prompts of
    LLaVA. prefix: what precedes the answers ("" in a chat, " " in raw prompts of most tokenizers). split "validation"
    gives questions from the end of the list. broken: takes the lines that are left out.
    Answer: "Yes" or "No", in the letters of the prompt's tokenizer. Group: the image. Meta: kind, asked.
    UserError: no files, an unknown kind, a label other than yes and no, an image that is missing or cannot be read, by
    file and line.
    """
    kinds = kind.split("+") if kind != "all" else list(KINDS)
    for name in kinds:
        if name not in KINDS:
            raise UserError(f"pope: no kind {name!r}; there are {', '.join(KINDS)}, or all")
    directory = Path() if hub else local(path, "pope", FILES)
    between, count = opening.replace("\\n", "\n"), None if n is None else -(-n // len(kinds))
    made: list[Example] = []
    for name in kinds:
        rows = hub_rows(hub, "test", revision, "pope") if hub else _from_file(directory, name)

        def make(row: Row, name: str = name) -> Example | None:
            return _example(row, name, directory, between, prefix)

        made += first_of(rows, make, count, split, broken)
    return made[:n]


def _from_file(directory: Path, kind: str) -> list[Row]:
    return list(json_rows(find(directory, f"coco_pope_{kind}.json", "pope")))


def _example(row: Row, kind: str, directory: Path, opening: str, prefix: str) -> Example | None:
    """None: a question of another kind, where a data set has all of them."""
    where, number, item = row.where, row.name, row.read()
    if str(item.get("category") or kind) != kind:
        return None
    image, asked = field(item, ("image",), where), str(field(item, ("text", "question"), where))
    label = field(item, ("label", "answer"), where)
    word = str(label).strip().lower()
    if word not in ("yes", "no"):
        raise UserError(f"{where}: the label is {label!r}, yes or no is needed")
    yes, no = prefix + "Yes", prefix + "No"
    right, wrong = (yes, no) if word == "yes" else (no, yes)
    segments = (Segment("image", picture(image, directory, "pope", where)), Segment("question", opening + asked))
    name = image if isinstance(image, str) else str(item.get("image_source") or number)
    meta = {"kind": f"pope_{kind}", "asked": asked}
    return Example(f"pope-{kind}-{item.get('question_id', number)}", name, segments, right, (wrong,), meta=meta)
