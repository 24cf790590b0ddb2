"""What `probing` found in this model: what its states hold, and from which layers it can be read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..common.controls import CONTROL_TASK, PERMUTED_LABELS
from ..common.findings import Finding, minus, rows_with, say, tested
from ._pooling import CLAIM as QUERIES
from ._probing_rows import PLACES
from ._probing_tested import ANSWERED, ON_PATCHES, PICTURE, READABLE
from ._targets import ANSWER


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the tables tested and best."""
    if not {"accuracy", "tested"} <= set(tables):
        return []
    best = rows_with(tables["best"])
    answers = best[best["target"].str.startswith(ANSWER) & (best["place"] == PLACES["last"])]
    found = [_answer(tables), _picture(tables), _patches(tables), _queries(tables)]
    found += [_best_answer(answers)] if len(answers) else []
    return found + ([_best(best)] if len(best) > len(answers) else [])


def _answer(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The right answer can be read in the middle half of the layers: a linear probe is {value:+.0%} {span:+.0%} "
        "better than the most frequent answer (balanced accuracy), and {gap:+.0%} {gap_span:+.0%} than {control}",
        "It is not shown that the right answer can be read in the middle half of the layers: a linear probe is "
        "{value:+.0%} {span:+.0%} better than the most frequent answer (balanced accuracy), and {gap:+.0%} "
        "{gap_span:+.0%} than {control}",
        **tested(tables, ANSWERED),
        about="where the answer can be read",
        figure="last",
        threshold=READABLE,
        side="above",
    )


def _picture(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The middle layers make readable what the picture shows: {value:+.0%} {span:+.0%} balanced accuracy over the "
        "image tokens as they enter the first layer; {control}: {beside:+.0%}",
        "It is not shown that the middle layers make more readable what the picture shows: {value:+.0%} {span:+.0%} "
        "balanced accuracy over the image tokens as they enter the first layer; {control}: {beside:+.0%}",
        **tested(tables, PICTURE),
        about="where the picture can be read",
        figure="image" if rows_with(tables["accuracy"], place=PLACES["image"]).size else "last",
        side="above",
    )


def _patches(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "A single image token tells what lies there: {value:+.0%} {span:+.0%} balanced accuracy over the patch's row "
        "and column (a thing, its colour, its shape; middle half of the layers), {gap:+.0%} {gap_span:+.0%} over "
        "{control}",
        "It is not shown that a single image token tells what lies there: {value:+.0%} {span:+.0%} balanced accuracy "
        "over the patch's row and column, {gap:+.0%} {gap_span:+.0%} over {control}",
        **tested(tables, ON_PATCHES),
        about="what single patches tell",
        figure="patches" if "patches" in tables else "last",
        threshold=READABLE,
        side="above",
    )


def _queries(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Learned queries over the patches tell more of the picture than their mean: {value:+.0%} {span:+.0%} balanced "
        "accuracy; {control}: {beside:+.0%}",
        "It is not shown that learned queries over the patches tell more of the picture than their mean: {value:+.0%} "
        "{span:+.0%} balanced accuracy; {control}: {beside:+.0%}",
        **tested(tables, QUERIES),
        about="what learned queries tell",
        figure="pooling" if "pooling" in tables else "last",
        side="above",
    )


def _best_answer(answers: pd.DataFrame) -> Finding:
    return _standing_out(
        answers,
        "State {state}, chosen on half of the groups, holds the right answer: on the others “{target}” is read with "
        "{value:.0%} {span:.0%} balanced accuracy; {control}: {beside:.0%}",
        "It is not shown that some state holds the right answer: “{target}” is read with {value:.0%} {span:.0%} "
        "balanced accuracy from state {state}; {control}: {beside:.0%}",
        about="the state that holds the answer",
    )


def _best(best: pd.DataFrame) -> Finding:
    return _standing_out(
        best,
        "Of {several} things that probes were asked for, “{target}” ({place}) stands out most: {value:.0%} "
        "{span:.0%} balanced accuracy in state {state}; {control}: {beside:.0%}",
        "It is not shown that the states hold any of {several} things that probes were asked for: “{target}” ({place}) "
        "comes nearest, {value:.0%} {span:.0%} balanced accuracy in state {state}; {control}: {beside:.0%}",
        about="what the states hold",
    )


def _standing_out(found: pd.DataFrame, yes: str, no: str, *, about: str) -> Finding:
    """The target that stands out most over the better of its controls, among all."""
    own, others = found[found["control"] == ""], found[found["control"].isin([PERMUTED_LABELS, CONTROL_TASK])]
    sides = [_nearest(row, others) for _, row in own.iterrows()]
    gaps = [minus(row, beside) for (_, row), beside in zip(own.iterrows(), sides, strict=True)]
    best = int(np.argmax([gap["value"] for gap in gaps]))
    row, beside = own.iloc[best], sides[best]
    return say(
        yes,
        no,
        row,
        margin=gaps[best],
        control=str(beside["control"]),
        about=about,
        figure="best",
        side="above",
        among=len(sides),
        several=str(len(sides)),
        target=str(row["target"]),
        place=str(row["place"]),
        state=str(int(row["state"])),
    )


def _nearest(row: pd.Series, others: pd.DataFrame) -> pd.Series:
    mine = others[(others["target"] == row["target"]) & (others["place"] == row["place"])]
    return mine.loc[mine["value"].idxmax()]
