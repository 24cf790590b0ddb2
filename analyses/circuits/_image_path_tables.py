"""Tables of `image_paths`: every head's path through picture and text, layers at each place, and what is tested."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.contrast import apart, task_table, unsolved
from ..common.frames import head_axes, joined, of_heads, summarise
from ..common.selection import halves, measured_rows
from ..common.tested import nothing, number

THROUGH, DEEPER = "seen through the text", "from the picture to the end"
PICTURE, TEXT, LAST = "picture", "text", "last position"
PLACES = (PICTURE, TEXT, LAST)
TOKENS, AT_TEXT = "its share of the tokens", "attention at the text's tokens"
SAME = "the twins have the same picture"  # nothing of their difference reaches its tokens
SHARE = "share of the summed |effect|"


def _task(rows: Rows, how: How) -> pd.DataFrame:
    return task_table(rows, how)


def _measured(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "image_paths")


def _given(rows: Rows, name: str) -> np.ndarray:
    """What is given to the answer: clean minus patched, helps above 0."""
    return -rows[name]


def _paths(rows: Rows, how: How) -> pd.DataFrame:
    """Every head's path into the movers' keys and values, through each place."""
    rows, frames = _measured(rows, how), []
    groups = rows.examples["group"]
    for place in PLACES[:2]:
        values = _given(rows, f"path|{place}")
        frame = summarise(values, groups, head_axes(values), "logits", place=place)
        frames.append(frame.assign(p_value=stats.family_p(values, groups).ravel()))
    return joined(frames)


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """What attention layers give the answer at each place."""
    groups = rows.examples["group"]
    values = {place: _given(rows, f"layer|{place}") for place in PLACES}
    return joined([summarise(v, groups, head_axes(v), "logits", place=place) for place, v in values.items()])


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    reason, scored = unsolved(rows), _measured(rows, how)
    if not rows["tokens"].any():
        return pd.concat([nothing(claim, reason or SAME) for claim in (THROUGH, DEEPER)], ignore_index=True)
    return pd.concat([*_through(scored, reason), *_deeper(rows, reason)], ignore_index=True)


def _through(rows: Rows, reason: str) -> list[pd.DataFrame]:
    """The picture's share of all heads' effect on the paths, and the same minus its share of the tokens."""
    groups = rows.examples["group"]
    if groups.nunique() < 2:
        return [nothing(THROUGH, "one group cannot be halved")]
    first, other = halves(groups)
    sums = {place: _turned(_given(rows, f"path|{place}"), first)[other] for place in PLACES[:2]}
    whole, groups = sums[PICTURE] + sums[TEXT], groups[other]
    if not apart(whole, groups):
        return [nothing(THROUGH, reason or "the two halves of the groups do not agree on any path")]
    both = {"denominators": whole, "untestable": reason}
    margin = sums[PICTURE] - whole * rows["tokens"][other].mean()
    return [
        number(THROUGH, sums[PICTURE], groups, SHARE, **both),
        number(THROUGH, margin, groups, SHARE, than=TOKENS, **both),
    ]


def _turned(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[n]: the sum over heads, each with the sign that it has on the first half, so that noise adds nothing."""
    return of_heads(values * np.sign(values[first].mean(0))).sum((1, 2))


def _deeper(rows: Rows, reason: str) -> list[pd.DataFrame]:
    """The mean layer at the last position minus that at the picture's tokens, and that at the text's minus it: what an
    earlier token gets in the last layers nobody can read, so before the last position alone says nothing.
    """
    groups = rows.examples["group"]
    if groups.nunique() < 2:
        return [nothing(DEEPER, "one group cannot be halved")]
    first, other = halves(groups)
    values = np.stack([_given(rows, f"layer|{place}") for place in PLACES], 1)
    known = np.flatnonzero(~np.isnan(values).any((0, 1)))
    turned = (values * np.sign(values[first].mean(0)))[other][..., known]
    for at, place in enumerate(PLACES):
        if not apart(turned[:, at].sum(-1), groups[other]):
            lacking = f"the two halves of the groups do not agree on what attention does at: {place}"
            return [nothing(DEEPER, reason or lacking)]

    def between(mean: np.ndarray) -> np.ndarray:
        picture, text, last = stats.quotient((mean * known).sum(1), mean.sum(1))
        return np.array([last - picture, text - picture])

    found = stats.bootstrap_statistic(turned, groups[other].to_numpy(), between)
    cells = dict(zip(("value", "lower", "upper"), found, strict=True))
    counts = {"n": len(turned), "n_groups": groups[other].nunique()}
    names = {"claim": DEEPER, "untestable": reason, "unit": "layers", **counts}
    return [pd.DataFrame(cells).assign(than=["", AT_TEXT], **names)]


TABLES = {
    "task": (_task, ("measure",)),
    "paths": (_paths, ("place", "p_value")),
    "layers": (_layers, ("place",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
