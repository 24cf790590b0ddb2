"""The image leaves behind a layer: answers of one recording with its columns cut from there on, and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.intervene.interventions import Knockout, Variant
from ...probes.intervene.positions import affected_positions
from ...probes.intervene.proofs import verify_edit
from ...probes.intervene.readout import states_of_variants
from ...probes.intervene.recording import Recording, record
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.changed import changed
from ..common.controls import IMAGE as ANOTHER
from ..common.controls import another_image, example_keys, random_positions
from ..common.losses import Scored, scored

READ = ("agreement", "loss", "clean loss", "allowed")
TEXT = "as many random text tokens"
CUT = {"": "image", TEXT: "text"}


def answers_of(batch: Batch) -> Scored:
    """The tokens of the answers; of a prompt without one its last position alone."""
    return scored(batch, most=0)


def behind_image(batch: Batch) -> Bool[Tensor, "b p"]:
    """The rows that may lose the image: all real ones behind its first token that are none of its own."""
    image = batch.where("image")
    return batch.mask & (image.cumsum(1) > 0) & ~image


def random_text(batch: Batch, draw: int = 0) -> Bool[Tensor, "b p"]:
    """As many text tokens as the image has, at most half of them; neither the first nor the last position."""
    image = batch.where("image")
    text = batch.mask & ~image & ~batch.final & (batch.mask.cumsum(1) > 1)
    half = text.sum(1, keepdim=True) // 2
    wanted = image & (image.cumsum(1) <= half)
    return random_positions(wanted, wanted | text, example_keys(batch.example_ids, draw))


def exits(subject: Any, batch: Batch) -> dict[str, Float[Tensor, "b exits read"]]:
    """For each control name ("" for the image itself): READ with so many layers, 0…L, that still read the columns."""
    base, question = record(subject, batch), answers_of(batch)
    target = behind_image(batch)
    found = {
        "": _read(base, [*_cut(base, target, batch.where("image"))], target, question),
        TEXT: _read(base, [*_cut(base, batch.mask, random_text(batch))], batch.mask, question),
    }
    made = changed(subject, batch, another_image)
    if made is not None:
        found[ANOTHER] = made.spread(_swapped(subject, batch, made.chosen, made.batch))
    return found


def _cut(base: Recording, target: Tensor, source: Tensor) -> list[Variant]:
    """Exit behind l layers, l = 0…L: the columns are cut in all others."""
    count, cut = len(base.layers), Knockout(target, source)
    cuts: list[Variant] = [dict.fromkeys(range(first, count), (cut,)) for first in range(count)]
    return [*cuts, {}]


def _swapped(subject: Any, batch: Batch, chosen: list[int], other: Batch) -> Tensor:
    """READ with another image's keys and values from a layer on; NaN where that image has another length."""
    own = subject.batch([batch.examples[i] for i in chosen], **batch.form)
    alike = [k for k in range(len(chosen)) if torch.equal(*(one.roles[k][one.mask[k]] for one in (own, other)))]
    found = torch.full((len(chosen), subject.n_layers + 1, len(READ)), torch.nan)
    if alike:
        kept, donor = (subject.batch([one.examples[k] for k in alike], **one.form) for one in (own, other))
        found[alike] = _swapped_alike(record(subject, kept), record(subject, donor), kept)
    return found


def _swapped_alike(base: Recording, donor: Recording, batch: Batch) -> Tensor:
    count, target, image = len(base.layers), behind_image(batch), batch.where("image")
    lent = [(Knockout(target, image, layer),) for layer in donor.layers]
    variants = [{i: lent[i] for i in range(first, count)} for first in range(count)]
    return _read(base, [*variants, {}], target, answers_of(batch))


@torch.no_grad()
def _read(
    base: Recording, variants: Sequence[Variant], target: Tensor, question: Scored
) -> Float[Tensor, "b exits read"]:
    where = affected_positions(base, target)
    where = where if bool(where.chosen.gather(1, question.places).all()) else base.everywhere
    nothing = [{len(base.layers) - 1: ()}]
    clean = _logits(base, next(states_of_variants(base, where, nothing, question.places))[1])
    attending = [{i: cut for i, cut in one.items() if base.layers[i].attends} for one in variants]
    acting = [v for v, one in enumerate(attending) if one]
    proved = attending[acting[-1]]
    verify_edit(base, where, [{max(proved): proved[max(proved)]}])
    found = _readings(clean, clean, question).unsqueeze(1).repeat(1, len(variants), 1)
    chosen = [attending[v] for v in acting]
    for at, states in states_of_variants(base, where, chosen, question.places):
        found[:, acting[at]] = _readings(clean, _logits(base, states), question)
    return found


def _logits(base: Recording, states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n vocab"]:
    return base.subject.unembed(base.subject.norm(states)).float().cpu()


def _readings(clean: Tensor, exited: Tensor, question: Scored) -> Float[Tensor, "b read"]:
    """`metrics.visual_exit` of each example; without an answer the agreement alone."""
    rows = torch.full((len(clean), len(READ)), torch.nan)
    for i, targets in enumerate(question.targets):
        told = targets >= 0
        if not bool(told.any()):
            rows[i, 0] = (clean[i, 0].argmax() == exited[i, 0].argmax()).float()
            continue
        labels = torch.cat([targets.new_tensor([-100]), targets[told]])
        before, after = (torch.cat([one[i, told], one[i, :1]]) for one in (clean, exited))
        found = metrics.visual_exit(before, after, labels)
        rows[i] = torch.stack(
            [found.agreement.float(), found.loss_exited, found.loss_clean, torch.tensor(float(found.allowed))]
        )
    return rows
