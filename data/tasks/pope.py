"""POPE: is there such an object in the image?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from ..errors import UserError
from ..example import Example, Segment
from ..images import open_image, rgb
from ..local_or_hub import field, find, from_hub, local, read_lines

VERSION = 2
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SOURCE = "POPE (Li et al. 2023, arXiv 2305.10355) on COCO val2014; local files, or lmms-lab/POPE of the hub"
KINDS = ("random", "popular", "adversarial")
FILES = "coco_pope_random.json, …_popular.json, …_adversarial.json, and the images"


class Item(NamedTuple):
    id: str
    where: str
    picture: str | Image
    name: str
    question: str
    label: str


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
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
    gives questions from the end of the list.
    Answer: "Yes" or "No", in the letters of the prompt's tokenizer. Group: the image. Meta: kind, asked.
    UserError: no files, an unknown kind, a label other than yes and no, an image that is missing or cannot be read, by
    file and line.
    """
    kinds = kind.split("+") if kind != "all" else list(KINDS)
    for name in kinds:
        if name not in KINDS:
            raise UserError(f"pope: no kind {name!r}; there are {', '.join(KINDS)}, or all")
    made: list[Example] = []
    for name in kinds:
        items = list(_from_hub(hub, revision, name) if hub else _from_files(path, name))
        items = items[::-1] if split == "validation" else items
        chosen = items[: None if n is None else -(-n // len(kinds))]
        made += [_example(item, name, opening.replace("\\n", "\n"), prefix, path) for item in chosen]
    return made[:n]


def _from_files(path: str, kind: str) -> Iterator[Item]:
    directory = local(path, "pope", FILES)
    file = find(directory, f"coco_pope_{kind}.json", "pope")
    for number, line in enumerate(read_lines(file), start=1):
        where = f"{file}, line {number}"
        name, asked = str(field(line, ("image",), where)), str(field(line, ("text", "question"), where))
        identity = str(line.get("question_id", number))
        yield Item(identity, where, name, name, asked, _label(field(line, ("label", "answer"), where), where))


def _from_hub(hub: str, revision: str, kind: str) -> Iterator[Item]:
    for number, row in enumerate(from_hub(hub, "test", revision, "pope"), start=1):
        where = f"{hub}, row {number}"
        if str(field(row, ("category",), where)) == kind:
            name = str(row.get("image_source") or number)
            asked, label = str(field(row, ("question", "text"), where)), field(row, ("answer", "label"), where)
            picture = field(row, ("image",), where)
            yield Item(str(row.get("question_id", number)), where, picture, name, asked, _label(label, where))


def _label(label: Any, where: str) -> str:
    word = str(label).strip().lower()
    if word not in ("yes", "no"):
        raise UserError(f"{where}: the label is {label!r}, yes or no is needed")
    return word


def _example(item: Item, kind: str, opening: str, prefix: str, path: str) -> Example:
    yes, no = prefix + "Yes", prefix + "No"
    right, wrong = (yes, no) if item.label == "yes" else (no, yes)
    segments = (Segment("image", _picture(item, path)), Segment("question", opening + item.question))
    meta = {"kind": f"pope_{kind}", "asked": item.question}
    return Example(f"pope-{kind}-{item.id}", item.name, segments, right, (wrong,), meta=meta)


def _picture(item: Item, path: str) -> Image:
    if isinstance(item.picture, Image):
        return rgb(item.picture, f"{item.where}: the image")
    if not isinstance(item.picture, str):
        raise UserError(f"{item.where}: the image is {type(item.picture).__name__}, a picture is needed")
    try:
        return open_image(find(Path(path).expanduser(), Path(item.picture).name, "pope"))
    except UserError as error:
        raise UserError(f"{item.where}: {error}") from None
