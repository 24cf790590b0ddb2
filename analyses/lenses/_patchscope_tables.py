"""Tables of `patchscope`: how often the next token is named from each state, by way, and the number of the claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.claims import Statement
from ..common.controls import DIRECTION
from ..common.frames import joined, middle, summarise
from ..common.tested import number

PATCHED, LOGIT = "patchscope", "logit lens"
OTHER, RANDOM = "the state of another prompt", DIRECTION
KINDS = (PATCHED, LOGIT, OTHER, RANDOM)
NAMED = "the model names it itself"

CLAIMS = (
    Statement(
        NAMED,
        "The model itself can say what a state holds: put into a prompt that repeats tokens, states of the middle half "
        "of the layers make it say the next token of their own prompt more often than the logit lens reads it from "
        "them (difference above 0), and more often than the state of another prompt or a random direction of the same "
        "norm does.",
        *("Patchscopes, arXiv 2401.06102, token identity, -style, from memory; controls are this project's", 0.0),
    ),
)


def _by_layer(rows: Rows, how: How) -> pd.DataFrame:
    """Share of prompts whose next token is named, and its median rank, by the layer that the state enters."""
    groups, parts = rows.examples["group"], []
    for way in KINDS:
        control = way if way in (OTHER, RANDOM) else ""
        told: dict[str, Any] = {"way": PATCHED if control else way, "control": control}
        named, ranks = rows[f"{way}|named"], rows[f"{way}|rank"] + 1
        axes = {"layer": np.arange(named.shape[1])}
        parts.append(summarise(named, groups, axes, "share", **told).assign(measure="named"))
        ranked = summarise(ranks, groups, axes, "rank (1 = first)", statistic="median", **told)
        parts.append(ranked.assign(measure="rank"))
    return joined(parts)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    between = middle(rows[f"{PATCHED}|named"].shape[1])
    named = {way: rows[f"{way}|named"][:, between].mean(1) for way in KINDS}
    groups, unit = rows.examples["group"], "share of prompts and layers"
    own = number(NAMED, named[PATCHED] - named[LOGIT], groups, unit)
    parts = [number(NAMED, named[PATCHED] - named[way], groups, unit, than=way) for way in (OTHER, RANDOM)]
    return pd.concat([own, *parts], ignore_index=True)


TABLES = {"named": (_by_layer, ("way", "measure")), "tested": (_tested, ("claim", "than", "untestable"))}
