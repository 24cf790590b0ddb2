"""Crop and ask again: does a second look at the place that the model looks at help it?

The model's own attention says where; it is asked again with that crop of the large picture beside the whole one, and
with the crop alone. Tables: answers, gains, sizes, crops, tested, pictures, on_pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.frames import held_out
from ..common.selection import chosen_half
from ..common.tested import judged
from ..common.thumbnails import SIDE
from ._crop_asking import MEASURES, SHOWN, refused
from ._crop_boxes import CROPS, shown
from ._crop_findings import findings
from ._crop_maps import chosen_layers
from ._crop_rows import crop_rows
from ._crop_tables import RUN_TABLES, TABLES
from ._looks import last_rows

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 1
QUESTION = "Does a crop of where the model looks, shown beside the whole picture, make its answers better?"
PAPER = "arXiv 2502.17422 (MLLMs know), 2509.06461 (CARVE)"
FIT_EXAMPLES = 32
CLAIMS = (
    Statement(
        "the crop holds it",
        "The attention crop holds what is asked for: a larger share of the asked object lies in it than it is of the "
        "picture, and than in random crops and the centre crop of its size.",
        "arXiv 2502.17422; the measure and the controls are added here",
    ),
    Statement(
        "cropping helps",
        "Cropping where it looks helps: with the attention crop beside the whole picture more answers are right than "
        "with the whole picture alone, and more than with random crops of the same size or with the whole picture "
        "twice.",
        "arXiv 2502.17422; random crops and the picture twice are added here",
    ),
    Statement(
        "more for small objects",
        "It helps more where the asked object is small: the gain for objects below .5 % of the picture exceeds that "
        "for objects of 5 % and more, and by more than random crops' or the picture twice.",
        "arXiv 2502.17422; the controls are added here",
    ),
    Statement(
        "CARVE helps",
        "A second look at CARVE's crop alone helps: more answers are right than with the whole picture, and more than "
        "with random crops of the same size alone.",
        "arXiv 2509.06461; the control is added here",
    ),
)


@dataclass(frozen=True)
class Options:
    """asked: the boxes of what is asked for. general: the prompt that takes the question's place in the maps. eps:
    added to the general map in relative attention, in units of its mean. layers: how many CARVE's contrast sums.
    window: px of the smallest crop, 0 for the model's own input size. share, regions: of CARVE's mask, the share of its
    cells and the least number of regions that are kept. draws: random crops for each picture.
    """

    asked: str = "asked_object"
    general: str = "Write a general description of the image."
    eps: float = 0.0
    layers: int = 6
    window: int = 0
    share: float = 0.2
    regions: int = 3
    draws: int = 4


class Learned(NamedTuple):
    """layer, start: of relative attention, and the first of CARVE's; scored: how many held-out boxes chose them, 0
    where none was known; selected_on: the groups that they come from. refused: why two pictures are not shown, or "".
    """

    layer: int = 0
    start: int = 0
    scored: int = 0
    selected_on: Sequence[str] = ()
    refused: str = ""


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    how = "with the crop beside the whole picture and with the crop alone"
    if learned.refused:
        how = f"with the crop alone, since two pictures are refused ({learned.refused})"
    chosen = (
        f"chosen by AUROC against {learned.scored} boxes of {held_out(fitted_on)}, one half of the groups"
        if learned.scored
        else "the middle ones: no held-out box was known"
    )
    return (
        f"Each question was asked about the whole picture, about it twice, and again {how}. Attention crop (arXiv "
        f"2502.17422): relative attention to “{options.general}” of the last prompt position in layer {learned.layer}, "
        "heads averaged; windows of 1, 1.2 … 2 times the model's input size, the one that stands out most from its "
        f"neighbours. CARVE crop (arXiv 2509.06461): the contrast summed over {options.layers} layers from "
        f"{learned.start} on, at that one position; the box around the regions of its top {options.share:.0%} of cells "
        f"(at least {options.regions}), without blackening the rest. Layers are {chosen}. Controls: {options.draws} "
        "random crops of the same size for each of the two, the centre crop, the whole picture twice; the ceiling is a "
        "crop around the asked object. Right: the answer is the likeliest of the options' first tokens. Pictures no "
        "larger than the model's input are left out: their crop is the whole."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The layers, from one half of the held-out groups; and whether two pictures are taken."""
    half, groups = chosen_half(subject, batches, "crop_and_ask")
    if any(not example.images for batch in half for example in batch.examples):
        raise UserError("crop_and_ask needs a task with pictures, larger than the model's input")
    found = chosen_layers(subject, half, options.asked, options.general, options.layers, options.eps)
    return Learned(*found, groups, refused(subject, half[0].examples[0], half[0].form))


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """Attention of the last position on the map's cells, mean over heads [b, cells].

    UserError: an example without an image.
    """
    missing = next((example.id for example in batch.examples if not example.images), None)
    if missing is not None:
        raise UserError(f"example {missing} has no image: crop_and_ask needs a task with pictures")
    where = [one and one.place for one in shown(batch, how.options.asked)]
    rows = last_rows(layer, batch, where)
    return {"rows": None if rows is None else rows.mean(1)}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """One pass under the general prompt, then one for each picture that is shown: see `_crop_rows.crop_rows`."""
    return crop_rows(subject, batch, kept["rows"], how)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return len(CROPS) * len(SHOWN) * len(MEASURES) + 3 * positions + 3 * SIDE * SIDE


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a forward of prompts with two pictures, rows of one pass."""
    return costs.forward(subject, batch, 2 * positions) + 4 * subject.n_layers * batch * positions * subject.n_heads


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
