"""The answers of a batch under every edit of how it reads its picture, beside the controls of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.example import Example
from ...probes.intervene.recording import Recording, record
from ...probes.intervene.sweep import Variant, variant_sweep
from ...probes.observe.decode_tracking import behind_image
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import image_columns
from ..common.changed import changed
from ..common.controls import HEADS, PERMUTED, Head, blank_image, random_circuits
from ..common.key_weights import gaze_variant, look_variant
from ..common.option_logits import OptionLogits, guessing, is_right, lead
from ._gazes import Gazes, elsewhere, gazes, of_another_image

CHOSEN, EVERY, GAZE = "chosen heads", "every head", "gaze shift"
EDITS = (CHOSEN, EVERY, GAZE)
BLANK, OTHER_MAP = "a blank picture", "the map of another image"
DRAWN = {CHOSEN: HEADS, GAZE: PERMUTED}  # controls with draws
FEW = 5  # draws at most of controls whose mean alone is read: each picture or text has its own
GREY = (128, 128, 128)
READ = ("lead", "right", "yes")
YES, NO, OTHER = range(3)  # what kind of answer is right: see `asked_of`
Plan = dict[str, list[Variant]]


def strengths_of(edit: str, options: Any) -> tuple[float, ...]:
    return options.alphas if edit == GAZE else options.factors


def asked_of(example: Example) -> int:
    """YES or NO where that is the right answer to a question with both, OTHER of any other question."""
    offered = {option.strip().lower() for option in (example.answer, *example.wrong)}
    return OTHER if offered != {"yes", "no"} else YES if example.answer.strip().lower() == "yes" else NO


def edits(subject: Any, batch: Batch, heads: Sequence[Head], gaze: Gazes, options: Any) -> Plan:
    """Each edit in each of its strengths."""
    return {
        CHOSEN: [look_variant(subject, batch, factor, heads) for factor in options.factors],
        EVERY: [look_variant(subject, batch, factor) for factor in options.factors],
        GAZE: [gaze_variant(subject, batch, gaze.saliency, alpha) for alpha in options.alphas],
    }


@torch.no_grad()
def answers(subject: Any, batch: Batch, plan: Plan, base: Recording | None = None) -> dict[str, Tensor]:
    """ "lead", "right", "yes" (whether it says so, NaN where it is not asked) of "clean" [b] and of each name of the
    plan [b, variant]; unedited where a variant is empty.
    """
    base = record(subject, batch) if base is None else base
    image = image_columns(subject, subject.prepare(batch), batch.example_ids)
    measure = OptionLogits.of(batch, "looking")
    flat = [variant for several in plan.values() for variant in several]
    sweep = variant_sweep(base, flat, behind_image(image, base.mask), measure=measure)
    asked = torch.tensor([asked_of(example) for example in batch.examples])
    kept = {}
    for name, of in {"lead": lead, "right": is_right, "yes": lambda x: _says_yes(x, asked)}.items():
        kept[f"{name}|clean"], values = of(sweep.clean).cpu(), iter(of(sweep.values).cpu())
        kept |= {f"{name}|{edit}": torch.stack([next(values) for _ in several], 1) for edit, several in plan.items()}
    return kept


def _says_yes(logits: Float[Tensor, "*v b options"], asked: Tensor) -> Float[Tensor, "*v b"]:
    right, asked = is_right(logits), asked.to(logits.device)
    return torch.where(asked == YES, right, 1 - right).masked_fill(asked == OTHER, torch.nan)


def looked(subject: Any, batch: Batch, learned: Any, options: Any) -> dict[str, Tensor]:
    """`answers` of all edits; of their controls at the learned strengths [b, draw], none without draws; with BLANK
    in the picture's place in all strengths, and unedited; "guessing", "asked" [b].
    """
    heads = [(int(layer), int(head)) for layer, head in learned.heads]
    gaze, other = gazes(subject, batch, options.word), of_another_image(subject, batch, options.word)
    plan = edits(subject, batch, heads, gaze, options)
    kept = answers(subject, batch, plan | _controls(subject, batch, heads, gaze, other, learned.strengths, options))
    grey = changed(subject, batch, lambda example: blank_image(example, GREY))
    if grey is not None:
        blank = answers(subject, grey.batch, edits(subject, grey.batch, heads, gaze, options))
        kept |= {f"{name}|{BLANK}": values for name, values in blank.items()}
    for name, there in ((GAZE, gaze.there), (OTHER_MAP, other.there)):
        kept |= {row: _only(values, there) for row, values in kept.items() if name in row}
    kinds = torch.tensor([float(asked_of(example)) for example in batch.examples])
    return kept | {"guessing": guessing(OptionLogits.of(batch, "looking").options), "asked": kinds}


def _controls(
    subject: Any,
    batch: Batch,
    heads: Sequence[Head],
    gaze: Gazes,
    other: Gazes,
    strengths: Mapping[str, float],
    options: Any,
) -> Plan:
    drawn = random_circuits(heads, subject.n_heads, options.draws)
    maps = [elsewhere(gaze, batch, draw) for draw in range(min(FEW, options.draws))]
    plan = {
        f"{CHOSEN}|{HEADS}": [look_variant(subject, batch, strengths[CHOSEN], some) for some in drawn],
        f"{GAZE}|{PERMUTED}": [gaze_variant(subject, batch, one.saliency, strengths[GAZE]) for one in maps],
        f"{GAZE}|{OTHER_MAP}": [gaze_variant(subject, batch, other.saliency, strengths[GAZE])],
    }
    return {name: several for name, several in plan.items() if several}


def _only(values: Float[Tensor, "b *rest"], there: Bool[Tensor, "b"]) -> Float[Tensor, "b *rest"]:
    """NaN in the rows of the others."""
    return values.masked_fill(~there.reshape(-1, *[1] * (values.ndim - 1)), torch.nan)
