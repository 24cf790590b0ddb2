"""Tables of `lenses`: every state read by site and norm, how the task is answered, the numbers of the claims."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from ...data.errors import UserError
from ...probes.runs.results import How, Rows
from ..common.frames import summarise

Site = Literal["resid", "attn_out", "mlp_out"]
SITES: tuple[Site, ...] = ("resid", "attn_out", "mlp_out")


NORMS = ("final norm", "no norm")


MEASURES = ("probability", "rank", "kl", "entropy", "top1")


UNITS = {
    "probability": "probability",
    "rank": "rank (0 = top)",
    "kl": "nats",
    "entropy": "nats",
    "top1": "share",
}


def sites_of(options: Any) -> tuple[str, ...]:
    """Those that are read, the residual first. UserError: an unknown one."""
    if set(options.sites) - set(SITES):
        raise UserError(f"--lenses.sites {' '.join(options.sites)}: some of {', '.join(SITES)}")
    return tuple(dict.fromkeys((SITES[0], *options.sites)))


def _lens(rows: Rows, how: How) -> pd.DataFrame:
    """Every state read by site and norm; the curves by subset are about the residual with the norm alone."""
    frames = []
    for subset, part in rows.subsets(how.options.subset):
        for site in sites_of(how.options) if subset == "all" else ("resid",):
            for norm in NORMS if subset == "all" else NORMS[:1]:
                frames.append(_curves(part, site, norm).assign(subset=subset))
    return pd.concat(frames, ignore_index=True)


def _accuracy(rows: Rows, how: How) -> pd.DataFrame:
    """measure: "top1", "pair accuracy", "logit difference", …"""
    parts = rows.subsets(how.options.subset)
    return pd.concat([_answered(part).assign(subset=subset) for subset, part in parts], ignore_index=True)


def _curves(rows: Rows, site: str, norm: str) -> pd.DataFrame:
    frames = []
    for measure in MEASURES:
        values = rows[f"{site}|{norm}|{measure}"]
        groups = rows.examples["group"]
        first = 0 if site == "resid" else 1
        axes = {"state": np.arange(values.shape[1]) + first}
        where = {"site": site, "norm": norm, "measure": measure}
        controls = ("", "wrong answer") if values.ndim == 3 else ("",)
        for column, control in enumerate(controls):
            cells = values[..., column] if values.ndim == 3 else values
            kind = "median" if measure == "rank" else "mean"
            frame = summarise(cells, groups, axes, UNITS[measure], statistic=kind)
            frames.append(frame.assign(control=control, **where))
    return pd.concat(frames, ignore_index=True)


def _answered(rows: Rows) -> pd.DataFrame:
    rank = rows[f"resid|{NORMS[0]}|rank"][:, -1]
    measures = {
        ("top1", "", "share"): rank[:, 0] == 0,
        ("top1", "wrong answer", "share"): rank[:, 1] == 0,
        ("pair accuracy", "", "share"): rows["logit_difference"] > 0,
        ("pair accuracy − guessing", "", "share"): (rows["logit_difference"] > 0) - 0.5,
        ("logit difference", "", "logits"): rows["logit_difference"],
    }
    frames = [
        summarise(values.astype(float), rows.examples["group"], {}, unit).assign(measure=name, control=control)
        for (name, control, unit), values in measures.items()
    ]
    return pd.concat(frames, ignore_index=True)


NORM_GAIN, READ_BEFORE, FALLING = "KL with the norm − without", "read before / final", "steps that fall"


def _compared(rows: Rows, how: How) -> pd.DataFrame:
    """What the claims are about: one number an example, over the second half of the states or two thirds up."""
    groups = rows.examples["group"]
    normed, plain = (rows[f"resid|{norm}|kl"] for norm in NORMS)
    half = normed.shape[1] // 2
    probability = rows[f"resid|{NORMS[0]}|probability"][..., 0]
    before = probability[:, 2 * (probability.shape[1] - 1) // 3]
    frames = [
        summarise((normed - plain)[:, half:].mean(1), groups, {}, "nats").assign(measure=NORM_GAIN),
        summarise(before, groups, {}, "ratio", denominators=probability[:, -1]).assign(measure=READ_BEFORE),
        summarise((np.diff(normed[:, half:]) < 0).mean(1), groups, {}, "share").assign(measure=FALLING),
    ]
    return pd.concat(frames, ignore_index=True).assign(control="", subset="all")


TABLES = {
    "lens": (_lens, ("site", "norm", "measure", "subset")),
    "accuracy": (_accuracy, ("measure", "subset")),
    "compared": (_compared, ("measure", "subset")),
}
