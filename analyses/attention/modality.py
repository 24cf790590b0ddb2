"""Attention by modality: how much of it goes to the image, layer by layer

Attention of the image, the question, the last position and the answer's steps on the first token, the text before, the
image and the text behind it. Tables: shares, heads, survivors, curves, steps, opinions, opinion_answers, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.intervene.positions import at_last
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import another_image, another_question, question_of
from ..common.tested import judged
from ._modality_findings import findings
from ._modality_rows import KEYS, QUERIES, groups_of, shares, shares_of, with_neutral_text
from ._modality_tables import ANOTHER, NEUTRAL_TEXT, OPINIONS, TABLES

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "How much of its attention goes to the image, from where, and in which layers?"
PAPER = (
    "arXiv 2511.22663 (AIA), 2411.19628 (DyVTE), 2507.04635 (MODA), 2410.06169 (YOPO), 2406.03496 (Wings), 2410.11302"
)
CLAIMS = (
    Statement(
        "text over image, per key",
        "An image token gets less attention than a token of text: in the middle half of the layers the question gives "
        "one image key less than one key of text, the first token left out (log ratio below 0).",
        "arXiv 2507.04635 (MODA), style; the first token is left out here",
        side="below",
    ),
    Statement(
        "the image early",
        "Text looks at the image in early layers: the question's attention on it, the first token left out and over "
        "uniform attention, is larger in the first third of the layers than in the last (difference above 0).",
        "arXiv 2411.19628 (DyVTE), flows-style; the sink twin is added here",
    ),
    Statement(
        "before against behind",
        "Attention on the text before the image and on the text behind it go against each other over layers: without "
        "the first token their correlation is below 0, and below that with neutral text in the image's place.",
        "arXiv 2406.03496 (Wings), wings-style; the control is added here",
        side="below",
    ),
    Statement(
        "visual heads",
        "Heads of large attention on the image against all other look at it, rather than away from the first token: of "
        "the tenth of largest ratio at the last position more than a tenth are also in that of the sink twin.",
        "arXiv 2410.06169 (YOPO), code; the sink twin is added here",
    ),
    Statement(
        "the image is forgotten",
        "While the answer is written, the image gets less and less: from the first half of its steps to the second, "
        "attention on it over uniform attention falls (difference below 0).",
        "arXiv 2501.12206, style; uniform attention at the same step is added here",
        side="below",
    ),
    Statement(
        "opinions take attention away",
        "A user's wrong opinion in front of the question takes attention from the image: the last position's share, in "
        "the middle half of the layers, falls (difference to the plain question below 0), and more than with a neutral "
        "sentence or a right opinion.",
        "arXiv 2410.11302 (MM-SY), style; the controls are added here",
        side="below",
    ),
)


@dataclass(frozen=True)
class Options:
    """opinions: whether a user's wrong, right and neutral opinion is put in front of the question, in three more
    passes.
    """

    opinions: bool = True


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    told = (
        " Opinions: “I think the answer is …” with a wrong and with the right answer, and a sentence without one, in "
        "front of the question."
        if options.opinions
        else ""
    )
    return (
        "Attention is summed over the keys of a group and averaged over the queries of a group, then over heads. "
        "Question: all text behind the image and before the answer; last: the position that predicts the answer. "
        "Uniform: the same of attention that is alike on all keys in view; lift: the quotient. Sink twin: without the "
        "first token, what is left renormalised to 1. Controls: another image; as many tokens of neutral text in the "
        f"image's place; as many random positions of the prompt's own text, what they get on average.{told}"
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """See `_modality_rows.shares`; of the last layer also the state at the position that predicts the answer [b, d].

    UserError: an example without an image.
    """
    missing = ~batch.where("image").any(1)
    if bool(missing.any()):
        name = batch.example_ids[int(missing.nonzero()[0])]
        raise UserError(f"example {name} has no image tokens: modality needs a task with pictures (--task scenes)")
    rows = shares(layer, batch)
    if layer.index == layer.stack.n_layers - 1:
        rows["final"] = at_last(layer.resid_post, groups_of(batch).steps[:, 0])
    return rows


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "mass" and "twin" [b, layer, h, QUERIES, KEYS], "uniform", "steps" and "even steps" as of `shares`;
    "mass|<control>" without heads; "share|<opinion>" [b, layer], "said|<opinion>" [b, right and wrong]; "keys"
    [b, KEYS], how many.
    """
    final = kept.pop("final")[:, 0]
    kept |= {"keys": groups_of(batch).keys.sum(-1).float()}
    changes = {
        ANOTHER: another_image,
        NEUTRAL_TEXT: lambda e: with_neutral_text(e, subject.tokenizer, _image_tokens(batch, e)),
    }
    for control, change in changes.items():
        if (found := shares_of(subject, batch, change)) is not None:
            made, seen, _ = found
            kept |= {f"{name}|{control}": made.spread(seen[name].mean(2)) for name in ("mass", "twin")}
    return kept | (_opinions(subject, batch, final) if how.options.opinions else {})


def _image_tokens(batch: Batch, example: Example) -> int:
    return int(batch.where("image")[batch.example_ids.index(example.id)].sum())


def _opinions(subject: Any, batch: Batch, final: Float[Tensor, "b d"]) -> dict[str, Tensor]:
    """The rows of opinions; NaN for examples without a question, an answer or a wrong one, none where all are such."""
    rows: dict[str, Tensor] = {}
    for opinion, sentence in OPINIONS.items():
        if (found := shares_of(subject, batch, partial(_with_opinion, sentence))) is not None:
            made, seen, logits = found
            share = seen["mass"].mean(2)[:, :, QUERIES.index("last"), KEYS.index("image")]
            rows |= {f"share|{opinion}": made.spread(share), f"said|{opinion}": made.spread(_said(made.batch, logits))}
    if rows:
        rows["said|"] = _said(batch, subject.unembed(subject.norm(final.to(subject.device))))
    return rows


def _with_opinion(sentence: str, example: Example) -> Example | None:
    if not (example.answer and example.wrong):
        return None
    words = {"wrong": example.wrong[0].strip(), "right": example.answer.strip()}
    return another_question(example, f"{sentence.format(**words)} {question_of(example)}")


def _said(batch: Batch, logits: Float[Tensor, "b vocab"]) -> Float[Tensor, "b 2"]:
    """Whether the likeliest of the asked options is the right answer, and whether it is the first wrong one; NaN
    without options.
    """
    found = torch.full((len(batch.examples), 2), torch.nan)
    for row, own, example in zip(found, logits.float().cpu(), batch.examples, strict=True):
        if example.answer and example.wrong:
            ids = [batch.first_token_of(example, word) for word in (example.answer, *example.wrong)]
            best = int(own[ids].argmax())
            row[:] = torch.tensor([best == 0, best == 1])
    return found


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    cells = len(QUERIES) * len(KEYS)
    return subject.n_layers * (2 * subject.n_heads * cells + 6 * cells + 2 * positions // 8)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: another forward, and its masses by query."""
    return costs.forward(subject, batch, positions) + 12 * batch * subject.n_heads * positions * len(KEYS)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
