"""Localisation: which maps over the picture find what is asked for

Maps of attention, of heads and of image states are scored against the box of the asked object, each beside its
controls. Tables: scores, answers, methods, methods_by_answer, masks, heads, localizers, tested, pictures, on_pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.intervene.positions import at_last
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import DRAWS, example_keys, one_of_each
from ..common.frames import held_out
from ..common.selection import chosen_half
from ..common.tested import judged
from ..common.thumbnails import SIDE
from ._findings import findings
from ._heads import choose
from ._looks import AT_ONCE, TOP, looks, seen, seen_otherwise, steps_of
from ._places import places
from ._rows import score_rows
from ._scoring import SCORES
from ._state_maps import all_words, state_maps
from ._tables import RUN_TABLES, TABLES
from ._words import asked_of, asking

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 2
QUESTION = "Which maps over the picture find what is asked for, and is it the question that they follow?"
PAPER = (
    "arXiv 2502.17422, 2509.06461 (CARVE), 2510.22067 (GIFT), 2412.10840 (TAG), 2503.06287 (localization heads), "
    "2506.23270 (TAM), 2310.12973"
)
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
        "gaze shift",
        "Where attention moves to as the question's words are read finds what they name: at the layer that half of the "
        "groups chooses its AUROC is above one half on the other, and above that of the same words in other orders, of "
        "what attention leaves, of other examples' boxes and of another question.",
        "arXiv 2510.22067 (GIFT); the measure and the controls are added here",
        0.5,
    ),
    Statement(
        "words ground",
        "The heads that look most at the image from the words that name an object find it: the map's AUROC is above "
        "one half, and above that of the general prompt, of other examples' boxes and of another question.",
        "arXiv 2412.10840 (TAG); the measure and the controls are added here",
        0.5,
    ),
    Statement(
        "gradients help",
        "Weighted by what it does for the answer, attention finds what is asked for better: at the layer that half of "
        "the groups chooses its AUROC is above one half on the other, above that of attention alone at its own such "
        "layer, and above that of other examples' boxes and of another question.",
        "arXiv 2502.17422 (grad-att); the measure and the controls are added here",
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
    word are made (TAM and the image-token lens, which read every image token's logits). word: the mark of the
    question's words that gaze shift and TAG follow; all of its words where a task has none. gradients: whether maps of
    the answer's gradient are made, a backward pass a prompt (grad-att, pure-grad). occlusion: so many blocks a side of
    the picture are made blank, one forward each; 0: none.
    """

    asked: str = "asked_object"
    general: str = "Write a general description of the image."
    eps: float = 0.0
    window: int = 6
    heads: int = 3
    words: bool = True
    word: str = "asked_word"
    gradients: bool = False
    occlusion: int = 0


class Learned(NamedTuple):
    """heads: localization heads, (layer, head); share: of the held-out prompts that counted each; largest: heads of
    the largest image sum; selected_on: the groups that they come from. middles: of held-out boxes, as shares of height
    and width; questions: held-out ones; spans: where the words of the mark stand in each.
    """

    heads: Sequence[Sequence[int]] = ()
    share: Sequence[float] = ()
    largest: Sequence[Sequence[int]] = ()
    selected_on: Sequence[str] = ()
    middles: Sequence[Sequence[float]] = ()
    questions: Sequence[str] = ()
    spans: Sequence[Sequence[Sequence[int]]] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    named = ", ".join(f"{layer}.{head}" for layer, head in learned.heads) or "none found"
    more = [_GRADIENTS] * options.gradients + [_OCCLUSION.format(options.occlusion)] * bool(options.occlusion)
    return " ".join([_MAPS.format(options=options, asked=options.asked.replace("_", " ")), *more]) + (
        f" Localization heads ({named}): those that are most often of lowest spatial entropy on {held_out(fitted_on)} "
        "(one half of the groups), without a box. TAM, the image-token lens: what the image tokens' states say of the "
        "answer's first token. Token activation: their distance from the mean image token. Pointing game and IoU count "
        "ties in proportion. A method's layer is chosen by AUROC on one half of the groups and scored on the other. "
        f"Controls: {DRAWS} boxes of the same size where held-out examples' boxes lie, a box in the centre, a Gaussian "
        "there as map, the map under another question of the task and under the general prompt, "
        f"{DRAWS} orders of its cells and of the question's words, random words, random heads of the same layers."
    )


_MAPS = (
    "Maps of the attention of the position that predicts the answer and of the image tokens' states were scored "
    "against the one box of {asked}; examples with none or several, or with several pictures, are left out. Relative "
    "attention: heads averaged, divided by the same under “{options.general}”; CARVE's contrast sums {options.window} "
    "layers of it, its fusion also an answer's tokens, later ones weighted more; where an answer is one token the two "
    "are the same, and the contrast alone is shown. Gaze shift: what the question's words add to attention, in the "
    "half of a layer's heads where they add most. TAG: of each of these words the ten heads that look most at the "
    "image. Both follow the words marked {options.word!r}, all of a question where none is."
)
_GRADIENTS = (
    "grad-att: attention times the positive part of the gradient by it of the likeliest word's log-probability; "
    "pure-grad: the gradient by the pixels over that of the general prompt, where the picture has detail (not "
    "where a processor cuts pictures into tiles or packs their patches)."
)
_OCCLUSION = (
    "Occlusion: how far the likeliest word's log-probability falls where one of {0} × {0} blocks of the picture is "
    "blank (not where a processor cuts pictures into tiles or packs their patches)."
)


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Heads from one half of the held-out groups; other boxes and questions from all."""
    if options.occlusion < 0 or options.window < 1:
        wrong = f"occlusion {options.occlusion}" if options.occlusion < 0 else f"window {options.window}"
        raise UserError(f"localisation: {wrong}: --localisation.occlusion is 0 or more blocks a side, window 1 or more")
    half, groups = chosen_half(subject, batches, "localisation")
    choice = choose(subject, half, options)
    middles = {place.relative() for batch in batches for place in places(batch, options.asked) if place is not None}
    asked = {asked_of(example, options.word) for batch in batches for example in batch.examples}
    questions = sorted(one for one in asked if one[0])
    middle_rows = [list(middle) for middle in sorted(middles)]
    spans = [[list(span) for span in spans] for _, spans in questions]
    return Learned(*choice, groups, middle_rows, [text for text, _ in questions], spans)


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """What `_looks.looks` reads of a layer; maps of the state that enters the layer [b, words, cells]; of the last
    layer also those of the state that leaves it, and the state that predicts the answer.

    UserError: an example without an image.
    """
    shown = batch.where("image").any(1)
    if not bool(shown.all()):
        missing = batch.example_ids[int(shown.int().argmin())]
        raise UserError(f"example {missing} has no image tokens: localisation needs a task with pictures and boxes")
    where, subject = places(batch, how.options.asked), layer.subject
    words = all_words(subject, batch) if how.options.words else [None] * len(where)
    rows = looks(layer, batch, where, how.options.word, DRAWS) | state_maps(subject, layer.resid_pre, where, words)
    if layer.index < subject.n_layers - 1:
        return rows
    final = state_maps(subject, layer.resid_post, where, words)
    last = at_last(layer.resid_post, steps_of(batch)[:, 0])
    return rows | {f"final {name}": maps for name, maps in final.items()} | {"last": last}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Two more passes, under the general prompt and under another question, then scores: see `_rows.score_rows`.

    With gradients or occlusion one more of the prompt itself.
    """
    options, learned = how.options, how.learned
    several = list(zip(learned.questions, learned.spans, strict=True))

    def other(example: Example) -> Example | None:
        others = [one for one in several if one[0] != asked_of(example, "")[0]]
        drawn = one_of_each(others, example_keys([example.id], 0))
        return asking(example, *drawn[0], mark=options.word) if drawn else None

    general = seen_otherwise(subject, batch, options, lambda example: asking(example, options.general), occluded=False)
    asked = seen_otherwise(subject, batch, options, other, occluded=True)
    if options.gradients or options.occlusion:
        kept = seen(subject, batch, options) | kept
    return score_rows(subject, batch, kept, general, asked, how)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return len(SCORES) * subject.n_layers * (3 * subject.n_heads + 75) + 5 * positions + SIDE * SIDE


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: rows of all heads, words and steps of three passes, maps of words, logits of a
    few positions; with gradients a forward with its graph, of a few examples at once.
    """
    rows = 3 * (subject.n_heads + DRAWS + 2 * TOP) + (3 * (DRAWS + 1) + 2 if options.words else 2)
    whole = 4 * subject.n_layers * batch * positions * rows + costs.logits(subject, min(batch * positions, 512), 3)
    if not options.gradients:
        return whole
    graded = min(batch, AT_ONCE)
    return whole + costs.gradient(subject, graded, positions)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
