"""Measures of hallucination: yes-or-no questions about objects (POPE) and objects named in captions (CHAIR).

Pure functions of numpy arrays with one entry an example, so that a bootstrap over groups resamples counts and divides
last.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

POPE = ("accuracy", "precision", "recall", "F1", "yes rate")
CHAIR = ("CHAIR_S", "CHAIR_I", "recall", "length")
Ratio = tuple[NDArray[np.float64], NDArray[np.float64]]


def pope_ratios(said_yes: ArrayLike, truth: ArrayLike) -> dict[str, Ratio]:
    """Every POPE measure as (numerators, denominators) [n], to be summed and divided: 0…1 each.

    said_yes, truth: Boolean [n]. "accuracy": right answers. "precision": of the yes answers, those that are true.
    "recall": of the true questions, those answered yes. "F1": 2·TP / (2·TP + FP + FN). "yes rate": yes answers.
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
    }


def pope(said_yes: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """The POPE measures of a list of answers; NaN where a denominator is 0."""
    return {name: _divide(*ratio) for name, ratio in pope_ratios(said_yes, truth).items()}


def chair_ratios(named: ArrayLike, hallucinated: ArrayLike, found: ArrayLike, there: ArrayLike, length: ArrayLike):
    """Every CHAIR measure as (numerators, denominators) [n], to be summed and divided.

    Per caption, [n] each: objects named (every mention counts), of these hallucinated, objects that are there and
    named (each once), objects that are there, words of the caption. "CHAIR_S": captions with a hallucinated object.
    "CHAIR_I": mentions that are hallucinated. "recall": objects there that are named. "length": words a caption.
    Source: CHAIR (Rohrbach et al. 2018, arXiv 1809.02156), with recall and length, without which a short caption
    looks truthful. Errors: ValueError for unequal lengths, no captions, or more hallucinated than named.
    """
    parts = [np.asarray(x, float) for x in (named, hallucinated, found, there, length)]
    if len({x.shape for x in parts}) > 1 or parts[0].ndim != 1 or not len(parts[0]):
        raise ValueError("one number a caption is needed, for at least one caption")
    named_, wrong, found_, there_, words = parts
    if (wrong > named_).any() or (found_ > there_).any():
        raise ValueError("more hallucinated than named, or more found than there")
    one = np.ones(len(words))
    return {
        "CHAIR_S": ((wrong > 0).astype(float), one),
        "CHAIR_I": (wrong, named_),
        "recall": (found_, there_),
        "length": (words, one),
    }


def chair(named: ArrayLike, hallucinated: ArrayLike, found: ArrayLike, there: ArrayLike, length: ArrayLike):
    """The CHAIR measures of a list of captions; NaN where a denominator is 0."""
    ratios = chair_ratios(named, hallucinated, found, there, length)
    return {name: _divide(*ratio) for name, ratio in ratios.items()}


def says_yes(text: str) -> bool:
    """Whether a free answer is a yes, as POPE reads it: its first sentence holds no "no" or "not".

    "Yes, there is." -> True; "There is no dog." -> False; an answer without either word is a yes.
    """
    first = re.split(r"[.\n]", text.strip(), maxsplit=1)[0].replace(",", " ").lower()
    return not {"no", "not"} & set(first.split())


def word_count(text: str) -> int:
    """Words of a caption."""
    return len(text.split())


def _checked(said_yes: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    yes, true = np.asarray(said_yes, bool), np.asarray(truth, bool)
    if yes.shape != true.shape or yes.ndim != 1 or not len(yes):
        raise ValueError(f"answers {yes.shape} and truth {true.shape} must be [n], n ≥ 1")
    return yes, true


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> float:
    total = float(bottom.sum())
    return float(top.sum()) / total if total else float("nan")
