"""Pictures of examples with their maps, small enough to be rows of a run, and as text for a table."""

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
from ...probes.prompts.batch import Batch
from ...probes.prompts.geometry.maps import cells, grids, reasons
from ...probes.prompts.geometry.views import REASONS, Geometry
from ...probes.runs.results import Rows

SIDE = 84  # px
ASKED = ("question", "answer")  # of an example, as a title of its picture


def picture_rows(batch: Batch) -> dict[str, Tensor]:
    """Rows for maps over each example's first picture: "picture" [b, side, side, 3], what its map lies over; "grid"
    [b, 2], rows and columns of the map; "cell" [b, patches], where on it each of `batch.where("patches")` lies, row by
    row, NaN for none; "unplaced" [b], why there is no map as an index into REASONS.
    """
    shown = zip(batch.examples, batch.geometry, strict=True)
    pictures = torch.stack([thumbnail(example, geometry) for example, geometry in shown])
    return {"picture": pictures, "grid": grids(batch), "cell": cells(batch), "unplaced": reasons(batch)}


def thumbnail(example: Any, geometry: Geometry) -> UInt8[Tensor, "side side 3"]:
    """What the map of an example's first picture lies over, whatever its shape; all of it where there is no map."""
    shown = next(s.content for s in example.segments if isinstance(s.content, Image.Image))
    picture = rgb(shown, f"example {example.id}: the image")
    if geometry.pictures:
        picture = geometry.pictures[0].cut(picture)
    return torch.from_numpy(np.asarray(picture.resize((SIDE, SIDE))).copy())


def png(image: Image.Image | np.ndarray) -> str:
    """An image, or pixels [rows, columns, 3], as PNG in base64."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def first_of_groups(rows: Rows, count: int) -> np.ndarray:
    """The rows of the first examples of different groups, so that no picture is shown twice."""
    return rows.examples.drop_duplicates("group").index[:count].to_numpy()


def unmapped(rows: Rows) -> pd.DataFrame | None:
    """The table `unmapped`: how many pictures have no map, a row for each reason; None where all have one."""
    frames = []
    for reason in np.unique(rows["unplaced"][rows["unplaced"] > 0]).astype(int):
        groups = rows.examples["group"][rows["unplaced"] == reason]
        why = f"No map is drawn over these pictures: {REASONS[reason]}."
        frames.append({"n": len(groups), "n_groups": groups.nunique(), "unit": "examples", "why": why})
    return pd.DataFrame(frames) if frames else None


def picture_table(rows: Rows, chosen: np.ndarray) -> pd.DataFrame:
    """example question answer png, of the chosen rows, which have their `thumbnail` in "picture"."""
    told = rows.examples.reindex(columns=["id", *ASKED], fill_value="").iloc[chosen].reset_index(drop=True)
    return told.rename(columns={"id": "example"}).assign(png=[png(rows["picture"][i]) for i in chosen])
