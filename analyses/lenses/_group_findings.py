"""What `group_lens` found in this model: the state at which a group's words are most probable beside random ones."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, minus, rows_with, say, tested
from ._group_tables import LIKELY, THOUGHT

RANDOM = "random words of like frequency"
ENGLISH, TARGET = "English", "target"


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of translations, whether the concept comes in English first, and which language likely words are of; else the
    group that stands out most.
    """
    if tables.get("tested") is not None:
        return [_thought(tables), _likely(tables)]
    latent = rows_with(tables.get("latent"))
    if len(latent):
        return [_before(latent)]
    groups = rows_with(tables.get("groups"), subset="all", control="")
    others = rows_with(tables.get("groups"), subset="all", control="random tokens")
    return [] if groups.empty or others.empty else [_strongest(groups, others)]


def _strongest(groups: pd.DataFrame, others: pd.DataFrame) -> Finding:
    """The group and state that are farthest above their random words; the last state is the output."""
    both = groups.merge(others[["state", "group", "value"]], on=["state", "group"], suffixes=("", "_random"))
    row = both.iloc[int((both["value"] - both["value_random"]).argmax())]
    beside = one_row(others, state=row["state"], group=row["group"])
    return say(
        "Words of the group {group} are most probable at state {state} of {last}: {value:.2f} {span:.2f} together; "
        "{control}: {beside:.2f}",
        "No group of words is told from {control}: {group} comes farthest, at state {state} of {last}, {value:.2f} "
        "{span:.2f} against {beside:.2f}",
        row,
        about="which group of words becomes probable",
        figure="groups",
        margin=None if beside is None else minus(row, beside),
        control=RANDOM,
        side="above",
        among=len(both),
        group=row["group"],
        state=int(row["state"]),
        last=int(groups["state"].max()),
    )


def _before(latent: pd.DataFrame) -> Finding:
    """English above its random words in the second half of the states, before the output, and the target there."""
    last = int(latent["state"].max())
    inner = latent[(latent["state"] >= last // 2) & (latent["state"] < last)]
    english = inner[inner["group"] == ENGLISH]
    row = english.iloc[int(english["value"].argmax())]
    target = one_row(inner, group=TARGET, state=row["state"])
    return say(
        "English comes before the target language: at state {state} of {last} its words are {value:.2f} {span:.2f} "
        "above random ones, the target's {beside:.2f}",
        "English does not come before the target language: at its best state, {state} of {last}, its words are "
        "{value:.2f} {span:.2f} above random ones, the target's {beside:.2f}",
        row,
        about="whether English comes before the target language",
        figure="latent",
        margin=None if target is None else minus(row, target),
        control="words of the target language",
        side="above",
        among=len(english),
        state=int(row["state"]),
        last=last,
    )


def _thought(tables: Mapping[str, pd.DataFrame]) -> Finding:
    asked = tested(tables, THOUGHT)
    row = asked["row"]
    best = "?" if row is None or pd.isna(row["best"]) else int(row["best"])
    numbers = "{value:.3f} {span:.3f} more probable than other concepts'; so is {control}: {beside:.3f}"
    return say(
        f"The answer comes in English first: at state {{state}} the English word of its concept is {numbers}",
        f"It is not shown that the answer comes in English first: at state {{state}} its English word is {numbers}",
        about="whether the answer comes in English first",
        figure="concepts",
        side="above",
        state=best,
        **asked,
    )


def _likely(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:.0%} {span:.0%} of the likeliest words that are of a listed language are English; {control}: "
    return say(
        f"In the middle states {numbers}{{beside:.0%}}",
        f"It is not shown that the middle states are in English: {numbers}{{beside:.0%}}",
        about="which language likely words are of",
        figure="shares",
        side="above",
        threshold=0.5,
        **tested(tables, LIKELY),
    )
