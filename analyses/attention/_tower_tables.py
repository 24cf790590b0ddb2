"""Tables of tower_profile: blocks, heads, attention by distance, groups of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import UNIFORM
from ..common.frames import by_head, joined, summarise
from ..common.tested import nothing, number
from ._tower_groups import groups_of_heads, stability
from ._tower_rows import HOPS, STATISTICS, UPDATES

FEW = 3  # blocks, below which there is no first and last third
WORDS = {
    "cls_to_cls": ("class token → class token", "share of attention"),
    "patch_to_self": ("patch → itself", "share of attention"),
    "patch_to_self_adjusted": ("patch → itself, of its attention on patches", "share of attention"),
    "cls_to_patch_mean": ("class token → a patch", "share of attention"),
    "patch_to_cls_mean": ("patch → class token", "share of attention"),
    "cls_entropy": ("entropy of the class token over patches", "nats"),
    "patch_entropy_mean": ("entropy of a patch over patches", "nats"),
    "distance": ("distance of attended patches", "patches"),
}
assert {*WORDS} == {*STATISTICS, "distance"}


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    frames = []
    for name, (measure, unit) in WORDS.items():
        values = rows[name]
        even = np.broadcast_to(rows[f"even|{name}"][:, None, None], values.shape)
        for control, one in (("", values), (UNIFORM, even)):
            frames.append(by_head(rows, one, unit, measure=measure, control=control))
    return joined(frames)


def _blocks(rows: Rows, how: How) -> pd.DataFrame:
    """Mean over a block's heads, and how much each module adds to the residual."""
    frames = []
    for name, (measure, unit) in WORDS.items():
        values = rows[name].mean(2)
        even = np.broadcast_to(rows[f"even|{name}"][:, None], values.shape)
        for control, one in (("", values), (UNIFORM, even)):
            frames.append(by_head(rows, one, unit, measure=measure, control=control))
    for at, module in enumerate(UPDATES):
        told: dict[str, Any] = {"measure": f"update by {module}", "control": ""}
        frames.append(by_head(rows, rows["update"][..., at], "of the residual's norm", **told))
    return joined(frames)


def _hops(rows: Rows, how: How) -> pd.DataFrame:
    """Attention on the patches at a distance, mean over a block's heads, over that of uniform attention."""
    values, even = rows["hops"].mean(2), rows["even|hops"]
    there = even[0] > 0
    over = values[..., there] / even[:, None, there]
    axes: dict[str, Any] = {"layer": np.arange(values.shape[1]), "distance": np.flatnonzero(there)}
    return summarise(over, rows.examples["group"], axes, "times uniform")


def _clusters(rows: Rows, how: How) -> pd.DataFrame | None:
    """Each head's group, its place in the plane of the two largest components, its mean distance."""
    profiles = rows["hops"].mean(0)
    layers, heads = np.indices(profiles.shape[:2])
    found = groups_of_heads(profiles.reshape(-1, HOPS), how.options.clusters)
    if found is None:
        return None
    frame = pd.DataFrame({"layer": layers.ravel(), "head": heads.ravel(), "value": rows["distance"].mean(0).ravel()})
    named = [f"group {label + 1}" for label in found.labels]
    places = {"pc1": found.plane[:, 0], "pc2": found.plane[:, 1]}
    return frame.assign(unit="patches", n=len(rows.examples), cluster=named, **places)


def _stability(rows: Rows, how: How) -> pd.DataFrame | None:
    return stability(rows["hops"], rows.examples["group"].to_numpy(), how.options.clusters)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    distance, even = rows["distance"].mean(2), rows["even|distance"]
    third = max(1, distance.shape[1] // 3)
    early, late = distance[:, :third].mean(1), distance[:, -third:].mean(1)
    own = rows["patch_to_self"].mean((1, 2)) - rows["even|patch_to_self"]
    parts = [
        number("later blocks look further", late - early, groups, "patches")
        if distance.shape[1] >= FEW
        else nothing("later blocks look further", f"the tower has fewer than {FEW} blocks"),
        number("early blocks look near", early - even, groups, "patches"),
        number("patches look at themselves", own, groups, "share of attention over uniform"),
    ]
    return pd.concat(parts, ignore_index=True)


TABLES = {
    "blocks": (_blocks, ("measure",)),
    "heads": (_heads, ("measure",)),
    "hops": (_hops, ("distance",)),
    "clusters": (_clusters, ("cluster", "pc1", "pc2")),
    "stability": (_stability, ("of",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
