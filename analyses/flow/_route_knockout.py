"""Routes beside knockout: what the last token reads of each kind of token in each layer, and what cutting it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.intervene.knockout import knockout_sweep
from ...probes.intervene.measures import probability
from ...probes.intervene.recording import record
from ...probes.prompts.batch import Batch
from ...probes.runs.results import Rows
from ..common.agreement import spearman
from ..common.controls import OTHER_WRITER
from ..common.frames import joined, summarise
from ..common.tested import nothing, number
from ._flows import filled
from ._route_walk import EDGE, Route

CLAIM = "routes agree with knockout"
EDGE_ENDS = ("layer", "source", "target", "kind", "value")


def read_by_last(route: Route, chosen: Bool[Tensor, " n"]) -> Float[Tensor, " layer"]:
    """The last token's kept shares of some tokens, heads summed."""
    layer, source, target, kind, value = (route.edges[:, EDGE.index(name)] for name in EDGE_ENDS)
    mine = (kind == 0) & (target == len(chosen) - 1) & chosen.cpu()[source.long()]
    return torch.zeros(len(route.sums)).index_add(0, layer[mine].long(), value[mine])


def knocked_rows(subject: Any, batch: Batch, roles: dict[str, Bool[Tensor, "b p"]]) -> dict[str, Tensor]:
    """Rows "knocked|<role>" [b, layers]: the change of the probability of the model's own answer, as a share of it,
    where the last token cannot read these tokens in one layer.
    """
    base, found = record(subject, batch), {}
    measure = probability(base.logits.argmax(-1).cpu())
    for role, source in roles.items():
        there = source.any(1)
        if bool((source & batch.final).any()):
            continue
        cut, rows = filled(source, batch.final, there, batch)
        swept = knockout_sweep(subject, base, cut, rows, window=1, measure=measure)
        found[f"knocked|{role}"] = (swept.values / swept.clean - 1).T.masked_fill(~there[:, None], torch.nan)
    return found


def roles_in(rows: Rows) -> list[str]:
    return [name.removeprefix("knocked|") for name in rows.values if name.startswith("knocked|")]


def knockout(rows: Rows, how: Any) -> pd.DataFrame | None:
    """By layer and kind of token: what routes keep between it and the last token, and what cutting that costs."""
    groups, frames = rows.examples["group"], []
    for role in roles_in(rows):
        there = np.nan_to_num(rows[f"tokens|{role}"])[:, None] > 0
        for name, measure, control, unit in (
            ("read", "importance", "", "share"),
            ("read|null", "importance", OTHER_WRITER, "share"),
            ("knocked", "knockout", "", "share of the probability"),
        ):
            prefix, _, suffix = name.partition("|")
            values = rows[f"{prefix}|{role}{'|' + suffix if suffix else ''}"]
            values = np.where(there, values, np.nan)
            axes = {"layer": np.arange(values.shape[1])}
            told: dict[str, Any] = {"role": role, "measure": measure, "control": control}
            frames.append(summarise(values, groups, axes, unit, **told))
    return joined(frames) if frames else None


def agreement(rows: Rows) -> list[pd.DataFrame]:
    """Rank correlation, over layers and kinds of tokens of one prompt, of what is kept with what cutting changes."""
    roles, groups = roles_in(rows), rows.examples["group"]
    if not roles:
        return [nothing(CLAIM, "edges were not cut (--routes.causal)")]
    cut = np.abs(_cells(rows, "knocked|", roles, ""))
    own, null = (
        np.array([spearman(*pair) for pair in zip(_cells(rows, "read|", roles, suffix), cut, strict=True)])
        for suffix in ("", "|null")
    )
    if np.isnan(own).all():
        return [nothing(CLAIM, "no route leads from another token straight to the last one")]
    null = np.where(np.isnan(null) & ~np.isnan(own), 0.0, null)  # a control's route that reads nothing tells nothing
    unit = "rank correlation"
    return [number(CLAIM, own, groups, unit), number(CLAIM, own - null, groups, unit, than=OTHER_WRITER)]


def _cells(rows: Rows, prefix: str, roles: list[str], suffix: str) -> np.ndarray:
    """[n, roles · layers]; NaN where a prompt has no such token."""
    there = [np.nan_to_num(rows[f"tokens|{role}"])[:, None] > 0 for role in roles]
    each = [np.where(t, rows[f"{prefix}{role}{suffix}"], np.nan) for t, role in zip(there, roles, strict=True)]
    return np.concatenate(each, 1)
