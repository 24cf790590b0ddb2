"""Localisation: which maps over the picture find what is asked for

Maps of attention, of heads and of image states are scored against the box of the asked object, each beside its
controls. Tables: scores, answers, methods, heads, localizers, tested, pictures, on_pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import DRAWS, another_question, example_keys, one_of_each
from ..common.frames import held_out
from ..common.selection import chosen_half
from ..common.tested import judged
from ..common.thumbnails import SIDE
from ._attention_maps import last_rows, rows_of
from ._findings import findings
from ._heads import choose
from ._places import places
from ._rows import score_rows
from ._scoring import SCORES
from ._state_maps import state_maps, words_of
from ._tables import RUN_TABLES, TABLES

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 1
QUESTION = "Which maps over the picture find what is asked for, and is it the question that they follow?"
PAPER = "arXiv 2502.17422, 2509.06461 (CARVE), 2503.06287 (localization heads), 2506.23270 (TAM), 2310.12973"
FIT_EXAMPLES = 32
CLAIMS = (
    Statement(
        "looks at it",
        "The model looks at what it is asked for: in the middle half of the layers the last position's attention on "
        "the box is above the mean of all boxes of that size (attention ratio above 1), and above that on other "
        "examples' boxes and that under another question.",
        "arXiv 2502.17422; the controls are added here",
        1.0,
    ),
    Statement(
        "looks at it when wrong",
        "The model looks at what it is asked for even where its answer is wrong: the same among wrong answers.",
        "arXiv 2502.17422; the controls are added here",
        1.0,
    ),
    Statement(
        "contrast",
        "The contrast with a general prompt finds what either map alone does not: at the layers that half of the "
        "groups choose its AUROC is above one half on the other, and above that of each map alone.",
        "arXiv 2509.06461; the measure is added here",
        0.5,
    ),
    Statement(
        "few heads localise",
        "A few heads, chosen without a box, find what is asked for: on other groups their AUROC is above one half, "
        "above that of random heads of the same layers and of the mean of all heads, and above that of other "
        "examples' boxes.",
        "arXiv 2503.06287; the controls are added here",
        0.5,
    ),
    Statement(
        "interference",
        "Taking away what the prompt's words say makes a word's map sharper: at the last state the answer's IoU with "
        "the box rises, and more than that of random words.",
        "arXiv 2506.23270; the control is added here",
    ),
)


@dataclass(frozen=True)
class Options:
    """asked: the boxes that maps are held to; examples with exactly one are scored. general: the prompt that takes
    the question's place in contrasts. eps: added to the general map in relative attention, in units of its mean.
    window: layers that CARVE's contrast sums. heads: how many localization heads. words: whether maps of the answer's
    word are made (TAM and the image-token lens, which read every image token's logits).
    """

    asked: str = "asked_object"
    general: str = "Write a general description of the image."
    eps: float = 0.0
    window: int = 6
    heads: int = 3
    words: bool = True


class Learned(NamedTuple):
    """heads: localization heads, (layer, head); share: of the held-out prompts that counted each; largest: heads of
    the largest image sum; selected_on: the groups that they come from. middles: of held-out boxes, as shares of height
    and width; questions: held-out ones.
    """

    heads: Sequence[Sequence[int]] = ()
    share: Sequence[float] = ()
    largest: Sequence[Sequence[int]] = ()
    selected_on: Sequence[str] = ()
    middles: Sequence[Sequence[float]] = ()
    questions: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    named = ", ".join(f"{layer}.{head}" for layer, head in learned.heads) or "none found"
    return (
        "Maps of the last prompt position's attention and of the image tokens' states were scored against the one box "
        f"of {options.asked.replace('_', ' ')}; examples with none or several are left out. Relative attention: heads "
        f"averaged, divided by the same under “{options.general}”; CARVE's contrast sums {options.window} layers of "
        f"it. Localization heads ({named}): those that are most often of lowest spatial entropy on "
        f"{held_out(fitted_on)} (one half of the groups), without a box. TAM, the image-token lens: what the image "
        "tokens' states say of the answer's first token. Token activation: their distance from the mean image token. "
        "Pointing game and IoU count ties in proportion. A method's layer is chosen by AUROC on one half of the "
        f"groups and scored on the other. Controls: {DRAWS} boxes of the same size where held-out examples' boxes lie, "
        "a box in the centre, a Gaussian there as map, the map under another question of the task and under the "
        f"general prompt, {DRAWS} orders of its cells, random words, random heads of the same layers."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Heads from one half of the held-out groups; other boxes and questions from all."""
    half, groups = chosen_half(subject, batches, "localisation")
    choice = choose(subject, half, options.asked, options.heads)
    middles = {place.relative() for batch in batches for place in places(batch, options.asked) if place is not None}
    asked = {question for batch in batches for example in batch.examples if (question := _question(example))}
    middle_rows = [list(middle) for middle in sorted(middles)]
    return Learned(choice.heads, choice.share, choice.largest, groups, middle_rows, sorted(asked))


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """Attention of the last position on the map's cells [b, h, cells]; maps of the state that enters the layer
    [b, words, cells]; of the last layer also those of the state that leaves it, and the last position's.

    UserError: an example without an image.
    """
    if not batch.where("image").any(1).all():
        missing = next(e.id for e, has in zip(batch.examples, batch.where("image").any(1), strict=True) if not has)
        raise UserError(f"example {missing} has no image tokens: localisation needs a task with pictures and boxes")
    where, subject = places(batch, how.options.asked), layer.subject
    words = [
        words_of(subject, batch, row) if how.options.words and place is not None else None
        for row, place in enumerate(where)
    ]
    rows = {"rows": last_rows(layer, batch, where)} | state_maps(subject, layer.resid_pre, where, words)
    if layer.index < subject.n_layers - 1:
        return rows
    final = state_maps(subject, layer.resid_post, where, words)
    last = layer.resid_post[torch.arange(len(where)), batch.last.to(layer.resid_post.device)]
    return rows | {f"final {name}": maps for name, maps in final.items()} | {"last": last}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Two more passes, under the general prompt and under another question, then scores: see `_rows.score_rows`."""
    options, learned = how.options, how.learned

    def other(example: Example) -> Example | None:
        several = [question for question in learned.questions if question != _question(example)]
        drawn = one_of_each(several, example_keys([example.id], 0))
        return another_question(example, drawn[0]) if drawn else None

    general = rows_of(subject, batch, options.asked, lambda example: another_question(example, options.general))
    asked = rows_of(subject, batch, options.asked, other)
    return score_rows(subject, batch, kept, (general, asked), how)


def _question(example: Example) -> str:
    """The example's first question, "" without one."""
    return next((str(s.content).strip() for s in example.segments if s.role == "question"), "")


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return len(SCORES) * subject.n_layers * (3 * subject.n_heads + 55) + 3 * positions + SIDE * SIDE


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: rows of all heads of three passes, maps of words, logits of a few positions."""
    rows = 3 * subject.n_heads + (3 * (DRAWS + 1) + 2 if options.words else 2)
    return 4 * subject.n_layers * batch * positions * rows + costs.logits(subject, min(batch * positions, 512), 3)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
