"""Probing: what states know, layer by layer

Linear probes read colour, shape, place, presence, number or the answer from the last position, from the image tokens
and from the vision tower, as a mean and patch by patch; learned queries pool patches beside them. Tables: accuracy,
selectivity, best, heads, patches, pooling, targets, tested, pictures, query_maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.model import anatomy
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.asked import require_counts
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ..common.thumbnails import SIDE
from ._attentive import WIDTH
from ._patches import OF_A_PATCH, patch_rows
from ._probing_findings import findings
from ._probing_rows import (
    TAIL,
    answer_ids,
    other_passes,
    pictured_places,
    read_at,
    shown_rows,
    tails,
    watched,
    watched_states,
    whole_pictures,
)
from ._probing_tables import TABLES
from ._watched import tower_of

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "What can be read from the states of the model, and in which layers?"
PAPER = "arXiv 2412.09585 (OLA-VLM), 2410.11302 (MM-SY), 2506.10178 (EP), 1909.03368 (control tasks)"
CLAIMS = (
    Statement(
        "the picture in the middle layers",
        "What a picture shows can be read better from its tokens in the middle half of the layers than as they enter "
        "the first (difference of balanced accuracy above 0), and more so than labels permuted over groups.",
        "arXiv 2412.09585 (OLA-VLM), style; linear probes of labels here, the control is added",
    ),
    Statement(
        "the answer in the middle layers",
        "The right answer can be read well before the last layer: in the middle half of the layers balanced accuracy "
        "at the last position lies more than 0.1 above that of the most frequent answer, and above that of labels "
        "permuted over groups and of random labels of a word (the control task).",
        "arXiv 2410.11302 (MM-SY), style; the bar and the controls are this project's",
        threshold=0.1,
    ),
    Statement(
        "what lies there",
        "The state of a single image token tells what lies there: in the middle half of the layers balanced accuracy, "
        "mean of whether a thing lies there, its colour and its shape, is more than 0.1 above that of the patch's row "
        "and column alone, and above that of labels permuted over groups and, where it is asked for, of the same model "
        "with random weights.",
        "this project's bar; targets by patch after arXiv 2412.09585 (OLA-VLM)",
        threshold=0.1,
    ),
    Statement(
        "learned queries",
        "Learned queries over a picture's patches tell more of what it shows than the mean of the patches does, with "
        "the same classifier (difference of balanced accuracy above 0), and more so than with labels permuted over "
        "groups.",
        "arXiv 2506.10178 (EP), style; a smaller probe of labels here, the control is added",
    ),
)


@dataclass(frozen=True)
class Options:
    """folds: parts of the groups, each read by a probe of the others. components: of the states, at most. c: the
    inverse strength of the probe's penalty. draws: of permuted labels, and of random labels of words. heads: whether
    each head's output is probed as well. patches: of a picture that are probed one by one, at most; 0: none. tower:
    whether the vision tower is probed too, which takes a second forward. queries: that pool a picture's patches; 0:
    none. random: whether a twin with random weights is probed beside the model, which takes its memory and a forward.
    """

    folds: int = 5
    components: int = 64
    c: float = 0.1
    draws: int = 5
    heads: bool = False
    patches: int = 8
    tower: bool = True
    queries: int = 4
    random: bool = False


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Logistic regression (C = {options.c:g}) on standardised states, reduced to at most {options.components} "
        f"principal components; {options.folds} folds of whole groups, scaling and components of the training folds "
        "alone; every example is read once, by a probe that never saw its group. Balanced accuracy: the mean over "
        "classes of the share that is read rightly; guessing gives 1 / classes. Intervals resample groups and take the "
        f"probes as trained. Controls, in the same folds, {options.draws} draws each: labels permuted over groups; the "
        "control task, a random label for each value of a word of the prompt (the word with most values among those "
        "that hardly tell the target; for image tokens, of the first object that the picture's description names). "
        "Beside them the state before the first layer and the most frequent class. Selectivity: accuracy minus that of "
        "the control task. Only classes that stand in as many groups as there are folds are read."
        + _PATCHES.format(options.patches) * (options.patches > 0)
        + _QUERIES.format(options.queries, WIDTH) * (options.queries > 0)
        + (
            _RANDOM
            if options.random
            else " A model with random weights is a control where --probing.random asks for it."
        )
    )


_PATCHES = (
    " Single patches: up to {} of a picture, half with their middle in the box of a thing and half that touch no "
    "box; the same probe, with the patch's row and column alone as a control."
)
_QUERIES = (
    " Pooling: {} learned queries over the patches of the vision tower's last state (of the middle state, where there "
    "is no tower to read), reduced to at most {} components; each query pools a part of the values, then batch norm "
    "and a linear classifier, trained together on the training folds; the mean of the patches is trained likewise."
)
_RANDOM = " Control: a model of the same configuration with all weights drawn anew, vision tower and projector too."


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """What `_probing_rows.watched` keeps of the state that enters the layer, of the last layer also of the one that
    leaves it; where asked, each head's output at the last position [b, h, d_head]. UserError: options.
    """
    _require(how.options)
    found: dict[str, Tensor | None] = {**watched(layer, batch, how.options)}
    found |= whole_pictures(layer, batch, how.options)
    if how.options.heads:
        found["z"] = read_at(layer.z, batch)["last"] if layer.attends else None
    return found


def _require(options: Options) -> None:
    require_counts("probing", options, folds=2, components=1, draws=1, patches=0, queries=0)
    if options.queries > WIDTH:
        raise UserError(f"--probing.queries {options.queries}: at most {WIDTH}, the components that they share")
    if not options.c > 0:
        raise UserError(f"--probing.c {options.c}: a number above 0 is needed, 0.1 by default")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "last" and, with images, "image" [b, states, d]; "patch" [b, states, patches, d] of some patches and
    "patch|told", what lies there; "tower" and "tower|patch" likewise of the vision tower; all of them again behind
    "random|", of random weights; "whole" and what pictures need, see `shown_rows`. "z" [b, layers, h, d_head] where
    asked. "answer" [b], its first token, −1 without one. "tail" [b, TAIL], the prompt's last text tokens from the end,
    −1 where it is shorter. "place" [b, 2]: where the asked thing lies, shares of the picture's width and height, NaN
    without just one.
    """
    rows = watched_states(kept) | patch_rows(batch, how.options.patches)
    others = other_passes(subject, batch, how.options)
    rows |= shown_rows(batch, kept | others, how.options)
    rows |= {name: values for name, values in others.items() if name != "tower|whole"}
    return rows | {"answer": answer_ids(batch), "tail": tails(batch), "place": pictured_places(batch)}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold, those of half precision among them."""
    tower = tower_of(subject) if options.tower else None
    seen = 0 if tower is None else (tower.n_layers + 1) * tower.d_model
    shown = options.patches * (anatomy.find_tower(subject.model) is not None)
    states = (subject.n_layers + 1) * subject.decoder.d_model
    each = (1 + options.random) * ((2 + shown) * states + (1 + shown) * seen)
    pooled = (subject.decoder.d_model if tower is None else tower.d_model) * positions * (shown and options.queries > 0)
    pictures = SIDE * SIDE * (pooled > 0)
    return each + options.heads * states + pooled + pictures + shown * OF_A_PATCH + TAIL + 3


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the tower's pass, and the twin's with its weights."""
    if options.random:
        return costs.weights(subject) + costs.forward(subject, batch, positions)
    return costs.forward(subject, batch, positions) if options.tower and tower_of(subject) is not None else 0


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
