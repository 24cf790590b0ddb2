"""What `logit_attribution` found in this model: which head writes the answer, how few and late ones do, by copying."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row
from ..common.controls import HEADS
from ..common.findings import Finding, minus, place, rows_with, say, tested
from ._attribution_tables import LATE

Tables = Mapping[str, pd.DataFrame]

ABOUT = "which heads write the answer"


def findings(tables: Tables) -> list[Finding]:
    """Heads are ranked on one half of the groups; the numbers are the other half's."""
    few, copy = tested(tables, "few"), tested(tables, "copy")
    top = rows_with(tables.get("top"), control="")
    made = [] if few.get("untestable") or top.empty else [_strongest(tables, top.iloc[0])]
    return [*made, _few(few, _late(tables, top)), *([] if few.get("untestable") else [_copy(copy)])]


def _strongest(tables: Tables, row: pd.Series) -> Finding:
    beside = one_row(tables["top"], rank=1, control=HEADS)
    raises = row["value"] > 0
    return say(
        f"Head {{head}} writes most {'for' if raises else 'against'} the answer beside the wrong one: {{value:+.2f}} "
        "logits {span:+.2f} ({control}: {beside:+.2f}){how}",
        "Head {head} writes most on one half of the groups, but is not told from its layer on the other: {value:+.2f} "
        "logits {span:+.2f}, {control} {beside:+.2f}",
        row,
        about=ABOUT,
        figure="heads-difference",
        margin=None if beside is None else minus(row, beside),
        control=HEADS,
        heads=place(row),
        head=place(row),
        how=_how(tables, row),
    )


def _how(tables: Tables, row: pd.Series) -> str:
    """Which of both words it moves, by its own two logits."""
    of_head: dict[str, Any] = {"measure": "answer", "layer": row["layer"], "head": row["head"]}
    answer, wrong = (one_row(tables.get("heads"), **of_head, control=control) for control in ("", "wrong answer"))
    if answer is None or wrong is None:
        return ""
    return f". It {_does(answer, 'the answer')} and {_does(wrong, 'the wrong one')}"


def _does(row: pd.Series, word: str) -> str:
    verb = "raises" if row["lower"] > 0 else "lowers" if row["upper"] < 0 else "leaves"
    moved = f"{row['value']:+.2f} [{row['lower']:+.2f}, {row['upper']:+.2f}]".replace("-", "−")
    return f"{verb} {word}{' as it is' if verb == 'leaves' else ''} ({moved})"


def _late(tables: Tables, top: pd.DataFrame) -> str:
    """How many of the strongest heads lie in the last third of the layers."""
    if top.empty:
        return ""
    depth = int(tables["heads"]["layer"].max()) + 1
    return f", {int((top['layer'] >= depth * LATE).sum())} of them in the last third of the layers,"


def _few(asked: dict[str, Any], late: str) -> Finding:
    return say(
        "Ten heads{late} write {value:.0%} {span:.0%} of what all heads add to the answer's lead; {control}: "
        "{beside:.0%}",
        "No few heads stand out: the ten strongest write {value:.0%} {span:.0%} of what all heads add, {control} "
        "{beside:.0%} (difference {gap:+.0%} {gap_span:+.0%})",
        about=ABOUT,
        figure="top",
        side="above",
        late=late,
        **asked,
    )


def _copy(asked: dict[str, Any]) -> Finding:
    return say(
        "Heads that raise the answer copy what they attend to: copying score {value:.2f} {span:.2f}, {control} "
        "{beside:.2f}",
        "Heads that raise the answer copy no more than {control}: copying score {value:.2f} {span:.2f} against "
        "{beside:.2f}",
        about="whether heads copy",
        figure="copying",
        side="above",
        **asked,
    )
