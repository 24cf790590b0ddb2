"""Tables of masking influence and of INTER's interaction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...data.example import ROLES
from ...probes.runs.results import How, Rows
from ..common.frames import head_axes, joined, summarise
from ..common.stats import quotient
from ._entries import DISTANCES, FIRST, NEXT, SHUFFLED, agreement, of_next_layer, per_entry, slope
from ._influence import BINS, ENTRIES
from ._influence_tested import tested
from ._interaction import IMAGE, NOISE, NUMBERS, no_rows

NUMBER_OF = {"value": "exact", "estimate": "estimate", "attention": "attention"}


def _influence(rows: Rows, how: How) -> pd.DataFrame:
    """Mean |E| of an entry by layer and distance, beside the same with the slopes of other positions."""
    heads = rows["influence|distance"].shape[2]
    kinds = {
        "": per_entry(rows, "influence|distance").mean(2),
        SHUFFLED: per_entry(rows, "influence|distance|shuffled", heads),
    }
    frames = []
    for control, values in kinds.items():
        axes = {"layer": np.arange(values.shape[1]), "distance": DISTANCES}
        frames.append(summarise(values, rows.examples["group"], axes, "logits a key", control=control))
    return joined(frames)


def _influence_roles(rows: Rows, how: How) -> pd.DataFrame:
    """Σ |E| of queries of a role at keys of a role, over heads and layers, as a share of all."""
    frames = []
    for control, name in (("", "influence|pairs"), (SHUFFLED, "influence|pairs|shuffled")):
        values = np.nansum(rows[name], 1)
        axes = {"query": ROLES, "key": ROLES}
        below = values.sum((1, 2))
        frames.append(
            summarise(values, rows.examples["group"], axes, "share of influence", denominators=below, control=control)
        )
    whole = pd.concat(frames, ignore_index=True)
    there = whole.groupby(["query", "key"])["value"].transform("max") > 0
    return whole[there].reset_index(drop=True)


def _influence_words(rows: Rows, how: How) -> pd.DataFrame | None:
    """Σ |E| at the tokens of each name, over heads, layers and queries, as a share of all."""
    names = [name.removeprefix("influence|at ") for name in rows.values if name.startswith("influence|at ")]
    plain = [name for name in names if not name.endswith("|shuffled")]
    frames = []
    for control, ending in (("", ""), (SHUFFLED, "|shuffled")):
        below = np.nansum(rows[f"influence|pairs{ending}"], (1, 2, 3)) if plain else None
        for name in plain:
            of_layers = rows[f"influence|at {name}{ending}"]
            values = np.where(np.isnan(of_layers).all(1), np.nan, np.nansum(of_layers, 1))
            told: dict[str, Any] = {"name": name, "control": control}
            groups = rows.examples["group"]
            frames.append(summarise(values, groups, {}, "share of influence", denominators=below, **told))
    return joined(frames) if frames else None


def _influence_heads(rows: Rows, how: How) -> pd.DataFrame | None:
    """Each head's Σ |E|; the mean distance of what it rests on (weighted by |E|, in doublings, the first token left
    out); and the first token's share of it.
    """
    sums = rows["influence|distance"]
    whole, near = sums.sum(-1), sums[..., :BINS].sum(-1)
    reach, first = quotient((sums[..., :BINS] * np.arange(BINS)).sum(-1), near), quotient(sums[..., BINS], whole)
    kinds = (("influence", whole, "logits"), ("reach", reach, "doublings"), (FIRST, first, "share"))
    frames = [
        summarise(values, rows.examples["group"], head_axes(values), unit, measure=measure)
        for measure, values, unit in kinds
    ]
    return joined(frames)


def _masked(rows: Rows, how: How) -> pd.DataFrame | None:
    """Every entry that was masked for real: what it changed (value), its first-order estimate, its attention."""
    if "calibration|exact" not in rows.values:
        return None
    example, layer, entry = (axis.ravel() for axis in np.indices(rows["calibration|exact"].shape))
    names = {"layer": layer, "example": rows.examples["id"].to_numpy()[example], "entry": np.array(ENTRIES)[entry]}
    numbers = {name: rows[f"calibration|{of}"].ravel() for name, of in NUMBER_OF.items()}
    frame = pd.DataFrame({**names, **numbers, "unit": "logits", "n": 1})
    return frame[frame["value"].notna()].reset_index(drop=True)


def _calibration(rows: Rows, how: How) -> pd.DataFrame | None:
    """Correlation and slope over entries of the exact change by masking against its first-order estimate; by layer
    and, as layer NaN, of all.
    """
    if "calibration|exact" not in rows.values:
        return None
    frames = []
    for i, entry in enumerate(ENTRIES):
        exact, estimate = (rows[f"calibration|{name}"][..., i] for name in ("exact", "estimate"))
        for measure, values in (("correlation", agreement(exact, estimate)), ("slope", slope(exact, estimate))):
            frames.append(
                summarise(values, rows.examples["group"], {}, measure, measure=measure, entry=entry, control="")
            )
        mixed = agreement(exact, of_next_layer(estimate))
        told: dict[str, Any] = {"measure": "correlation", "entry": entry, "control": NEXT}
        frames.append(summarise(mixed, rows.examples["group"], {}, "correlation", **told))
    return pd.concat(frames, ignore_index=True)


def _interaction(rows: Rows, how: How) -> pd.DataFrame | None:
    """I by step: of the answer's token, of the first wrong answer's, of the likeliest words; its variance."""
    if no_rows(rows.values):
        return None
    frames = []
    for without in (IMAGE, NOISE):
        for name in NUMBERS:
            values = rows[f"interaction|{name}|{without}"]
            axes = {"step": np.arange(1, values.shape[1] + 1)}
            unit = "logits²" if name == "variance" else "nats"
            control = "the wrong answer" if name == "wrong" else ""
            told: dict[str, Any] = {"word": name, "without": without, "control": control}
            frames.append(summarise(values, rows.examples["group"], axes, unit, **told))
    return joined(frames)


TABLES = {
    "influence": (_influence, ("distance",)),
    "influence_roles": (_influence_roles, ("query", "key")),
    "influence_words": (_influence_words, ("name",)),
    "influence_heads": (_influence_heads, ("measure",)),
    "masked": (_masked, ("example", "entry", "estimate", "attention")),
    "calibration": (_calibration, ("measure", "entry")),
    "interaction": (_interaction, ("step", "word", "without")),
    "tested": (tested, ("claim", "than", "untestable")),
}
