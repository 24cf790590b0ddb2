"""Similarity of states: do image and text, or one page in several languages, come to lie together?

Cosines of mean states by layer, of pairs that belong together and of those that do not, beside how alike any two states
of a set are; linear CKA; every layer beside every layer. Tables: likeness, cka, layers, pairs, modes, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.labels import label_of
from ..common.tested import judged
from ._similarity_findings import findings
from ._similarity_modes import MODES, PICTURES, token_modes
from ._similarity_rows import mean_states
from ._similarity_sets import IMAGE, TEXT
from ._similarity_tables import TABLES
from ._similarity_tested import NEARER, PAGES, RISES, SHARED
from ._states import by_state, states

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "In which layers are the states of image and text, or of one text in several languages, alike?"
PAPER = "arXiv 2405.16700 (IMA), 2312.11420 (Tuning LayerNorm), 2405.10548 (cross-task ICL)"
CLAIMS = (
    Statement(
        RISES,
        "Image and text states grow alike: the cosine of an image's mean state with another example's text is higher "
        "in the middle half of the states than in the first quarter (difference above 0), and rises more than that of "
        "different images, and of different texts.",
        "arXiv 2405.16700 (IMA), style; without pairs of the same example, and the controls are added here",
    ),
    Statement(
        SHARED,
        "Somewhere an image's state is more like its own text's than like other texts': without the sets' means, "
        "paired minus unpaired cosine is above 0 at the state that is chosen on half of the groups, measured on the "
        "others, and more so than for pairs permuted over groups.",
        "arXiv 2405.16700 (IMA), style; paired minus unpaired and its control are added here",
    ),
    Statement(
        NEARER,
        "Texts stay nearer to texts than to images everywhere: the cosine of different texts minus that of an image "
        "with another example's text is above 0 also at the state where it is least, chosen on half of the groups, and "
        "more so than with image and text states exchanged at random.",
        "arXiv 2405.16700 (IMA), style; the control is added here",
    ),
    Statement(
        PAGES,
        "The same page in two languages is more alike in the middle: without the languages' means, paired minus "
        "unpaired cosine is higher in the middle half of the states than at both ends (difference above 0), and more "
        "so than for pairs permuted over pages.",
        "this project's; that languages share a space in the middle layers is widely reported",
    ),
)
_MODES = (
    " Token modes: the cosines of every image token with every text token of an example, their mean, largest, median, "
    "and the mean over image tokens of the largest; beside them those of another image's tokens with the same text, "
    "which has read the own image."
)


@dataclass(frozen=True)
class Options:
    """modes: whether every image token is compared with every token of the text too, which takes one more forward of
    two rows for each example.
    """

    modes: bool = False


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Of every state (entering each layer, and leaving the last) the mean over an example's image tokens and over "
        "its text tokens, without the first token of the prompt, on which activations are massive, and without "
        "special tokens. Image tasks: the sets are images and texts, a pair the image and text of one example. Texts "
        "of several labels (languages): the sets are the labels, a pair two texts of one group (the same page). "
        "Cosines of pairs; different: all pairs of different groups. How alike any two states are (anisotropy) is "
        "seen in the sets with themselves; without it, each set's mean state, layer by layer, is subtracted first. "
        "Permuted pairs: each group with another one's partner, 20 draws. CKA: linear, of the groups' mean states, "
        "plain and unbiased (plain is inflated where examples are fewer than dimensions). Intervals resample groups; "
        "for CKA and for layers beside layers about 20 folds of groups are left out in turn. States that are chosen "
        "are chosen on half of the groups. Text behind an image attends to it: that a pair shares content does not "
        f"say that both were encoded alike.{_MODES if options.modes else ''}"
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """The mean states [b, d] that enter the layer; of the last layer also those that leave it. UserError: an example
    with neither an image nor a label.
    """
    if layer.index == 0:
        _require(batch)
    return {**by_state(layer, lambda state: mean_states(state, batch))}


def _require(batch: Batch) -> None:
    for example in batch.examples:
        if not (example.images or label_of(example)):
            raise UserError(
                f"similarity compares image with text, or texts of several labels: example {example.id} has neither an "
                "image nor a label (meta label or kind); --task texts has languages, --task scenes pictures"
            )


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "text" and, where there are images, "image" [b, states, d], float32; NaN for an example without. "modes":
    see `_similarity_modes`. UserError: modes of a model that reads no images.
    """
    if how.options.modes and subject.vision is None:
        raise UserError(
            f"--similarity.modes compares image tokens with text tokens, and {subject.name} reads no images: leave it "
            "out, or take a subject that does"
        )
    return states(kept, (IMAGE, TEXT)) | (token_modes(subject, batch) if how.options.modes else {})


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return (subject.n_layers + 1) * (2 * subject.decoder.d_model + PICTURES * len(MODES) * options.modes)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: of token modes an example with another image beside it, and their cosines."""
    return (costs.forward(subject, 2, positions) + 4 * 4 * positions**2) if options.modes else 0


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
