"""The subject card: what a vision-language model answers about scenes, from the image or without it.

Tables: accuracy (right answers by kind and difficulty; controls: swapped and blank image, best constant answer), pope,
captions (CHAIR), text (SmolLM2's own abilities before and after), bars (the numbers that the claims are about),
training (the log beside the checkpoint), samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...data.tasks import scenes
from ...data.world.questions import coloured, mentioned
from ...data.world.render import render
from ...probes.observe.generation import generate
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common import controls
from ..common.claims import Claim
from . import _tables
from ._claims import STATEMENTS, make_claims
from ._findings import findings
from ._text_ability import text_ability

__all__ = ["findings"]

VERSION = 3
QUESTION = "What does this model see, what does it make up, and what has it kept of its language?"
PAPER = "POPE (arXiv 2305.10355), CHAIR (arXiv 1809.02156); the model: this project's data/scenes/card.md"
_IMAGES = ("real", "swapped", "blank")
_GREY = (152, 152, 152)  # the mean background
_BYTES = 160  # of an answer
_SHORT, _LONG = 4, 26  # tokens of an answer, of a caption
FIT_EXAMPLES = 0  # its texts are its own
CLAIMS = STATEMENTS


@dataclass(frozen=True)
class Options:
    """controls_on: the difficulty on which images are also swapped and blanked. texts: prompts of each text task."""

    controls_on: str = "clear"
    texts: int = 100


class Learned(NamedTuple):
    """text: answers to text tasks before and after; empty for subjects without a before."""

    text: Sequence[Sequence[Any]] = ()


RETIRED = {"text": ()}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Greedy answers up to the end token; an answer is right when it is the true one and nothing else (case and a "
        "last full stop aside). Controls, "
        f"on the {options.controls_on} scenes: the same questions with the image of another scene of that difficulty, "
        "with a plain grey image, and the best constant answer to each wording of a question, chosen on the other half "
        "of the scenes. POPE: F1 of yes over questions for shapes, half of them there; the absent ones drawn at "
        "random, by frequency in training, or by training co-occurrence with what is there. CHAIR_I: share of a "
        "caption's object words whose object is not in the scene; things behind a board count as there. Intervals "
        "resample scenes."
    )


def fit(subject: Any, batches: Sequence[Batch], options: Options) -> Learned:
    """Text abilities with the subject's norms and with SmolLM2's own; nothing where there is no before."""
    return Learned(text_ability(subject, options.texts))


@torch.no_grad()
def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """ "right|<image>" [b] (NaN where not asked), "yes" [b], "said" [b, bytes]; of captions "words", "absent",
    "found", "things", "set" [b].
    """
    if any("kind" not in example.meta for example in batch.examples):
        raise UserError("subject_card asks about scenes: --task scenes:kinds=all,difficulty=all")
    said = {image: _answers(subject, batch, image, how.options) for image in _IMAGES}
    out = {f"right|{image}": torch.tensor([_right(e, t) for e, t in _pairs(batch, said[image])]) for image in _IMAGES}
    real = _pairs(batch, said["real"])
    out["yes"] = torch.tensor([float(_plain(text or "") == "yes") for _, text in real])
    out["said"] = torch.stack([_to_bytes(text or "") for _, text in real])
    counted = [_count(example, text or "") for example, text in real]
    return out | {name: torch.tensor([row[name] for row in counted]) for name in counted[0]}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return len(_IMAGES) + 6 + _BYTES


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: an answer's keys and values, the prompt's forward and its logits."""
    kept = costs.keys_and_values(subject, batch, positions + _LONG)
    return kept + costs.forward(subject, batch, positions) + costs.logits(subject, batch, 2)


def _pairs(batch: Batch, said: Sequence[str | None]) -> list[tuple[Example, str | None]]:
    return list(zip(batch.examples, said, strict=True))


def _answers(subject: Any, batch: Batch, image: str, options: Options) -> list[str | None]:
    """What is said to each example, None where this image is not shown."""
    said: list[str | None] = [None] * len(batch.examples)
    form = {**batch.form, "padding": "left"}
    for caption, length in ((False, _SHORT), (True, _LONG)):
        at = [
            i
            for i, e in enumerate(batch.examples)
            if (e.meta["kind"] == "caption") == caption and image in ("real", _shown(e, image, options))
        ]
        if at:
            asked = subject.batch([_seen(batch.examples[i], image) for i in at], **form)
            for i, text in zip(at, generate(subject, asked, max_tokens=length), strict=True):
                said[i] = text.strip()
    return said


def _shown(example: Example, image: str, options: Options) -> str:
    return image if example.meta["difficulty"] == options.controls_on else ""


def _seen(example: Example, image: str) -> Example:
    """The example with this image in the place of its own."""
    if image == "blank":
        return controls.blank_image(example, _GREY)
    if image == "swapped":
        return controls.with_images(example, lambda own: render(scenes.other_scene(example.group), own.width))
    return example


def _right(example: Example, text: str | None) -> float:
    return np.nan if text is None else float(_plain(text) == _plain(example.answer))


def _plain(text: str) -> str:
    """An answer without what models of other families write differently."""
    return text.strip().rstrip(".").lower()


def _to_bytes(text: str) -> Tensor:
    data = text.encode()[:_BYTES].ljust(_BYTES, b"\0")
    return torch.tensor(list(data), dtype=torch.uint8)


def _count(example: Example, text: str) -> dict[str, float]:
    """What a caption names; NaN for other answers."""
    if example.meta["kind"] != "caption":
        return dict.fromkeys(("words", "absent", "found", "things", "set"), np.nan)
    there, words = mentioned(example.meta["objects"]), mentioned(text)
    return {
        "words": float(len(words)),
        "absent": float(sum(word not in there for word in words)),
        "found": float(len(set(words) & set(there))),
        "things": float(len(there)),
        "set": float(coloured(text) == coloured(example.meta["objects"])),
    }


TABLES = {
    "accuracy": (_tables.accuracy, ("kind", "difficulty")),
    "pope": (_tables.pope, ("measure", "set", "difficulty")),
    "captions": (_tables.captions, ("measure", "difficulty")),
    "bars": (_tables.bars_of, ("claim",)),
}
RUN_TABLES = {
    "text": (_tables.text, ("norms", "source", "measure")),
    "training": (_tables.training, ("stage", "step", "measure", "value", "unit")),
    "samples": (
        _tables.samples,
        ("difficulty", "kind", "question", "truth", "said", "value", "unit", "scene", "picture"),
    ),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """See _claims.py."""
    return make_claims(tables)
