"""Tables of `sinks`, of text and images: φ and attention by state and position, by head, and the summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import UNIFORM
from ..common.frames import head_axes, mean_of_present, middle, summarise
from . import _visual_sinks
from ._sink_summary import (
    SEPARATION,
    SHUFFLED,
    agreement,
    asked_about,
    criteria,
    separates_nothing,
    separation,
    shuffled,
    summary,
)

# Positions are shown one by one up to here, then in bins of doubling width.
_SINGLE_POSITIONS = 16


def _threshold(rows: Rows, how: How) -> pd.DataFrame:
    """τ beside this run's own φ of first and median tokens in the middle half of the states."""
    phi = rows["phi"][:, middle(rows["phi"].shape[1])]
    first, every = phi[:, :, 0][np.isfinite(phi[:, :, 0])], phi[np.isfinite(phi)]
    frame = pd.DataFrame({"value": [np.nan if how.learned.tau is None else how.learned.tau], "unit": "φ"})
    row = summarise(separation(rows, how), rows.examples["group"], {}, "share", measure=SEPARATION).iloc[0]
    return frame.assign(
        n=len(phi),
        n_groups=rows.examples["group"].nunique(),
        phi_first=np.median(first) if len(first) else np.nan,
        phi_median=np.median(every) if len(every) else np.nan,
        dimensions=", ".join(map(str, how.learned.dimensions)),
        source="gap on held-out examples",
        separation=row["value"],
        note=separates_nothing(row),
    )


def _dimensions(rows: Rows, how: How) -> pd.DataFrame:
    frames = []
    for at, dimension in enumerate(how.learned.dimensions):
        peak = rows["peaks"][..., at]
        frame = summarise(peak, rows.examples["group"], {"state": np.arange(peak.shape[1])}, "|x|")
        ratio = peak.mean(0) / rows["median_magnitude"].mean(0)
        frames.append(frame.assign(dimension=dimension, ratio=ratio))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["state", "dimension", "ratio"])


def _bins(n_positions: int) -> tuple[np.ndarray, list[int], list[str]]:
    """Bin of every position, first position and label of every bin: single ones, then doubling widths."""
    doubling = [_SINGLE_POSITIONS * 2**i for i in range(32)]
    edges = [edge for edge in [*range(_SINGLE_POSITIONS), *doubling] if edge < n_positions]
    ends = [*edges[1:], n_positions]
    labels = [str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in zip(edges, ends, strict=True)]
    return np.digitize(np.arange(n_positions), edges) - 1, edges, labels


def _by_position(rows: Rows, values: np.ndarray, unit: str, **columns: Any) -> pd.DataFrame:
    """Mean over each bin of positions, per example; [n, layers, p] -> one row per state and bin."""
    bins, edges, labels = _bins(values.shape[2])
    with np.errstate(invalid="ignore"):
        binned = np.stack([mean_of_present(values[:, :, bins == i]) for i in range(len(edges))], 2)
    axes = {"state": np.arange(values.shape[1]), "position": edges}
    frame = summarise(binned, rows.examples["group"], axes, unit)
    frame = frame[frame["n"] > 0]
    return frame.assign(position_label=frame["position"].map(dict(zip(edges, labels, strict=True))), **columns)


def _tokens(rows: Rows, how: How) -> pd.DataFrame:
    bare = np.asarray(np.isnan(rows["received"]).all((0, 2)))  # states that a layer without heads reads
    uniform = np.where(bare[:, None], np.nan, np.repeat(rows["uniform"][:, None], len(bare), 1))
    energy = metrics.energy_share(torch.from_numpy(rows["phi"]), rows["magnitude_first"].shape[1]).numpy()
    by_phi, by_attention = criteria(rows, how)
    by_phi = np.where(asked_about(rows)[:, None], by_phi, np.nan)
    by_attention = np.where(np.isfinite(rows["received"]), by_attention, np.nan)
    return pd.concat(
        [
            _by_position(rows, rows["phi"], "φ", measure="phi", control=""),
            _by_position(rows, energy, "share", measure="energy", control=""),
            _by_position(rows, rows["received"], "attention", measure="received", control=""),
            _by_position(rows, uniform, "attention", measure="received", control=UNIFORM),
            _by_position(rows, by_phi, "share of tokens", measure="sink by φ", control=""),
            _by_position(rows, by_attention, "share of tokens", measure="sink by attention", control=""),
        ],
        ignore_index=True,
    )


def _hidden(rows: Rows, how: How) -> pd.DataFrame:
    return _by_position(rows, rows["hidden"], "share of heads", measure="hidden", control="")


def _agreement(rows: Rows, how: How) -> pd.DataFrame:
    """Jaccard of the two criteria's tokens per state, and the same with each example's tokens shuffled."""
    by_phi, by_attention = criteria(rows, how)
    states = {"state": np.arange(by_phi.shape[1])}
    first_only = mean_of_present(np.where(by_phi, np.arange(by_phi.shape[2]) == 0, np.nan))
    frames = []
    for control, other in (("", by_attention), (SHUFFLED, shuffled(rows, by_attention))):
        frame = summarise(agreement(rows, by_phi, other), rows.examples["group"], states, "Jaccard")
        frames.append(
            frame.assign(
                control=control,
                phi_sinks=by_phi.sum(2).mean(0),
                received_sinks=other.sum(2).mean(0),
                both=(by_phi & other).sum(2).mean(0),
                only_first=mean_of_present(first_only.T),
            )
        )
    return pd.concat(frames, ignore_index=True)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    axes = head_axes(rows["sink_share"])
    measures = [
        ("sink_share", "sink_share", "", "share of attention"),
        ("random_share", "sink_share", "random tokens", "share of attention"),
        ("first_share", "first_share", "", "share of attention"),
        ("hidden_rate", "hidden_rate", "", "hidden sinks per example"),
    ]
    frames = [
        summarise(rows[source], rows.examples["group"], axes, unit).assign(measure=measure, control=control)
        for source, measure, control, unit in measures
    ]
    return pd.concat(frames, ignore_index=True)


def _magnitude(rows: Rows, how: How) -> pd.DataFrame:
    width = rows["magnitude_first"].shape[1]
    frames = [
        summarise(rows[source], rows.examples["group"], {"dimension": np.arange(width)}, "|x|").assign(token=token)
        for source, token in (("magnitude_first", "first token"), ("magnitude_median", "median token"))
    ]
    return pd.concat(frames, ignore_index=True).assign(state=rows["phi"].shape[1] // 2)


TABLES = {
    "threshold": (_threshold, ("phi_first", "phi_median", "dimensions", "source", "separation", "note")),
    "dimensions": (_dimensions, ("dimension", "ratio")),
    "tokens": (_tokens, ("position", "position_label", "measure")),
    "agreement": (_agreement, ("phi_sinks", "received_sinks", "both", "only_first")),
    "heads": (_heads, ("measure",)),
    "hidden": (_hidden, ("position", "position_label", "measure")),
    "magnitude": (_magnitude, ("dimension", "token")),
    "summary": (summary, ("measure", "against")),
    **_visual_sinks.TABLES,
}
