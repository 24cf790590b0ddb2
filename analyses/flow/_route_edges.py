"""The kept edges of one prompt as a table: from which token and state to which, through what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...data.tokens import labels
from ._route_rows import FIELDS
from ._route_walk import KINDS

COLUMNS = (
    *("example", "state", "to_state", "source", "target", "kind", "followed", "heads", "strongest", "of_head"),
    *("source_token", "target_token"),
)


def edges_of(kept: np.ndarray, example: str, tokenizer: Any) -> pd.DataFrame:
    """kept: [edges, FIELDS], NaN behind the end. value: share of the upper state; followed: share of the output."""
    table = pd.DataFrame(kept[~np.isnan(kept[:, 0])].astype(float), columns=list(FIELDS))
    heads = [f"{int(layer)}.{int(head)}" if head >= 0 else "" for layer, head in table[["layer", "head"]].to_numpy()]
    words = {f"{end}_token": _words(table[f"{end} id"], tokenizer) for end in ("source", "target")}
    whole = {name: table[name].astype(int) for name in ("layer", "source", "target", "heads")}
    told = {"example": example, "kind": [KINDS[int(kind)] for kind in table["kind"]], "strongest": heads}
    table = table.assign(**whole, **told, **words, unit="share of the state", n=1, measure="importance")
    return table.rename(columns={"of head": "of_head"}).drop(columns=["head", "source id", "target id"])


def _words(ids: pd.Series, tokenizer: Any) -> list[str]:
    unique = np.unique(ids.to_numpy().astype(int))
    known = dict(zip(unique.tolist(), labels(tokenizer, unique), strict=True)) if len(unique) else {}
    return [known[int(i)] for i in ids]
