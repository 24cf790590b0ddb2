"""Tables of `edges`: the strongest edges, what each receiver hears, and how well gradients agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.agreement import ESTIMATES, FIVE, ONE, RANKS, agreement_table, five_over_one
from ..common.claims import one_row
from ..common.contrast import task_table, unsolved
from ..common.frames import head_axes, summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number
from ._edge_names import EXACT, OUTPUT, receivers_of


def _elsewhere(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "edges")


def _edges(rows: Rows, how: How) -> pd.DataFrame:
    names, mine = list(how.learned.edges), _elsewhere(rows, how)
    frames = [
        summarise(mine[f"edges|{name}"], mine.examples["group"], {"edge": names}, "logits", measure=name)
        for name in ESTIMATES
    ]
    rank = {edge: i for i, edge in enumerate(names, 1)}
    return pd.concat([frame.assign(rank=frame["edge"].map(rank)) for frame in frames], ignore_index=True)


def _before(rows: Rows, how: How) -> Iterator[tuple[str, Rows]]:
    """Receiver by receiver, the maps "head|…" [n, layer, head] of the heads before it."""
    for receiver, heard in receivers_of(how.learned.heads).items():
        if f"{receiver}|{EXACT}" not in rows.values:  # of the first layer with heads, which hears none
            continue
        layers = None if heard is None else heard.layer
        mine = rows if heard is None else _elsewhere(rows, how)
        maps = {f"head|{name}": mine[f"{receiver}|{name}"][:, :layers] for name in (EXACT, *ESTIMATES)}
        yield receiver, Rows(mine.examples, maps)


def _into(rows: Rows, how: How) -> pd.DataFrame:
    frames = []
    for receiver, maps in _before(rows, how):
        for name, values in maps.values.items():
            names: dict[str, Any] = {"receiver": receiver, "measure": name.removeprefix("head|")}
            groups = maps.examples["group"]
            frame = summarise(values, groups, head_axes(values), "logits", **names)
            frames.append(frame.assign(p_value=stats.family_p(values, groups).ravel()))
    return pd.concat(frames, ignore_index=True)


def _agreement(rows: Rows, how: How) -> pd.DataFrame:
    frames = [_agreeing(maps).assign(receiver=receiver) for receiver, maps in _before(rows, how)]
    return pd.concat(frames, ignore_index=True).drop(columns="part")


def _agreeing(maps: Rows) -> pd.DataFrame:
    table = agreement_table(maps, EXACT)
    assert table is not None  # the estimates are always asked for
    return table


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    reason = unsolved(rows)
    output = next(maps for receiver, maps in _before(rows, how) if receiver == OUTPUT)
    ranks = one_row(_agreeing(output), part="head", estimate=ONE, measure=RANKS)
    assert ranks is not None
    gain = five_over_one(output, EXACT)
    assert gain is not None
    kept = ("value", "lower", "upper", "n", "n_groups", "unit")
    rows_of = {"ranks": {name: ranks[name] for name in kept}, "gradients": gain}
    frame = pd.DataFrame([row | {"claim": name, "than": "", "untestable": reason} for name, row in rows_of.items()])
    return pd.concat([frame, _again(_elsewhere(rows, how), how, reason)], ignore_index=True)


def _again(rows: Rows, how: How, reason: str) -> pd.DataFrame:
    """Σ effect of the chosen edges, each turned to its side, over Σ |effect| where they were chosen."""
    if not how.learned.strengths:
        return nothing("again", reason or "the edges were given, not chosen")
    strengths = np.array(how.learned.strengths)
    turned = (rows[f"edges|{FIVE}"] * np.sign(strengths)).sum(1)
    whole = np.full(len(turned), np.abs(strengths).sum())
    given = {"denominators": whole, "untestable": reason}
    return number("again", turned, rows.examples["group"], "of the effect where they were chosen", **given)


TABLES = {
    "task": (task_table, ("measure",)),
    "edges": (_edges, ("edge", "measure", "rank")),
    "into": (_into, ("receiver", "measure", "p_value")),
    "agreement": (_agreement, ("estimate", "measure", "receiver")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
