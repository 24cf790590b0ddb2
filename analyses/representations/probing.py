"""Probing: what states know, layer by layer

Linear probes read colour, shape, place, presence, number or the answer from the state at the last position and from the
mean state of the image. Tables: accuracy, selectivity, best, heads, targets, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._probing_findings import findings
from ._probing_rows import PLACES, TAIL, answer_ids, pictured_places, read_at, tails
from ._probing_tables import TABLES
from ._states import by_state, states

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "What can be read from the states of the model, and in which layers?"
PAPER = "arXiv 2412.09585 (OLA-VLM), 2410.11302 (MM-SY), 1909.03368 (control tasks)"
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
)


@dataclass(frozen=True)
class Options:
    """folds: parts of the groups, each read by a probe of the others. components: of the states, at most. c: the
    inverse strength of the probe's penalty. draws: of permuted labels, and of random labels of words. heads: whether
    each head's output is probed as well.
    """

    folds: int = 5
    components: int = 64
    c: float = 0.1
    draws: int = 5
    heads: bool = False


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
        "the control task. Only classes that stand in as many groups as there are folds are read. A model with random "
        "weights is not among the controls: it would need a run of its own."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """The state that enters the layer, read at the last position and over the image [b, d]; of the last layer also the
    one that leaves it; where asked, each head's output at the last position [b, h, d_head]. UserError: options.
    """
    _require(how.options)
    found: dict[str, Tensor | None] = {**by_state(layer, lambda state: read_at(state, batch))}
    if how.options.heads:
        found["z"] = read_at(layer.z, batch)["last"] if layer.attends else None
    return found


def _require(options: Options) -> None:
    for name, least in {"folds": 2, "components": 1, "draws": 1}.items():
        if getattr(options, name) < least:
            raise UserError(f"--probing.{name} {getattr(options, name)}: at least {least} is needed")
    if not options.c > 0:
        raise UserError(f"--probing.c {options.c}: a number above 0 is needed, 0.1 by default")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "last" and, with images, "image" [b, states, d]; "z" [b, layers, h, d_head] where asked. "answer" [b], its
    first token, −1 without one. "tail" [b, TAIL], the prompt's last text tokens from the end, −1 where it is shorter.
    "place" [b, 2]: where the asked thing lies, shares of the picture's width and height, NaN without just one.
    """
    rows = states(kept, PLACES) | ({"z": kept["z"]} if "z" in kept else {})
    return rows | {"answer": answer_ids(batch), "tail": tails(batch), "place": pictured_places(batch)}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    width = subject.decoder.d_model
    return (2 + options.heads) * (subject.n_layers + 1) * width + TAIL + 3


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
