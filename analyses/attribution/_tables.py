"""Tables of attribution: curves and their areas, completeness, named parts, agreement of methods, attention beside
saliency, the numbers of the claims, and a few prompts to look at.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.agreement import spearman
from ..common.frames import head_axes, joined, summarise
from ..common.tested import nothing, number
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped
from ._explained import FIRST, OTHER, PEARSON, RECENCY, SHUFFLED, SPEARMAN, WITHOUT, agreement
from ._game import TARGETS, WORDS_ALONE
from ._methods import ABLATION, IG, METHODS
from ._rows import ATTENTION, ORDERS, RANDOM, WEIGHTED, areas

LOOKS = (ATTENTION, WEIGHTED)
SHOWN = 4  # prompts
TYPICAL = "as many others of its kind"


def _curves(rows: Rows, how: How) -> pd.DataFrame:
    """log p(answer) by the share of features taken away or put back, in each method's order and in a random one."""
    frames = []
    for curve in ORDERS:
        for method in (*METHODS, *LOOKS, RANDOM):
            values = rows.values.get(f"curve/{curve}/{method}")
            if values is not None:
                share = np.arange(values.shape[1]) / (values.shape[1] - 1)
                named: dict[str, Any] = {
                    "curve": curve,
                    "method": method,
                    "control": RANDOM if method == RANDOM else "",
                }
                frames.append(summarise(values, rows.examples["group"], {"share": share}, "nats", **named))
    return pd.concat(frames, ignore_index=True)


def _methods(rows: Rows, how: How) -> pd.DataFrame:
    """The mean height of each curve; measure: "area", or "gain" over a random order: deletion lower, insertion
    higher."""
    frames = []
    for curve in ORDERS:
        random = areas(rows[f"curve/{curve}/{RANDOM}"])
        for method in (*METHODS, *LOOKS):
            values = rows.values.get(f"curve/{curve}/{method}")
            if values is None:
                continue
            own = areas(values)
            gain = (random - own) if curve == "deletion" else (own - random)
            for measure, some, control in (("area", own, ""), ("area", random, RANDOM), ("gain", gain, "")):
                named: dict[str, Any] = {"curve": curve, "method": method, "measure": measure, "control": control}
                frames.append(summarise(some, rows.examples["group"], {}, "nats", **named))
    return pd.concat(frames, ignore_index=True)


def _completeness(rows: Rows, how: How) -> pd.DataFrame:
    """How far a map's sum is from what all features together give, log p(example) − log p(nothing present).

    measure: "sum", "whole" (what they give) and "gap", |sum − whole|. Ablation, occlusion and gradient × input do not
    promise to sum up.
    """
    frames = []
    for target, name in enumerate(TARGETS):
        whole = rows["ends"][:, 0, target] - rows["ends"][:, 1, target]
        for method in METHODS:
            maps = rows.values.get(f"map/{method}/{name}")
            if maps is None or np.isnan(whole).all():
                continue
            total = np.where(np.isnan(maps).all(1), np.nan, np.nansum(maps, 1))
            for measure, values in (("sum", total), ("whole", whole), ("gap", np.abs(total - whole))):
                named: dict[str, Any] = {"method": method, "target": name, "measure": measure}
                frames.append(summarise(values, rows.examples["group"], {}, "nats", **named))
    return pd.concat(frames, ignore_index=True)


def _parts(rows: Rows, how: How) -> pd.DataFrame | None:
    """What each method gives the named parts of the prompt (marks, boxes), and as many other features of its kind."""
    frames = []
    for name in sorted(name for name in rows.values if name.startswith("marked/")):
        for method in METHODS:
            own, typical = named_part(rows, name, f"map/{method}/{TARGETS[0]}")
            for control, values in (("", own), (TYPICAL, typical)):
                named: dict[str, Any] = {"part": name.removeprefix("marked/"), "method": method, "control": control}
                frames.append(summarise(values, rows.examples["group"], {}, "nats", **named))
    return joined(frames) if frames else None


def named_part(rows: Rows, name: str, maps: str) -> tuple[np.ndarray, np.ndarray]:
    """What a method gives a part in all, and what it gives as many other features of the same kinds on average, [n]."""
    values, marked, kind = rows[maps], rows[name], rows["kind"]
    own, typical = np.full(len(values), np.nan), np.full(len(values), np.nan)
    width = min(values.shape[1], marked.shape[1])
    for i in range(len(values)):
        inside = marked[i, :width] == 1
        kinds = np.unique(kind[i, :width][inside])
        others = [(kind[i] == one) & ~np.isin(np.arange(len(kind[i])), np.flatnonzero(inside)) for one in kinds]
        if inside.any() and all(some.any() for some in others):
            own[i] = values[i, :width][inside].sum()
            counts = [(kind[i, :width][inside] == one).sum() for one in kinds]
            typical[i] = sum(n * values[i][some].mean() for n, some in zip(counts, others, strict=True))
    return own, typical


def _agreement(rows: Rows, how: How) -> pd.DataFrame:
    """Rank correlation of each two maps of an example, over its features."""
    maps = {method: rows[f"map/{method}/{TARGETS[0]}"] for method in METHODS}
    maps |= {name: _mean_of_heads(rows[f"look/{name}"][..., 1:]) for name in LOOKS if _known(rows, name)}
    frames = []
    for one, other in combinations(maps, 2):
        values = [spearman(a, b) for a, b in zip(maps[one], maps[other], strict=True)]
        for row, column in ((one, other), (other, one)):
            named: dict[str, Any] = {"method": row, "other": column}
            frames.append(summarise(np.array(values), rows.examples["group"], {}, "rank correlation", **named))
    return pd.concat(frames, ignore_index=True)


def _mean_of_heads(maps: np.ndarray) -> np.ndarray:
    """[n, layer, h, f] -> [n, f]; NaN behind an example's last feature."""
    there = ~np.isnan(maps)
    return np.where(there.any((1, 2)), np.nansum(maps, (1, 2)), np.nan) / np.maximum(there.sum((1, 2)), 1)


def _known(rows: Rows, look: str) -> bool:
    return not np.isnan(rows[f"look/{look}"]).all()


def _looked(rows: Rows, how: How) -> pd.DataFrame:
    """r of the mean map of all heads with saliency; part: "mean map", or "heads, on average", the mean of their r."""
    frames = []
    for look in (name for name in LOOKS if _known(rows, name)):
        for correlation in (PEARSON, SPEARMAN):
            for first in FIRST:
                found = agreement(rows, look, correlation, first)
                for part, values in (("mean map", found.mean), ("heads, on average", found.each)):
                    for control, some in values.items():
                        named: dict[str, Any] = {"map": look, "correlation": correlation, "first": first, "part": part}
                        frames.append(summarise(some, rows.examples["group"], {}, "r", control=control, **named))
    return pd.concat(frames, ignore_index=True)


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """r of each layer's mean map with saliency."""
    frames = []
    for look in (name for name in LOOKS if _known(rows, name)):
        for first in FIRST:
            for control, values in agreement(rows, look, PEARSON, first).layers.items():
                named: dict[str, Any] = {"map": look, "first": first, "control": control}
                axes = {"layer": np.arange(values.shape[1])}
                frames.append(summarise(values, rows.examples["group"], axes, "r", **named))
    return pd.concat(frames, ignore_index=True)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """r of each head's own map with saliency, without the first token, beside another example's saliency."""
    frames = []
    for look in (name for name in LOOKS if _known(rows, name)):
        for control, values in agreement(rows, look, PEARSON, WITHOUT).heads.items():
            if control in ("", OTHER):
                named: dict[str, Any] = {"map": look, "control": control}
                frames.append(summarise(values, rows.examples["group"], head_axes(values), "r", **named))
    return pd.concat(frames, ignore_index=True)


# ---------------------------------------------------------------- claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    return pd.concat([*_of_attention(rows, groups), *_of_orders(rows, groups)], ignore_index=True)


def _of_attention(rows: Rows, groups: pd.Series) -> list[pd.DataFrame]:
    found = agreement(rows, ATTENTION, PEARSON, WITHOUT)
    # Where all examples are of one group there is no other's saliency: it stands as missing, so that nothing is judged.
    missing = {OTHER: np.full(len(groups), np.nan)}
    over = missing | {name: found.mean[name] - found.each[name] for name in ("", OTHER) if name in found.mean}
    depth = missing | {name: _later(values) for name, values in found.layers.items() if name in ("", OTHER)}
    mean = missing | {name: found.mean[name] for name in ("", OTHER, RECENCY, SHUFFLED) if name in found.mean}
    return [
        *_beside("attention explains", mean, groups, "r"),
        number("attention is not all", found.mean[""], groups, "r"),
        *_beside("mean over heads", over, groups, "r"),
        *_beside("later layers", depth, groups, "r"),
    ]


def _later(values: np.ndarray) -> np.ndarray:
    """The last third of the layers minus the first, [n]; layers without heads left out."""
    third = max(1, values.shape[1] // 3)
    last, first = (np.where(np.isnan(part).all(1), np.nan, np.nansum(part, 1)) / np.maximum((~np.isnan(part)).sum(1), 1)
                   for part in (values[:, -third:], values[:, :third]))  # fmt: skip
    return last - first


def _of_orders(rows: Rows, groups: pd.Series) -> list[pd.DataFrame]:
    area = {m: areas(rows[f"curve/deletion/{m}"]) for m in (IG, ABLATION, ATTENTION, RANDOM)
            if f"curve/deletion/{m}" in rows.values}  # fmt: skip
    if ATTENTION not in area:
        return [nothing("attention loses the deletion", "no layer has heads")]
    lost = {m: rows["ends"][:, 0, 0] - values for m, values in area.items()}
    return [
        number("attention loses the deletion", area[ATTENTION] - area[ABLATION], groups, "nats"),
        *_beside("gradients find it", {"": lost[IG], RANDOM: lost[RANDOM]}, groups, "nats"),
    ]


def _beside(claim: str, values: dict[str, np.ndarray], groups: pd.Series, unit: str) -> list[pd.DataFrame]:
    """The number, and its margin over each control, example by example."""
    own = values[""]
    margins = [number(claim, own - some, groups, unit, than=name) for name, some in values.items() if name]
    return [number(claim, own, groups, unit), *margins]


# ---------------------------------------------------------------- to look at


def _on_words(rows: Rows, how: How) -> pd.DataFrame:
    """A few prompts token by token; value: what the token's word gives log p(answer) by each method."""
    frames = []
    for i in first_of_groups(rows, SHOWN):
        owner, ids = rows["owner"][i], rows["ids"][i]
        kept = owner >= 0
        kept[kept] &= rows["kind"][i][owner[kept].astype(int)] == 0
        place = np.flatnonzero(kept)
        told = {"example": rows.examples["id"][i], "position": place, "token": rows.words(ids[place].astype(int))}
        for method in METHODS:
            values = rows[f"map/{method}/{TARGETS[0]}"][i][owner[place].astype(int)]
            frames.append(pd.DataFrame({**told, "value": values, "method": method, "n": 1, "unit": "nats"}))
    return pd.concat(frames, ignore_index=True)


def _pictured(rows: Rows) -> Rows | None:
    """The examples whose picture was taken apart."""
    if "picture" not in rows.values or not (rows["kind"] == 1).any():
        return None
    return rows.where((rows["kind"] == 1).any(1))


def _pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    shown = _pictured(rows)
    return None if shown is None else picture_table(shown, first_of_groups(shown, SHOWN))


def _on_pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    """What each block of the first pictures gives log p(answer), on every cell of it; inside: it touches a box."""
    shown = _pictured(rows)
    if shown is None:
        return None
    frames = []
    for i in first_of_groups(shown, SHOWN):
        height, width = shown["grid"][i].astype(int)
        owner = shown["cells"][i][: height * width].astype(int)
        row, column = (axis.ravel() for axis in np.indices((height, width)))
        inside = shown["marked/asked_object"][i][owner] == 1 if "marked/asked_object" in shown.values else owner < 0
        cells = {"example": shown.examples["id"][i], "row": row, "column": column, "inside": inside}
        for method in METHODS:
            value = shown[f"map/{method}/{TARGETS[0]}"][i][owner]
            frames.append(pd.DataFrame({**cells, "value": value, "method": method, "n": 1, "unit": "nats"}))
    return pd.concat(frames, ignore_index=True)


def _unmapped(rows: Rows, how: How) -> pd.DataFrame | None:
    """Why pictures were left whole, and words alone taken away."""
    frames: list[dict[str, Any]] = []
    for reason in np.unique(rows["alone"][rows["alone"] > 0]).astype(int):
        groups = rows.examples["group"][rows["alone"] == reason]
        why = f"Of these prompts words alone were taken away, since {WORDS_ALONE[reason]}."
        frames.append({"n": len(groups), "n_groups": groups.nunique(), "unit": "examples", "why": why})
    found = unmapped(rows) if "unplaced" in rows.values else None
    own = pd.DataFrame(frames) if frames else None
    return own if own is not None else found


TABLES = {
    "curves": (_curves, ("curve", "method", "share")),
    "methods": (_methods, ("curve", "method", "measure")),
    "completeness": (_completeness, ("method", "target", "measure")),
    "parts": (_parts, ("part", "method")),
    "agreement": (_agreement, ("method", "other")),
    "looked": (_looked, ("map", "correlation", "first", "part")),
    "layers": (_layers, ("map", "first")),
    "heads": (_heads, ("map",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {
    "on_words": (_on_words, ("example", "position", "token", "method")),
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "on_pictures": (_on_pictures, ("example", "row", "column", "inside", "method")),
    "unmapped": (_unmapped, ("why",)),
}
