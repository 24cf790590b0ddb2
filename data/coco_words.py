"""CHAIR's words for COCO: every word and phrase that names one of the 80 objects, and the phrases that name none.

Source: Rohrbach et al. 2018 (arXiv 1809.02156), data/synonyms.txt and utils/chair.py of LisaAnne/Hallucination. Of the
authors' list the 403 words are in coco_words.csv, as they are meant: there " motor bike" and " cheesecake" begin with a
blank and "iPhone" with its capital, so that they never match.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from .errors import UserError

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
JOINED = (
    *("motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light"),
    *("fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove"),
    *("tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier"),
    *("potted plant", "laptop computer", "home plate", "train track"),
)
# Pair of words -> the word that it is read as; it names nothing where that is no word of the list.
PAIRS = {
    **{pair: pair for pair in JOINED},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    **{"bow tie": "tie", "toilet seat": "toilet"},
}


@cache
def words(synonyms: str = "") -> dict[str, str]:
    """Every word or phrase -> COCO's object, "" where a phrase names none and hides its words ("train track").

    synonyms: a file in the authors' format, read to the letter as chair.py reads it; "" takes the project's own.
    UserError: no such file, or one that is not in that format.
    """
    named = _of_file(Path(synonyms).expanduser()) if synonyms else _own()
    return named | {pair: named.get(word, "") for pair, word in PAIRS.items()}


def _own() -> dict[str, str]:
    with Path(__file__).with_name("coco_words.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {word: row["object"] for row in rows for word in (row["object"], *filter(None, row["words"].split(";")))}


def _of_file(path: Path) -> dict[str, str]:
    """One object a line, its name first, ", " between words; without what chair.py never finds in a caption: words that
    begin with a blank or a capital, and phrases that are none of its pairs.
    """
    try:
        lines = [line.strip().split(", ") for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"task coco: synonyms={path} cannot be read as text: {error}") from error
    if not lines:
        raise UserError(f"task coco: synonyms={path} is empty; a line for each object is needed: person, girl, boy")
    named = {word: line[0] for line in lines for word in line}
    return {word: name for word, name in named.items() if word.islower() and (" " not in word or word in PAIRS)}
