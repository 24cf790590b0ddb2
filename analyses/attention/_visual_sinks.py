"""The visual part of `sinks`: sink tokens inside the image, where they lie, what they contribute, what masking costs.

Its rows and tables appear where the prompts hold images. Query: the last position of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...probes.intervene.interventions import Knockout
from ...probes.intervene.measures import logit_difference
from ...probes.intervene.recording import record
from ...probes.intervene.sweep import variant_sweep
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch, one_by_one
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.claims import one_row
from ..common.controls import example_keys, random_positions
from ..common.frames import head_axes, summarise
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped

SHOWN = 4  # pictures on the page
QUANTILES = (0.5, 0.75, 0.9, 0.97)  # of the image tokens' φ: thresholds that are swept beside the learned one
OBJECTS = ("asked_object", "other_objects")
KINDS = ("first token", "visual sinks", "other image tokens")


def observe(layer: Layer, batch: Batch, phi: Tensor, tau: float | None) -> dict[str, Tensor | None]:
    """Per example: φ of the first token, the largest and the median of the image; visual sinks, and those on objects;
    norms of contributions [b, 3]; visual mass and non-sink ratio of the last query by head [b, h]; φ by patch."""
    device = phi.device
    image = batch.where("patches").to(device)
    sinks = image & (phi >= (torch.inf if tau is None else tau))
    on = _objects(batch).to(device) & image
    inside = phi.masked_fill(~image, torch.nan)
    rows = torch.arange(len(phi), device=device)
    first = batch.start.to(device)
    seen = _seen(layer, batch, image, sinks) if layer.attends else dict.fromkeys(_OF_HEADS)
    return seen | {
        "visual|phi": torch.stack([phi[rows, first], inside.nan_to_num(-1).amax(1), inside.nanmedian(1).values], 1),
        "visual|sinks": sinks.sum(1).float(),
        "visual|tokens": image.sum(1).float(),
        "visual|on_object": torch.where(on.any(1), (sinks & on).sum(1).float(), torch.nan),
        "visual|object_tokens": torch.where(on.any(1), on.sum(1).float(), torch.nan),
        "visual|patches": _in_order(phi, image),
    }


_OF_HEADS = ("visual|contribution", "visual|mass", "visual|nonsink")


def _seen(layer: Layer, batch: Batch, image: Tensor, sinks: Tensor) -> dict[str, Tensor | None]:
    """What heads make of the image at the last position: the rows of _OF_HEADS."""
    pattern = layer.pattern(batch.last.to(image.device)[:, None])
    spoken = contributions(layer, pattern[:, :, 0])
    here = torch.zeros_like(image)
    here[torch.arange(len(image), device=image.device), batch.start.to(image.device)] = True
    kinds = [_mean(spoken, chosen) for chosen in (here, sinks, image & ~sinks)]
    return {
        "visual|contribution": torch.stack(kinds, 1),
        "visual|mass": metrics.attention_share(pattern, image)[:, :, 0],
        "visual|nonsink": metrics.nonsink_ratio(pattern, image, sinks)[:, :, 0],
    }


def contributions(layer: Layer, attention: Tensor) -> Tensor:
    """‖Σ_h A[h, k] v[h, k] W_O[h]‖ of every key for one query: attention [b, h, k] -> [b, k]. Before post-norms.

    NaN where a gate or a norm stands between the values and W_O.
    """
    if layer.gated:
        return torch.full_like(attention[:, 0], torch.nan)
    values = layer.v.float()
    values = values.repeat_interleave(attention.shape[1] // values.shape[2], 2)
    weight = layer.subject.W_O(layer.index).to(values.device).float()
    weighted = values * attention.transpose(1, 2)[..., None]
    return (weighted.flatten(2) @ weight.flatten(0, 1)).norm(dim=-1)


def _objects(batch: Batch) -> Tensor:
    known = [batch.marks[name] for name in OBJECTS if name in batch.marks]
    return torch.stack(known).any(0) if known else torch.zeros_like(batch.roles, dtype=torch.bool)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen columns, NaN without any."""
    return torch.where(chosen, values, 0).sum(1) / chosen.sum(1).where(chosen.any(1), torch.nan)


def _in_order(phi: Tensor, image: Tensor) -> Tensor:
    """φ of each image token in order, [b, most], NaN behind the last."""
    order = (~image).int().argsort(dim=1, stable=True)[:, : int(image.sum(1).max())]
    return phi.gather(1, order).masked_fill(~image.gather(1, order), torch.nan)


def thresholds(phi: Tensor, tau: float | None) -> list[float]:
    """The τ that are swept: quantiles of the image tokens' φ at the middle state, and the learned one."""
    known = phi[phi.isfinite()]
    swept = [float(q) for q in known.quantile(torch.tensor(QUANTILES))] if len(known) else []
    return sorted({round(t, 3) for t in swept} | ({round(tau, 3)} if tau is not None else set()))


@torch.no_grad()
def masked(subject: Any, batch: Batch, phi: Tensor, taus: Sequence[float], draws: int) -> dict[str, Tensor]:
    """Whether the answer beats the wrong one when image tokens with φ ≥ τ are read by nobody outside of the image, and
    when as many of the other image tokens are: [b, taus, 1 + draws]. phi: of the image tokens in order, at the middle
    state.
    """
    singles = zip(one_by_one(subject, batch), phi.cpu(), strict=True)
    found = [_masked(subject, one, own[own.isfinite()], taus, draws) for one, own in singles]
    values, counts, plain = (torch.stack(part) for part in zip(*found, strict=True))
    return {
        "masked|right": (values > 0).float(),
        "masked|difference": values,
        "masked|count": counts,
        "masked|plain": plain,
    }


def _masked(
    subject: Any, batch: Batch, phi: Tensor, taus: Sequence[float], draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One example's differences [taus, 1 + draws], counts [taus] and its plain difference.

    Thresholds often choose the same tokens, and draws from few are alike: every set is run once.
    """
    image, outside = batch.where("patches"), batch.mask & ~batch.where("image")
    placed = torch.full(image.shape, -torch.inf).masked_scatter(image, phi)
    sets: list[Tensor] = []
    for tau in taus:
        chosen = placed >= tau
        keys = (example_keys(batch.example_ids, draw) for draw in range(draws))
        sets += [chosen, *(random_positions(chosen, image, one) for one in keys)]
    distinct, which = torch.cat(sets).unique(dim=0, return_inverse=True)
    variants = [dict.fromkeys(subject.decoder.attending, (Knockout(outside, one[None]),)) for one in distinct]
    measure = logit_difference(batch.answers, batch.wrong)
    sweep = variant_sweep(record(subject, batch), variants, outside, measure=measure)
    counts = torch.stack([columns.sum() for columns in sets[:: 1 + draws]]).float()
    return sweep.values[which, 0].unflatten(0, (len(taus), 1 + draws)), counts, sweep.clean[0]


def _visual(rows: Rows, how: How) -> pd.DataFrame | None:
    """state, measure ("φ", "sinks", "on objects", "contribution"), token."""
    if "visual|phi" not in rows.values:
        return None
    groups = rows.examples["group"]
    states = {"state": np.arange(rows["visual|sinks"].shape[1])}
    frames = []
    for i, token in enumerate(("first token", "largest of the image", "median of the image")):
        frames.append(summarise(rows["visual|phi"][..., i], groups, states, "φ", measure="φ", token=token, control=""))
    share = rows["visual|sinks"] / rows["visual|tokens"]
    frames.append(summarise(share, groups, states, "share of image tokens", measure="sinks", token="image", control=""))
    for name, control in (("on_object", ""), ("object_tokens", "all image tokens")):
        top = rows[f"visual|{name}"]
        below = np.where(np.isnan(top), np.nan, rows["visual|sinks"] if not control else rows["visual|tokens"])
        if np.nansum(below) > 0:
            frame = summarise(top, groups, states, "share on objects", denominators=below)
            frames.append(frame.assign(measure="on objects", token="visual sinks", control=control))
    for i, token in enumerate(KINDS):
        norms = rows["visual|contribution"][..., i]
        if np.isfinite(norms).any():
            frames.append(
                summarise(norms, groups, states, "‖A·v·W_O‖", measure="contribution", token=token, control="")
            )
    return pd.concat(frames, ignore_index=True)


def _heads(rows: Rows, how: How) -> pd.DataFrame | None:
    """layer, head, measure ("visual mass", "non-sink ratio")."""
    if "visual|phi" not in rows.values:
        return None
    axes = head_axes(rows["visual|mass"])
    frames = [
        summarise(rows[f"visual|{name}"], rows.examples["group"], axes, "share of attention").assign(measure=measure)
        for name, measure in (("mass", "visual mass"), ("nonsink", "non-sink ratio"))
    ]
    return pd.concat(frames, ignore_index=True).assign(control="")


def _patches(rows: Rows, how: How) -> pd.DataFrame | None:
    """φ at the middle state by place in the image; empty where pictures differ in their grid, or one is not known."""
    if "visual|phi" not in rows.values:
        return None
    grids, state = np.unique(rows["grid"], axis=0), rows["visual|patches"].shape[1] // 2
    if len(grids) > 1 or not grids.all():
        return pd.DataFrame()
    maps = np.stack([_map(rows, i, state) for i in range(len(rows.examples))])
    axes = {"row": np.arange(maps.shape[1]), "column": np.arange(maps.shape[2])}
    return summarise(maps, rows.examples["group"], axes, "φ").assign(state=state, control="")


def _map(rows: Rows, example: int, state: int) -> np.ndarray:
    """φ of a picture's patches as they lie on it, [rows, columns]."""
    whole = np.full(rows["grid"][example].astype(int), np.nan)
    cell, values = rows["cell"][example], rows["visual|patches"][example, state]
    there = np.isfinite(cell)
    whole.flat[cell[there].astype(int)] = values[there]
    return whole


def _known(rows: Rows) -> tuple[Rows, np.ndarray] | None:
    """The rows of pictures whose grid is known, and the first of these of different groups; None without any."""
    if "visual|phi" not in rows.values:
        return None
    known = rows.where(np.asarray((rows["grid"] > 0).all(1)))
    return None if known.examples.empty else (known, first_of_groups(known, SHOWN))


def _pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    """example png, of the first ones whose grid is known."""
    shown = _known(rows)
    return None if shown is None else picture_table(*shown)


def _on_pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    """φ of these pictures' patches at the middle state, and whether each is a sink."""
    shown = _known(rows)
    if shown is None:
        return None
    known, first = shown
    state = known["visual|patches"].shape[1] // 2
    maps = []
    for i in first:
        name = known.examples["id"].to_numpy()[i]
        values = _map(known, i, state)
        row, column = (axis.ravel() for axis in np.indices(values.shape))
        maps.append(pd.DataFrame({"example": name, "row": row, "column": column, "value": values.ravel()}))
    places = pd.concat(maps, ignore_index=True).assign(n=1, state=state, unit="φ")
    return places.assign(sink=places["value"] >= (np.inf if how.learned.tau is None else how.learned.tau))


def _unmapped(rows: Rows, how: How) -> pd.DataFrame | None:
    return unmapped(rows) if "visual|phi" in rows.values else None


def _masking(rows: Rows, how: How) -> pd.DataFrame | None:
    """Accuracy over τ with the image tokens above it masked, with as many random ones masked, and their difference.

    learned: the rows at the τ that tells sinks from other tokens.
    """
    if "masked|right" not in rows.values:
        return None
    tau, taus = how.learned.tau, how.learned.taus
    right, groups = rows["masked|right"], rows.examples["group"]
    axes = {"tau": list(taus)}
    chosen, random = right[:, :, 0], right[:, :, 1:].mean(2)
    plain = np.repeat((rows["masked|plain"] > 0).astype(float)[:, None], len(taus), 1)
    frames = [
        summarise(values, groups, axes, "share right").assign(measure="accuracy", control=control)
        for values, control in ((chosen, ""), (random, "random image tokens"), (plain, "nothing masked"))
    ]
    found = stats.paired_difference(chosen, random, groups)
    frame = summarise(chosen - random, groups, axes, "share right").assign(measure="difference", control="")
    frames.append(frame.assign(p_value=found.p_value))
    count = np.tile(rows["masked|count"].mean(0), len(frames))
    whole = pd.concat(frames, ignore_index=True).assign(count=count)
    return whole.assign(learned=False if tau is None else np.isclose(whole["tau"], tau, rtol=0, atol=6e-4))


TABLES = {
    "visual": (_visual, ("measure", "token")),
    "visual_heads": (_heads, ("measure",)),
    "patches": (_patches, ("row", "column")),
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "on_pictures": (_on_pictures, ("example", "row", "column", "sink")),
    "unmapped": (_unmapped, ("why",)),
    "masking": (_masking, ("tau", "measure", "p_value", "count", "learned")),
}


def largest(visual: pd.DataFrame) -> str:
    """The φ of image tokens beside the first token's, as words."""
    phi = visual[visual["measure"] == "φ"].groupby("token")["value"].max()
    return f"largest mean φ of an image {phi['largest of the image']:.1f}, of the first token {phi['first token']:.1f}"


def masked_at_tau(masking: pd.DataFrame) -> pd.Series | None:
    """The row of masked − random at the learned τ."""
    return one_row(masking, measure="difference", learned=True)


def nothing_masked(row: pd.Series | None) -> str:
    """Why masking says nothing, by the row at τ."""
    if row is None:
        return "the learned τ is not among those masked"
    return "" if row["count"] > 0 else "no visual sinks to mask"
