"""What probes are asked for: classes that examples have, and words of the prompt that have nothing to do with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_mutual_info_score

from ...probes.runs.results import Rows

MOST = 12  # classes
PICTURE, ANSWER, ASKED, PROMPT = "picture", "answer", "asked object", "prompt"
COUNT = "number of objects"
NAMES = {"n_objects": COUNT, "asked": "word asked about", "kind": "kind of question", "treatment": "how it is drawn"}
TELLING = 0.5  # adjusted mutual information, from which a word is the target under another name
NOT_ASKED = ("id", "group", "condition", "objects", "question", "answer")  # columns that name, or whole texts


class Target(NamedTuple):
    """labels [n], "" where an example has none, or one that stands in too few groups. about: PICTURE, what it shows
    whatever is asked; ANSWER; ASKED, of the object that is asked about; PROMPT, what the prompt says by itself.
    left_out: why it cannot be read, or "".
    """

    labels: np.ndarray
    about: str = PROMPT
    left_out: str = ""

    @property
    def classes(self) -> list[str]:
        return sorted({*self.labels.tolist()} - {""})


def targets_of(rows: Rows, folds: int) -> dict[str, Target]:
    """Everything that the examples could be asked for, by name, with the reason where they cannot."""
    groups = rows.examples["group"].to_numpy()
    made = [*_answers(rows), *_pictured(rows.examples), *_where(rows), *_columns(rows.examples)]
    found: dict[str, Target] = {}
    for name, labels, about in made:
        target = checked(Target(labels, about), groups, folds)
        twin = next((other for other, one in found.items() if not one.left_out and _same(one, target)), "")
        found[name] = target._replace(left_out=f"the same classes as “{twin}”") if twin else target
    return found


def _same(one: Target, other: Target) -> bool:
    """Whether two targets part the examples alike, whatever the classes are called."""
    pairs = {*zip(one.labels.tolist(), other.labels.tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


Made = tuple[str, np.ndarray, str]


def checked(target: Target, groups: np.ndarray, folds: int) -> Target:
    """The target without the classes that stand in fewer groups than there are folds."""
    kept = [label for label in target.classes if len({*groups[target.labels == label]}) >= folds]
    labels = np.where(np.isin(target.labels, kept), target.labels, "")
    if len(target.classes) == 1:
        why = "all examples are of one class"
    elif len(kept) < 2:
        why = f"fewer than two classes stand in {folds} groups"
    else:
        why = f"{len(kept)} classes: at most {MOST} are read" if len(kept) > MOST else ""
    return target._replace(labels=labels, left_out=why)


def _answers(rows: Rows) -> Iterator[Made]:
    """First tokens of the answers; of each kind of question alone, where a task has several."""
    ids = rows["answer"].astype(int)
    if (ids < 0).all():
        return
    words = np.where(ids < 0, "", rows.words(np.maximum(ids, 0)).astype(str))
    if "kind" not in rows.examples:
        yield ANSWER, words, ANSWER
        return
    kinds = rows.examples["kind"].astype(str).to_numpy()
    for kind in sorted({*kinds}):
        yield f"{ANSWER}: {kind.replace('_', ' ')}", np.where(kinds == kind, words, ""), ANSWER


def _pictured(examples: pd.DataFrame) -> Iterator[Made]:
    """How many objects a picture has, and whether the colour and the shape that part the pictures best are there."""
    if "objects" not in examples:
        return
    things = [[tuple(one.split(" ")) for one in str(text).split(", ")] for text in examples["objects"]]
    if "n_objects" in examples:
        yield COUNT, examples["n_objects"].astype(str).to_numpy(), PICTURE
    for what in (0, -1):
        words = [{thing[what] for thing in own} for own in things]
        word = _evenly({w for own in words for w in own}, words)
        yield f"{word} in the picture", np.array(["yes" if word in own else "no" for own in words]), PICTURE


def _evenly(words: set[str], there: list[set[str]]) -> str:
    """The word that is there for nearest to half of the examples."""
    return min(sorted(words), key=lambda word: abs(np.mean([word in own for own in there]) - 0.5))


def _where(rows: Rows) -> Iterator[Made]:
    """The third of the picture that the middle of the asked thing lies in."""
    for axis, name, thirds in (
        (0, "column of the asked object", ("left", "middle", "right")),
        (1, "row of the asked object", ("top", "middle", "bottom")),
    ):
        share = rows["place"][:, axis]
        if not np.isnan(share).all():
            third = np.clip(np.nan_to_num(share) * 3, 0, 2).astype(int)
            yield name, np.where(np.isnan(share), "", np.array(thirds)[third]), ASKED


def _columns(examples: pd.DataFrame) -> Iterator[Made]:
    """What the task tells of its examples."""
    for column in examples:
        told = examples[column]
        if column not in NOT_ASKED and not (column == "n_objects" and "objects" in examples):
            words = told.astype(str).where(told.notna(), "").to_numpy(str)
            yield NAMES.get(str(column), str(column).replace("_", " ")), words, PROMPT


# ---------------------------------------------------------------- the control task


def types_of(rows: Rows, place: str, labels: np.ndarray) -> np.ndarray | None:
    """What gets a random label in the control task, [n]: of pictures that name their objects the first of these; else
    the word of the prompt, counted from its end, that has most values. None where no word will do.

    A word will do where it has as many values as there are classes, each in two groups at least, for half of the
    examples, and tells little of the labels themselves.
    """
    if place != "last" and "objects" in rows.examples:
        return rows.examples["objects"].astype(str).str.split(", ").str[0].to_numpy(str)
    groups, tail = rows.examples["group"].to_numpy(), rows["tail"].astype(int).astype(str)
    known = [words for words in tail.T if _values(words, groups) >= len({*labels}) and _tells(words, labels) < TELLING]
    return max(known, key=lambda words: _values(words, groups), default=None)


def _values(words: np.ndarray, groups: np.ndarray) -> int:
    """How many words stand in two groups at least; 0 where those of half of the examples do not."""
    several = [word for word in {*words.tolist()} - {"-1"} if len({*groups[words == word]}) > 1]
    return len(several) if np.isin(words, several).mean() > 0.5 else 0


def _tells(words: np.ndarray, labels: np.ndarray) -> float:
    return float(adjusted_mutual_info_score(labels, words))
