"""Tables of routes: what states are made of by layer, heads on routes, whose tokens they lead to, single prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import OTHER_WRITER
from ..common.frames import by_head, joined, mean_of_present, summarise
from ..common.stats import quotient
from ._route_edges import COLUMNS, edges_of
from ._route_knockout import knockout
from ._route_tested import tested
from ._route_walk import ADDED

GRAPHS = 3  # prompts whose edges are kept as a table
# measure -> what is divided by what
SHARES = {
    "attention": ("attention", "rows"),
    "attention to other tokens": ("between", "rows"),
    "residual past the attention": ("residual", "rows"),
    "MLP": ("MLP", "rows"),
    "importance above the threshold": ("held", "rows"),
    "edges": ("edges", "possible"),
    "from the first token": ("from first", "between"),
    "attention paid to the first token": ("attends first", "attends between"),
}
EVEN = "an even share of the tokens"
SUFFIXES = {"": "", OTHER_WRITER: "|null"}


def part(sums: np.ndarray, name: str) -> np.ndarray:
    """One of ADDED, [n, layer]."""
    return sums[..., ADDED.index(name)]


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """By layer, over the rows that routes keep: Σ over prompts and rows, division last."""
    groups, frames = rows.examples["group"], []
    for control, suffix in SUFFIXES.items():
        sums = rows[f"sums{suffix}"]
        for measure, (top, below) in SHARES.items():
            over = part(sums, below)
            if measure == "attention paid to the first token" and control:
                continue  # of other rows, and no null of the attention
            over = np.where(over > 0, over, np.nan)
            axes, unit = {"layer": np.arange(sums.shape[1])}, "pairs of tokens" if measure == "edges" else "share"
            told: dict[str, Any] = {"measure": measure, "control": control}
            frames.append(summarise(part(sums, top), groups, axes, unit, denominators=over, **told))
    return joined(frames)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """By head: importance over the rows that routes keep, share of the prompts whose route it is on, and its attention
    to the token before; importance and presence of the control's routes too.
    """
    frames = []
    for control, suffix in SUFFIXES.items():
        kept = part(rows[f"sums{suffix}"], "rows")[..., None]
        told = {"importance": (rows[f"importance{suffix}"], "share"), "on the route": (rows[f"on{suffix}"], "prompts")}
        if not control:
            told["attention to the token before"] = (rows["previous"], "share")
        for measure, (values, unit) in told.items():
            over = np.ones_like(kept) if measure == "on the route" else np.where(kept > 0, kept, np.nan)
            frames.append(by_head(rows, quotient(values, over), unit, measure=measure, control=control))
    return joined(frames)


def _agreement(rows: Rows, how: How) -> pd.DataFrame | None:
    """By head: its mean importance beside the size of its estimated patching effect."""
    if "effect" not in rows.values:
        return None
    effect = by_head(rows, np.abs(rows["effect"]), "logits", measure="effect", control="")
    importance = mean_of_present(rows["importance"] / np.maximum(part(rows["sums"], "rows"), 1)[..., None], 0)
    known = effect["n"] > 0
    return effect.assign(importance=importance.ravel())[known].reset_index(drop=True) if known.any() else None


def _tokens(rows: Rows, how: How) -> pd.DataFrame:
    """By state, how much of the output was followed down to tokens of each role; the control's, and an even share."""
    groups, frames = rows.examples["group"], []
    counts = {name.removeprefix("tokens|"): v for name, v in rows.values.items() if name.startswith("tokens|")}
    length = np.nansum(np.stack([*counts.values()]), 0)
    for role, count in counts.items():
        there = (np.nan_to_num(count) > 0)[:, None]
        axes = {"state": np.arange(rows[f"flow|{role}"].shape[1])}
        for control, suffix in SUFFIXES.items():
            values = np.where(there, rows[f"flow|{role}{suffix}"], np.nan)
            frames.append(summarise(values, groups, axes, "share of the output", role=role, control=control))
        even = np.where(there, quotient(count, length)[:, None], np.nan)
        even = np.broadcast_to(even, (len(even), len(axes["state"])))
        frames.append(summarise(even, groups, axes, "share of the output", role=role, control=EVEN))
    return joined(frames)


def _edges(rows: Rows, how: How) -> pd.DataFrame:
    """The strongest edges of the first prompts."""
    names = rows.examples["id"].head(GRAPHS)
    return pd.concat([edges_of(rows["edges"][i], str(name), rows.tokenizer) for i, name in enumerate(names)])


TABLES = {
    "layers": (_layers, ("measure",)),
    "heads": (_heads, ("measure",)),
    "agreement": (_agreement, ("measure", "importance")),
    "tokens": (_tokens, ("role",)),
    "knockout": (knockout, ("role", "measure")),
    "edges": (_edges, (*COLUMNS, "measure")),
    "tested": (tested, ("claim", "than", "untestable")),
}
