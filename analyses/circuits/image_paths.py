"""Paths through the picture: what the heads that write the answer hear at image tokens, and what at text tokens

Path patching restricted to positions: from every head to the movers' keys and values at the picture's tokens, and at
the text's; and whole attention layers patched at each place. Where a task tells its scenes in words
(scenes:form=words), the words of the things stand for the picture. Tables: task, paths, layers, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.paths import path_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.contrast import contrast, task_rows
from ..common.frames import of_half
from ..common.selection import chosen_half
from ..common.tested import judged
from ._image_path_findings import findings
from ._image_path_tables import DEEPER, PICTURE, PLACES, TABLES, TEXT, THROUGH
from ._movers import listed, movers, parts_of
from ._positions import patched_at

__all__ = ["TABLES", "claims", "findings"]

VERSION = 2
QUESTION = "Do the heads that write the answer hear the others at the tokens of the picture, or at those of the text?"
PAPER = "arXiv 2411.18620 (cross-modal information flow), by path patching (2211.00593)"
FIT_EXAMPLES = 32
_FLOW = "arXiv 2411.18620: cutting image → last changes less than question → last; by paths, in its manner"
CLAIMS = (
    Statement(
        THROUGH,
        "What is seen reaches the answer through the text: of the summed |effect| of all heads on the paths into the "
        "movers' keys and values, less than half runs through the picture's tokens, and less than these are of the "
        "tokens that the twin's difference reaches (signs from one half of the groups).",
        _FLOW,
        0.5,
        "below",
    ),
    Statement(
        DEEPER,
        "The work goes from the picture to the end of the prompt: patched layer by layer, attention at the picture's "
        "tokens acts earlier than at the last position (difference of the mean layers, weighted by effect with signs "
        "from one half of the groups, above 0), by more than attention at the text's tokens does.",
        "arXiv 2411.18620, in its manner; the control is this project's",
    ),
)


@dataclass(frozen=True)
class Options:
    """movers: how many heads count as movers, those that help most on the path to the output."""

    movers: int = 3


class Learned(NamedTuple):
    """heads: the movers, (layer, head); selected_on: the groups that they come from."""

    heads: Sequence[Sequence[int]] = ()
    selected_on: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin, at the last position; an effect is what it "
        f"loses, in logits. Movers ({listed(learned.heads)}): the heads that help most on the path to the output, on "
        f"{of_half(learned.selected_on, fitted_on)}; "
        "measured on the other groups. A path: one head's z is the twin's, every other head's stays, and the movers' "
        "keys and values, at the tokens of one place alone, hear the difference. Layers: what attention writes at one "
        "place is the twin's, all behind it is computed again. Places: the picture's tokens (or the words of the "
        "things that a text tells), the other tokens before the last, the last."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The movers, on held-out examples of one half of the groups."""
    if options.movers < 1:
        raise UserError(f"--image_paths.movers {options.movers}: at least one mover is needed, 3 by default")
    half, groups = chosen_half(subject, batches, "image_paths")
    for batch in half:
        _places(batch)
    return Learned(movers(subject, half, options.movers, helping=True), groups)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """ "path|place" [b, layer, head] of picture and text, "layer|place" [b, layer] of all places, "tokens" [b], the
    picture's share of the tokens that the twin reaches; the task's own numbers [b].
    """
    places = _places(batch)
    found = contrast(subject, batch, ("z", "attn_out"))
    rows = task_rows(found)
    receivers = parts_of(how.learned.heads, "kv", subject.decoder.attending[0])
    if not receivers:
        raise UserError("image_paths: every mover lies in the first layer, where no head is heard: raise its movers")
    for name in (PICTURE, TEXT):
        sweep = path_sweep(subject, found.base, found.donor, receivers, measure=found.measure, positions=places[name])
        rows[f"path|{name}"] = sweep.effects
    parted = found.parted
    for name in PLACES:
        rows[f"layer|{name}"] = patched_at(subject, found, "attn_out", places[name], parted)
    reached = {name: (places[name] & parted.to(places[name].device)).sum(1).float().cpu() for name in (PICTURE, TEXT)}
    return rows | {"tokens": reached[PICTURE] / (reached[PICTURE] + reached[TEXT])}


def _places(batch: Batch) -> dict[str, Tensor]:
    """Disjoint positions Bool[b, p] by place. UserError: an example without a picture, or words in its place."""
    picture = batch.where("image") | batch.where("image_separator")
    for mark in ("asked_object", "other_objects") if not bool(picture.any()) else ():
        picture = picture | batch.marks.get(mark, torch.zeros_like(picture))
    picture = picture & ~batch.final
    if not bool(picture.any(1).all()):
        name = batch.example_ids[int((~picture.any(1)).int().argmax())]
        raise UserError(
            f"image_paths: example {name} has no picture, and no words that tell its things: take scenes, or "
            "scenes:form=words"
        )
    return {PICTURE: picture, TEXT: batch.mask & ~picture & ~batch.final, PLACES[2]: batch.final}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return subject.n_layers * (2 * subject.n_heads + len(PLACES)) + 6


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, and all heads in turn."""
    heads = costs.variants(subject, subject.n_layers * subject.n_heads, batch, positions, positions)
    return 2 * costs.recording(subject, batch, positions, ("z", "attn_out")) + heads


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
