"""Measures of hallucination: yes-or-no questions about objects (POPE) and objects named in captions (CHAIR).

Pure functions of numpy arrays with one entry an example, so that a bootstrap over groups resamples counts and divides
last. What a caption names is counted by `data.words.count`.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .stats import quotient

POPE = ("accuracy", "precision", "recall", "F1", "yes rate", "false alarms")
CHAIR = ("CHAIR_S", "CHAIR_I", "recall", "object words", "length")
UNITS = {"object words": "words a caption", "length": "words a caption"}  # all others are shares
Array = NDArray[np.float64]
Ratio = tuple[Array, Array]


# ---------------------------------------------------------------- POPE


def says_yes(text: str) -> bool:
    """Whether a free answer is a yes, to the letter as POPE's evaluate.py reads it.

    Of the text up to the first ".", without commas and split at single blanks, no word is exactly "No", "no" or "not".
    So "NO", "No!", "No\\nThe …", "No,there is none", "I cannot see one." and "" are yes, "yes and no" is no: published
    numbers are read this way; `affirms` reads what is meant. Source: RUCAIBox/POPE, evaluate.py.
    """
    return not {"No", "no", "not"} & set(text.split(".")[0].replace(",", "").split(" "))


def affirms(text: str) -> bool | None:
    """Whether a free answer is meant as a yes; None where it has no word.

    The first "yes" or "no" of its first sentence decides, in any case and with any punctuation; without either, a
    negation there ("not", "none", "nothing", "never", "cannot", "isn't") makes it a no. "There is a dog." is a yes.
    """
    sentence = re.split(r"[.!?\n]", text.strip(), maxsplit=1)[0]
    words = re.findall(r"\w+(?:['’]\w+)*", (sentence if re.search(r"\w", sentence) else text).lower())
    for word in words:
        if word in ("yes", "no"):
            return word == "yes"
    negated = any(w in NEGATIONS or w.endswith(("n't", "n’t")) for w in words)
    return not negated if words else None


NEGATIONS = ("not", "none", "nothing", "never", "neither", "nor", "cannot", "nope")


def pope_ratios(said_yes: ArrayLike, truth: ArrayLike) -> dict[str, Ratio]:
    """Every POPE measure as (numerators, denominators) [n], to be summed and divided: 0…1 each.

    said_yes, truth: Boolean [n]. "accuracy": right answers. "precision": of the yes answers, those that are true.
    "recall": of the true questions, those answered yes. "F1": 2·TP / (2·TP + FP + FN). "yes rate": yes answers.
    "false alarms": of the false questions, those answered yes.
    Source: POPE (Li et al. 2023, arXiv 2305.10355). Errors: ValueError for unequal lengths or no examples.
    """
    yes, true = _checked(said_yes, truth)
    hit, one = (yes & true).astype(float), np.ones(len(yes))
    return {
        "accuracy": ((yes == true).astype(float), one),
        "precision": (hit, yes.astype(float)),
        "recall": (hit, true.astype(float)),
        "F1": (2 * hit, yes.astype(float) + true),
        "yes rate": (yes.astype(float), one),
        "false alarms": ((yes & ~true).astype(float), (~true).astype(float)),
    }


def pope(said_yes: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """The POPE measures of a list of answers; NaN where a denominator is 0."""
    return {name: float(quotient(*map(np.sum, ratio))) for name, ratio in pope_ratios(said_yes, truth).items()}


def pope_by_set(said_yes: ArrayLike, truth: ArrayLike, sets: ArrayLike) -> Array:
    """Numerators and denominators of every measure apart by set: [n, set, measure, 2], measures in the order of POPE.

    sets: [n], names such as "random", "popular", "adversarial", in sorted order along the axis; 0 where an example
    belongs to another set. `stats.bootstrap_statistic(parts, groups, over_sets)` gives the interval of what papers
    report, measures averaged over the three sets. Errors: as `pope_ratios`.
    """
    ratios = np.stack([np.stack(ratio, 1) for ratio in pope_ratios(said_yes, truth).values()], 1)
    names = np.asarray(sets)
    if names.shape != ratios.shape[:1]:
        raise ValueError(f"{names.shape} sets for {len(ratios)} answers: one name each is needed")
    return ratios[:, None] * (names[:, None] == np.unique(names))[:, :, None, None]


def over_sets(parts: ArrayLike) -> Array:
    """Sums or means [set, measure, 2] -> every measure as the mean over the sets of its ratio, [measure]; NaN where a
    set lacks it.
    """
    top, bottom = np.moveaxis(np.asarray(parts, float), -1, 0)
    return quotient(top, bottom).mean(0)


def pope_averaged(said_yes: ArrayLike, truth: ArrayLike, sets: ArrayLike) -> dict[str, float]:
    """The POPE measures averaged over the sets, as papers report them."""
    values = over_sets(pope_by_set(said_yes, truth, sets).sum(0))
    return {name: float(value) for name, value in zip(POPE, values, strict=True)}


# ---------------------------------------------------------------- CHAIR


def chair_ratios(
    named: ArrayLike, hallucinated: ArrayLike, found: ArrayLike, there: ArrayLike, length: ArrayLike | None = None
) -> dict[str, Ratio]:
    """Every CHAIR measure as (numerators, denominators) [n], to be summed and divided.

    Per caption, [n] each: objects named (every mention counts), of these hallucinated, objects that are there and
    named (each once), objects that are there (`data.words.Counts`), words of the caption. "CHAIR_S": captions with a
    hallucinated object. "CHAIR_I": mentions that are hallucinated. "recall": objects there that are named. "object
    words": mentions a caption. "length": words a caption, where they were counted.
    Source: CHAIR (Rohrbach et al. 2018, arXiv 1809.02156), with recall and length, without which a short caption
    looks truthful. Errors: ValueError for unequal lengths, no captions, or more hallucinated than named.
    """
    parts = [np.asarray(x, float) for x in (named, hallucinated, found, there, *([] if length is None else [length]))]
    if len({x.shape for x in parts}) > 1 or parts[0].ndim != 1 or not len(parts[0]):
        raise ValueError("one number a caption is needed, for at least one caption")
    mentions, wrong, right, objects, *words = parts
    if (wrong > mentions).any() or (right > objects).any():
        raise ValueError("more hallucinated than named, or more found than there")
    one = np.ones(len(mentions))
    ratios = {
        "CHAIR_S": ((wrong > 0).astype(float), one),
        "CHAIR_I": (wrong, mentions),
        "recall": (right, objects),
        "object words": (mentions, one),
    }
    return ratios | ({"length": (words[0], one)} if words else {})


def chair(
    named: ArrayLike, hallucinated: ArrayLike, found: ArrayLike, there: ArrayLike, length: ArrayLike | None = None
) -> dict[str, float]:
    """The CHAIR measures of a list of captions; NaN where a denominator is 0."""
    ratios = chair_ratios(named, hallucinated, found, there, length)
    return {name: float(quotient(*map(np.sum, ratio))) for name, ratio in ratios.items()}


def word_count(text: str) -> int:
    """Words of a caption."""
    return len(text.split())


def _checked(said_yes: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    yes, true = np.asarray(said_yes, bool), np.asarray(truth, bool)
    if yes.shape != true.shape or yes.ndim != 1 or not len(yes):
        raise ValueError(f"answers {yes.shape} and truth {true.shape} must be [n], n ≥ 1")
    return yes, true
