"""Checkpoints of one training: which models are some, at which step each was kept, and whether they have one shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from .runs import Run

Facts = Mapping[str, Any]  # of a subject, as a record has them
STEP = re.compile(r"(?<![a-z])(?:step|checkpoint|ckpt|iter|iteration)s?[-_=. ]?(\d+)(k?)(?![a-z\d])", re.IGNORECASE)
SHAPE = {"n_layers": "layers", "n_heads": "heads", "n_kv_heads": "heads of keys", "d_model": "width"}


def step_of(subject: Facts) -> int | None:
    """1000 of the revision "step1000", 500 of the name "checkpoint-500"; None where neither names a step."""
    for words in (subject.get("revision"), subject.get("name")):
        if found := STEP.search(str(words or "")):
            return int(found[1]) * (1000 if found[2] else 1)
    return None


def training(subject: Facts) -> str | None:
    """What the checkpoints of one training share: their name but for the step; None where nothing says that it is one.

    Revisions of one name are checkpoints of one training.
    """
    name = str(subject.get("name"))
    bare = STEP.sub("", name)
    return bare if subject.get("revision") or bare != name else None


def steps(subjects: Sequence[Facts]) -> list[int] | None:
    """The step of each, where all are checkpoints of one training and no two of one step."""
    found = [step for step in map(step_of, subjects) if step is not None]
    trainings = {training(one) for one in subjects}
    return found if len({*found}) == len(subjects) and len(trainings) == 1 else None


def unlike_shape(a: Facts, b: Facts) -> str:
    """How two checkpoints of one training differ in shape, in words; "" where they do not, or are of no one training"""
    if training(a) is None or training(a) != training(b):
        return ""
    unlike = [fact for fact in SHAPE if None not in (a.get(fact), b.get(fact)) and a[fact] != b[fact]]
    each = ", ".join(f"{SHAPE[fact]} {a[fact]} against {b[fact]}" for fact in unlike)
    return f"checkpoints of one training have one shape, these have {each}" if each else ""


def called(subject: Facts) -> str:
    """What a checkpoint is called in a line: "pythia step1000", "step-0173"."""
    return " ".join(str(subject[part]) for part in ("name", "revision") if subject.get(part))


def home(run: Run) -> tuple[str, str] | None:
    """Of a checkpoint its training and the directory it lies in: two trainings may give their files the same names."""
    one = training(run.record["subject"])
    return None if one is None else (one, str(PurePath(str(run.record.get("location") or "")).parent))


def notes(runs: Iterable[Run]) -> list[str]:
    """A line for each training whose checkpoints have several shapes: why they are not on one page."""
    trainings: dict[tuple[str, str], list[Facts]] = {}
    for run in runs:
        if (key := home(run)) is not None:
            trainings.setdefault(key, []).append(run.record["subject"])
    found = []
    for first, *others in trainings.values():
        for other in others:
            if why := unlike_shape(first, other):
                found.append(f"{called(first)} and {called(other)} are not put side by side: {why}")
                break
    return found
