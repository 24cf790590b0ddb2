"""COCO captions: describe this image in detail"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..broken import first_of
from ..coco_words import words
from ..errors import UserError
from ..example import Example, Objects, Segment
from ..images import open_image
from ..local_or_hub import field, find, local, read_json
from ..object_words import mentions

VERSION = 2
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SOURCE = "COCO (Lin et al. 2014): captions and instances of a local directory; CHAIR's words (data/coco_words.csv)"
DEFAULT_N = 500
FILES = "captions_val2014.json, instances_val2014.json and the images"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    broken: list[str] | None = None,
    path: str = "",
    year: str = "val2014",
    question: str = "Please describe this image in detail.",
    opening: str = "",
    synonyms: str = "",
    split: str = "test",
) -> list[Example]:
    """Images with a request for a caption, drawn with `seed` (default n = 500).

    path: a directory with captions_<year>.json and instances_<year>.json and, anywhere below, the images that they
    name. Objects that are there: those of the instances, and those that any of the five captions names, as CHAIR takes
    them. Boxes: one list of (left, top, right, bottom) for each object. Group: the image. split "validation": others.
    opening: what stands between image and question, as in `pope`.
    broken: takes the images that are left out.
    synonyms: a file of object words in place of the project's, such as CHAIR's synonyms.txt (see `coco_words.words`).
    UserError: a missing file or image, fields that are not COCO's, or an object that the synonyms lack.
    """
    directory, question = local(path, "coco", FILES), opening.replace("\\n", "\n") + question
    captions, instances = (find(directory, f"{kind}_{year}.json", "coco") for kind in ("captions", "instances"))
    told, drawn, vocabulary = read_json(captions), read_json(instances), words(synonyms)
    known = set(vocabulary.values())
    names = {c["id"]: c["name"] for c in field(drawn, ("categories",), str(instances))}
    boxes: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for item in field(drawn, ("annotations",), str(instances)):
        where = f"{instances}, annotation {item.get('id')}"
        left, top, width, height = field(item, ("bbox",), where)
        name = names.get(field(item, ("category_id",), where))
        if name is None:
            raise UserError(f"{where}: no category {item['category_id']}")
        if name not in known:
            raise UserError(f"{where}: the object {name!r} begins no line of synonyms={synonyms or 'coco_words.csv'}")
        boxes[item["image_id"]][name].append(tuple(round(v) for v in (left, top, left + width, top + height)))
    texts: dict[int, list[str]] = defaultdict(list)
    for item in field(told, ("annotations",), str(captions)):
        texts[item["image_id"]].append(str(field(item, ("caption",), f"{captions}, annotation {item.get('id')}")))
    images = sorted(field(told, ("images",), str(captions)), key=lambda image: image["id"])
    random.Random(seed).shuffle(images)

    def make(image: dict[str, Any]) -> Example:
        name = image["id"]
        return _example(directory, image, question, boxes[name], _objects(vocabulary, texts[name], boxes[name]))

    return first_of(images, make, DEFAULT_N if n is None else n, split, broken)


def _objects(vocabulary: dict[str, str], texts: list[str], boxes: dict[str, list[Any]]) -> Objects:
    named = {mention.object for text in texts for mention in mentions(text, vocabulary)}
    return Objects(vocabulary, frozenset(named | set(boxes)))


def _example(
    directory: Path, image: dict[str, Any], question: str, boxes: dict[str, list[Any]], objects: Objects
) -> Example:
    picture = open_image(find(directory, Path(image["file_name"]).name, "coco"))
    _refuse_other_size(image, picture.size)
    segments = (Segment("image", picture), Segment("question", question))
    meta = {"kind": "caption", "objects": ", ".join(sorted(objects.there))}
    name = f"coco-{image['id']}"
    return Example(name, name, segments, boxes=dict(boxes), meta=meta, objects=objects)


def _refuse_other_size(image: dict[str, Any], size: tuple[int, int]) -> None:
    """Boxes are stated for the picture as it is shown, turned as its EXIF says."""
    stated = image.get("width", size[0]), image.get("height", size[1])
    if size != stated:
        raise UserError(
            f"{image['file_name']}: {size[0]} × {size[1]} pixels as it is shown, the annotation says {stated[0]} × "
            f"{stated[1]}: its boxes would lie elsewhere (does its EXIF turn it?)"
        )
