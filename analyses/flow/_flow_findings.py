"""What `information_flow` found in this model: which words the answer is read from, in which layers, and where it lies
on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row, unsolved
from ..common.findings import Finding, minus, rows_with, say
from ._flow_rows import BUCKETS
from ._flows import PATCHES, POSITIONS

Tables = Mapping[str, pd.DataFrame]

SHOWN = 3  # flows that are told, those that cost most
SELF = "last → last"  # a position's attention to itself is no flow of information
SUBJECT, LAST = BUCKETS[3], BUCKETS[5]


def findings(tables: Tables) -> list[Finding]:
    """The flows that cost most when they are cut, each at its strongest window; and on text the tracing."""
    solved = unsolved(one_row(tables.get("accuracy"), measure="accuracy − guessing", subset="all"))
    flows = rows_with(tables.get("flows"), measure="change", subset="all")
    if flows.empty:
        return []
    cuts = [_Cut(rows) for name, rows in flows.groupby("flow", sort=False) if name != SELF]
    cuts = sorted((cut for cut in cuts if len(cut.windows)), key=lambda cut: cut.row["value"])
    among = sum(len(cut.windows) for cut in cuts)
    made = [_flow(cut, among, solved) for cut in cuts[:SHOWN]]
    trace = rows_with(tables.get("trace"))
    return made if trace.empty else [*made, *_traced(trace, solved)]


class _Cut:
    """One flow's rows. windows: those at which its random control was measured, all where it has none; row: the one
    that costs most; beside: the control there.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.cut = rows[rows["control"] == ""]
        self.drawn = rows[rows["control"].isin((PATCHES, POSITIONS))]
        self.windows = self.cut[self.cut["layer"].isin(self.drawn["layer"])] if len(self.drawn) else self.cut

    @property
    def row(self) -> pd.Series:
        return self.windows.iloc[int(self.windows["value"].argmin())]

    @property
    def beside(self) -> pd.Series | None:
        return one_row(self.drawn, layer=self.row["layer"])


def _flow(asked: _Cut, among: int, solved: str) -> Finding:
    row, beside, first_last = asked.row, asked.beside, _range(asked.cut, asked.row)
    source, _, target = str(row["flow"]).partition(" → ")
    control = {} if beside is None else {"margin": minus(row, beside), "control": beside["control"]}
    behind = "no other positions could be cut in its place" if beside is None else "{control}: {beside:.0f} %"
    numbers = f"cut around layer {{layer}}, the answer's probability changes by {{value:.0f}} % {{span:.0f}} ({behind})"
    return say(
        f"{{target}} reads {{source}} in layers {{first}}–{{last}}: {numbers}",
        f"It is not shown that {{end}} needs {{source}}: {numbers}",
        row,
        about=f"what {_place(target)} reads of {_place(source)}",
        figure="flows",
        side="below",
        among=among,
        untestable=solved,
        heads=" ".join(f"L{layer}" for layer in first_last),
        target=_place(target)[:1].upper() + _place(target)[1:],
        end=_place(target),
        source=_place(source),
        layer=int(row["layer"]),
        first=first_last[0],
        last=first_last[1],
        **control,
    )


def _place(name: str) -> str:
    return "the last position" if name == "last" else name if name.startswith("other") else f"the {name}"


def _range(cut: pd.DataFrame, row: pd.Series) -> tuple[int, int]:
    """The layers around the strongest window without a gap at which the cut costs at least half as much."""
    strong = set(cut[cut["value"] <= row["value"] / 2]["layer"].astype(int)) | {int(row["layer"])}
    first = last = int(row["layer"])
    while first - 1 in strong:
        first -= 1
    while last + 1 in strong:
        last += 1
    return first, last


def _traced(trace: pd.DataFrame, solved: str) -> list[Finding]:
    """Until which state the answer is restored at the subject, and from which on at the last position."""
    whole = trace[trace["measure"] == "normalised"]
    lost = "" if len(whole) else "the twin does not lower the answer's probability"
    shown = whole if len(whole) else trace
    subject, last = (shown[shown["place"] == place] for place in (SUBJECT, LAST))
    if subject.empty or last.empty:
        return []
    row = subject.iloc[int(subject["value"].argmax())]
    beside = one_row(last, state=row["state"])
    moved: dict[str, Any] = {"until": _last_ahead(subject, last), "since": _first_ahead(last, subject)}
    found = (
        "The answer lies at the subject until state {until} and at the last position from state {since} on: putting "
        "back the subject's last token at state {state} brings back {value:.0%} {span:.0%} of what the twin takes, the "
        "{control} {beside:.0%}"
    )
    return [
        say(
            found,
            "Causal tracing does not tell where the answer lies: at best, at state {state}, the subject's last token "
            "brings back {value:.2f} {span:.2f}, the {control} {beside:.2f}",
            row,
            about="where the answer lies on its way",
            figure="tracing",
            margin=None if beside is None else minus(row, beside),
            control="last position",
            side="above",
            among=len(subject),
            untestable=solved or lost,
            state=int(row["state"]),
            **moved,
        )
    ]


def _ahead(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """The states at which the one place's interval lies wholly above the other's."""
    both = one.merge(other, on="state", suffixes=("", "_other"))
    return both[both["lower"] > both["upper_other"]]["state"].astype(int)


def _last_ahead(one: pd.DataFrame, other: pd.DataFrame) -> int | str:
    states = _ahead(one, other)
    return "none" if states.empty else int(states.max())


def _first_ahead(one: pd.DataFrame, other: pd.DataFrame) -> int | str:
    states = _ahead(one, other)
    return "none" if states.empty else int(states.min())
