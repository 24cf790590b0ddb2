"""Token modes: every image token beside every token of the text, and those of another image in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.example import Example
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import IMAGE, another_image
from ..common.frames import joined, summarise
from ..common.places import without_first
from ..common.ragged import stacked
from ._similarity_rows import text_tokens
from ._states import by_state

MODES = ("mean", "max", "median", "max, then mean")
COSINE, DIFFERENCE, MORE = "cosine", "difference of cosines", "own image − another image"
PICTURES = 2  # the own image and another one


def token_modes(subject: Any, batch: Batch) -> dict[str, Float[Tensor, "b states pictures modes"]]:
    """ "modes": the cosines of the tokens of the own image, and of another one, with the tokens of the text that stands
    with the own one; NaN without image, text or another image, nothing where no example has an image.
    """
    shown = zip(batch.examples, batch.where("image").any(1).tolist(), strict=True)
    return stacked([_of_example(subject, example, batch) if there else {} for example, there in shown])


@torch.no_grad()
def _of_example(subject: Any, example: Example, batch: Batch) -> dict[str, Float[Tensor, "states pictures modes"]]:
    """Of one forward of two rows, the example and itself with another image: tokens live while their layer runs."""
    other = another_image(example)
    pair = subject.batch([example, *([] if other is None else [other])], **batch.form)
    images, text = pair.where("image") & without_first(pair), text_tokens(pair)[0]
    found: list[Tensor] = []

    def keep(layer: Layer) -> None:
        found.extend(by_state(layer, lambda state: {"": _cosines(state.float(), images, text)}).values())

    with tracing(subject, keep):
        subject.forward(pair)
    return {"modes": torch.stack(found)}


def _cosines(
    state: Float[Tensor, "row p d"], images: Bool[Tensor, "row p"], text: Bool[Tensor, "p"]
) -> Float[Tensor, "pictures modes"]:
    """Of the image tokens of each row with the text of the first one."""
    words = state[0, text.to(state.device)]
    whole = torch.full((PICTURES, len(MODES)), torch.nan)
    for row, image in enumerate(images.to(state.device)):
        if bool(image.any()) and len(words):
            tokens = state[row, image]
            most, median, each = metrics.token_alignment(tokens, words)
            whole[row] = torch.stack([metrics.pairwise_cosine(tokens, words).mean, most, median, each]).cpu()
    return whole


def modes(rows: Rows, how: How) -> pd.DataFrame | None:
    """By state and mode, of the examples that have another image; None where modes were not measured."""
    if "modes" not in rows.values:
        return None
    own, other = (rows["modes"][:, :, picture] for picture in range(PICTURES))
    own = np.where(np.isnan(other), np.nan, own)
    axes: dict[str, Any] = {"state": np.arange(own.shape[1]), "mode": MODES}
    groups = rows.examples["group"]
    parts = [
        summarise(own, groups, axes, COSINE, measure=COSINE, control=""),
        summarise(other, groups, axes, COSINE, measure=COSINE, control=IMAGE),
        summarise(own - other, groups, axes, DIFFERENCE, measure=MORE, control=""),
    ]
    return joined(parts)
