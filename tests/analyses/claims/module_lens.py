"""Planted rows of the lens on modules: image tokens less sure than text, MLPs that make text sure; and not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import module_lens
from crosslens.analyses.lenses._module_rows import KINDS, SITES_READ
from crosslens.analyses.lenses._module_tables import LESS_SURE

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS = 60, 30, 8


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if holds:
        return tables_of()
    return tables_of(image=-2.0) if name == LESS_SURE else tables_of(mlp=1.0)


def tables_of(
    *, image: float = 2.0, mlp: float = -1.0, noise_image: float = 0.0, noise_mlp: float = 0.0, pictures: bool = True
) -> dict[str, pd.DataFrame]:
    """image: nats that image tokens are less sure than text behind the block; mlp: what the MLP changes at text;
    noise_image, noise_mlp: the same with noise.
    """
    rng = np.random.default_rng(0)
    values = {}
    for name in SITES_READ:
        for kind in KINDS:
            for end, apart, change in (("", image, mlp), ("|noise", noise_image, noise_mlp)):
                height = 8 + (change + apart * (kind == "image")) * (name == "behind the block")
                own = height + 0.1 * rng.normal(size=(N, LAYERS))
                values[f"{name}|{kind}{end}"] = own if pictures or kind == "text" else np.full((N, LAYERS), np.nan)
    return tables_from(module_lens, rows_of(values, GROUPS, kind=["colour", "count"] * (N // 2)))
