"""Tables of weights: pairs of heads that compose, what each head and matrix is, rotary pairs and keys of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.frames import head_axes, joined, places, summarise
from ._circuits import OF_HEADS
from ._composed import KINDS
from ._keys import NULLS
from ._matrices import MATRICES, OF_MATRICES
from ._weight_tested import GAUSSIAN, OTHER_PAIRS, PERMUTED, most_used, tested

SHOWN = 25  # pairs of each kind
SCORE = "composition score"
LIFT, FIRST = "token before over other distances", "token before scores highest"
READS = {"Q": "queries", "K": "keys", "V": "values"}
UNITS = {"eigenvalues": "Σ Re λ / Σ |λ|", "share": "share of the squared norm", "ratio": "rank", "rank": "rank"}


def _composition(rows: Rows, how: How) -> pd.DataFrame | None:
    """The pairs with the strongest components, of each kind, with the largest score of permuted weights beside them."""
    frames = []
    for kind in _kinds(rows):
        part = rows.weights[f"{kind}|part"]
        order = np.argsort(-np.nan_to_num(part, nan=-1).ravel(), kind="stable")[
            : min(SHOWN, int((~np.isnan(part)).sum()))
        ]
        at = np.unravel_index(order, part.shape)
        own = {name: rows.weights[f"{kind}|{name}"][at] for name in ("whole", "place", "share")}
        sender = [f"{layer}.{head}" for layer, head in zip(*at[:2], strict=True)]
        told = {"layer": at[2], "head": at[3], "sender": sender, "value": part[at], "reads": READS[kind], "unit": SCORE}
        bar = np.nanmax(rows.weights[f"{kind}|part|permuted 0"])
        frames.append(pd.DataFrame(told | own | {"largest permuted": bar}))
    return pd.concat(frames, ignore_index=True) if frames else None


def _between(rows: Rows, how: How) -> pd.DataFrame | None:
    """The strongest component that any head of a layer reads of any head of an earlier one; and of permuted weights."""
    frames = []
    for kind in _kinds(rows):
        for control, suffix in (("", ""), (PERMUTED, "|permuted 0")):
            strongest = np.nan_to_num(rows.weights[f"{kind}|part{suffix}"], nan=-np.inf).max((1, 3))
            axes = {"sender_layer": range(len(strongest)), "layer": range(len(strongest))}
            told = {"value": strongest.ravel(), "reads": READS[kind], "unit": SCORE, "control": control}
            frame = pd.DataFrame({**places(axes, strongest.shape), **told})
            frames.append(frame[np.isfinite(frame["value"])])
    return pd.concat(frames, ignore_index=True) if frames else None


def _composed(rows: Rows, how: How) -> pd.DataFrame | None:
    """For each head the strongest component that its queries, keys or values read, and that an other one reads of it;
    and the same of permuted weights.
    """
    frames = []
    for kind in _kinds(rows):
        for control, suffix in (("", ""), (PERMUTED, "|permuted 0")):
            part = rows.weights[f"{kind}|part{suffix}"]
            for measure, axes in (
                (f"strongest that its {READS[kind]} read", (0, 1)),
                (f"strongest read by {READS[kind]}", (2, 3)),
            ):
                values = np.nan_to_num(part, nan=-np.inf).max(axes)
                frames.append(_by_head(np.where(np.isinf(values), np.nan, values), measure, SCORE, control))
    return pd.concat(frames, ignore_index=True) if frames else None


def _heads(rows: Rows, how: How) -> pd.DataFrame | None:
    """Eigenvalues, symmetry and ranks of OV and QK by head, and of permuted weights."""
    frames = []
    for name in OF_HEADS:
        unit = next(unit for word, unit in UNITS.items() if word in name)
        for control, suffix in (("", ""), (PERMUTED, "|permuted 0")):
            frames.append(_by_head(rows.weights[f"heads|{name}{suffix}"], name, unit, control))
    whole = pd.concat(frames, ignore_index=True)
    return whole if len(whole) else None


def _beside_chance(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same minus that of permuted weights."""
    frames = []
    for name in OF_HEADS:
        own, mixed = (rows.weights[f"heads|{name}{suffix}"] for suffix in ("", "|permuted 0"))
        frames.append(_by_head(own - mixed, name, "measured − permuted", ""))
    whole = pd.concat(frames, ignore_index=True)
    return whole if len(whole) else None


def _by_head(values: np.ndarray, measure: str, unit: str, control: str) -> pd.DataFrame:
    axes = {"layer": range(values.shape[0]), "head": range(values.shape[1])}
    told = {"value": values.ravel(), "measure": measure, "unit": unit, "control": control}
    frame = pd.DataFrame({**places(axes, values.shape), **told})
    return frame[frame["value"].notna()]


def _matrices(rows: Rows, how: How) -> pd.DataFrame:
    """Every matrix' spectrum, of permuted entries beside it; the signal over noise also over that of these."""
    frames = []
    for name in OF_MATRICES:
        own, mixed = (rows.weights[f"matrices|{name}{suffix}"] for suffix in ("", "|permuted 0"))
        frames += [_by_layer(own, name, ""), _by_layer(mixed, name, PERMUTED)]
        if name == "signal over noise":
            with np.errstate(divide="ignore", invalid="ignore"):
                frames.append(_by_layer(own / mixed, f"{name}, over permuted", ""))
    return pd.concat(frames, ignore_index=True)


def _by_layer(values: np.ndarray, measure: str, control: str) -> pd.DataFrame:
    axes = {"layer": range(values.shape[0]), "matrix": MATRICES}
    unit = "rank" if "ra" in measure.split()[-1] else "values" if "values" in measure else "ratio"
    frame = pd.DataFrame({**places(axes, values.shape), "value": values.ravel()})
    return frame.assign(measure=measure, unit=unit, control=control)[frame["value"].notna()]


def _frequencies(rows: Rows, how: How) -> pd.DataFrame | None:
    """By key head the share of all use that the most used quarter of its rotary pairs holds; with pairs permuted."""
    if np.isnan(rows["use"]).all():
        return None
    groups, unit = rows.examples["group"], "share of the use"
    frames = []
    for control, name in (("", "use"), (OTHER_PAIRS, "use|permuted")):
        shares = most_used(rows[name])
        axes = {"layer": np.arange(shares.shape[1]), "key_head": np.arange(shares.shape[2])}
        frames.append(summarise(shares, groups, axes, unit, control=control))
    return joined(frames)


def _pairs(rows: Rows, how: How) -> pd.DataFrame | None:
    """By layer and rotary pair, fastest first, its share of the use, mean over key heads."""
    use = rows["use"]
    if np.isnan(use).all():
        return None
    shares = (use / use.sum(-1, keepdims=True)).mean(2)
    axes = {"layer": np.arange(shares.shape[1]), "pair": np.arange(shares.shape[2])}
    return joined([summarise(shares, rows.examples["group"], axes, "share of the use")])


def _distances(rows: Rows, how: How) -> pd.DataFrame | None:
    """By head how far position alone lifts the token before over the other distances; with the keys' pairs permuted."""
    if np.isnan(rows["distances"]).all():
        return None
    groups, axes = rows.examples["group"], head_axes(rows["distances"][..., 0])
    frames = []
    for control, name in (("", "distances"), (OTHER_PAIRS, "distances|permuted")):
        scores = rows[name]
        others = np.delete(scores, 1, axis=-1)
        lifted = scores[..., 1] - others.mean(-1)
        first = np.where(np.isnan(lifted), np.nan, scores[..., 1] > others.max(-1))
        for measure, values, unit in ((LIFT, lifted, "logits"), (FIRST, first, "share of texts")):
            frames.append(summarise(values, groups, axes, unit, measure=measure, control=control))
    return joined(frames)


def _keys(rows: Rows, how: How) -> pd.DataFrame:
    """Interference over what random directions have, and keys that no query ranks first, by key head; with controls."""
    return joined(_of_keys(rows))


def _of_keys(rows: Rows) -> Iterator[pd.DataFrame]:
    groups, crowded = rows.examples["group"], rows["interference"] * rows["use"].shape[-1] * 2
    axes = {"layer": np.arange(crowded.shape[1]), "key_head": np.arange(crowded.shape[2])}
    for at, name in enumerate(NULLS):
        measure = f"interference, {name}" if name else "interference"
        yield summarise(crowded[..., at], groups, axes, "times that of random directions", measure=measure, control="")
    for at, control in enumerate(("", GAUSSIAN)):
        told: dict[str, Any] = {"measure": "cannot be ranked first", "control": control}
        yield summarise(rows["hull"][..., at], groups, axes, "share of keys", **told)


def _kinds(rows: Rows) -> list[str]:
    """Kinds of composition that some pair of heads has: none where one layer attends."""
    parts = {kind: rows.weights.get(f"{kind}|part") for kind in KINDS}
    return [kind for kind, part in parts.items() if part is not None and not np.isnan(part).all()]


RUN_TABLES = {
    "composition": (_composition, ("sender", "reads", "whole", "place", "share", "largest permuted")),
    "between": (_between, ("sender_layer", "reads")),
    "composed": (_composed, ("measure",)),
    "heads": (_heads, ("measure",)),
    "beside_chance": (_beside_chance, ("measure",)),
    "matrices": (_matrices, ("matrix", "measure")),
}
TABLES = {
    "frequencies": (_frequencies, ("key_head",)),
    "pairs": (_pairs, ("pair",)),
    "distances": (_distances, ("measure",)),
    "keys": (_keys, ("key_head", "measure")),
    "tested": (tested, ("claim", "than", "untestable")),
}
