"""Pictures of examples, small enough to be rows of a run, and as text for a table."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ...data.images import rgb
from ...probes.runs.results import Rows

SIDE = 84  # px
ASKED = ("question", "answer")  # of an example, as a title of its picture


def thumbnail(example: Any) -> UInt8[Tensor, "side side 3"]:
    """The first picture of an example, whatever its shape."""
    shown = next(s.content for s in example.segments if isinstance(s.content, Image.Image))
    return torch.from_numpy(np.asarray(rgb(shown, f"example {example.id}: the image").resize((SIDE, SIDE))).copy())


def png(image: Image.Image | np.ndarray) -> str:
    """An image, or pixels [rows, columns, 3], as PNG in base64."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def first_of_groups(rows: Rows, count: int) -> np.ndarray:
    """The rows of the first examples of different groups, so that no picture is shown twice."""
    return rows.examples.drop_duplicates("group").index[:count].to_numpy()


def unmapped(rows: Rows, grid: str) -> dict[str, pd.DataFrame]:
    """The table `unmapped`, in words, where some picture's rows and columns of tokens are not known (0 in `grid`)."""
    unknown = (rows[grid] == 0).any(1)
    if not unknown.any():
        return {}
    why = (
        "No map is drawn over these pictures: this model merges, cuts or frames its patches, and none of its own "
        "numbers says how many rows and columns of tokens an image has."
    )
    groups = rows.examples["group"][unknown].nunique()
    return {"unmapped": pd.DataFrame({"n": [int(unknown.sum())], "n_groups": [groups], "unit": "examples", "why": why})}


def picture_table(rows: Rows, chosen: np.ndarray) -> pd.DataFrame:
    """example question answer png, of the chosen rows, which have their `thumbnail` in "picture"."""
    told = rows.examples.reindex(columns=["id", *ASKED], fill_value="").iloc[chosen].reset_index(drop=True)
    return told.rename(columns={"id": "example"}).assign(png=[png(rows["picture"][i]) for i in chosen])
