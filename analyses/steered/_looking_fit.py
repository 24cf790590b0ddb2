"""What `looking` chooses on held-out examples: the heads that read the picture most, and how strong each edit is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example, Segment
from ...data.tasks import passages
from ...probes.intervene.positions import affected_positions
from ...probes.intervene.recording import record
from ...probes.observe.decode_tracking import behind_image
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from ..common.asked import require_counts
from ..common.controls import HEADS, Head, random_circuits
from ..common.key_weights import look_variant
from ..common.losses import Losses, Scored, scored
from ..common.selection import strongest
from ._gazes import gazes
from ._looked import CHOSEN, EDITS, EVERY, FEW, answers, edits, strengths_of

TOKENS, AT_ONCE = 64, 4  # of a passage; passages in a batch
PLAIN = "as it is"


@torch.no_grad()
def image_share(subject: Any, batch: Batch) -> Float[Tensor, "b layer h"]:
    """Of the attention of the position that answers, what the picture gets; NaN in layers without heads."""
    rows, image = torch.arange(len(batch.examples)), batch.where("image")
    kept: list[dict[str, Tensor | None]] = []

    def keep(layer: Layer) -> None:
        shares = None
        if layer.attends:
            shares = layer.sums.mass(image[:, None].to(layer.resid_pre.device))[rows, :, batch.last, 0].float()
        kept.append({"share": shares})

    with tracing(subject, keep):
        subject.forward(batch)
    return stack_layers(kept)["share"].cpu()


def reading_heads(subject: Any, batches: Sequence[Batch], count: int) -> list[Head]:
    """Those whose share, mean over the examples, is largest."""
    mean = torch.cat([image_share(subject, batch) for batch in batches]).mean(0)
    return sorted(strongest(mean, count))


def best_strengths(subject: Any, batches: Sequence[Batch], heads: Sequence[Head], options: Any) -> dict[str, float]:
    """Of each edit the one, above 1 where it is a factor, at which the answer's lead is largest on these examples."""
    found: dict[str, list[Tensor]] = {edit: [] for edit in EDITS}
    for batch in batches:
        kept = answers(subject, batch, edits(subject, batch, heads, gazes(subject, batch, options.word), options))
        for edit, several in found.items():
            several.append(kept[f"lead|{edit}"])
    return {edit: _best(torch.cat(several).mean(0), edit, options) for edit, several in found.items()}


def _best(leads: Float[Tensor, " strength"], edit: str, options: Any) -> float:
    strengths = np.array(strengths_of(edit, options))
    above = strengths > (1 if edit in (CHOSEN, EVERY) else 0)
    return float(strengths[above][int(leads.numpy()[above].argmax())])


# ---------------------------------------------------------------- text of which nothing is asked


def losses_of_text(
    subject: Any, batches: Sequence[Batch], heads: Sequence[Head], strengths: dict[str, float], options: Any
) -> tuple[list[str], dict[str, list[float]]]:
    """Documents of passages that stand behind pictures of the task, and the losses of their tokens: as the model is,
    with the picture read more in the chosen heads and in every head, and in random heads (mean over draws).
    """
    pictures = [example.images[0] for batch in batches for example in batch.examples if example.images]
    if not options.texts or not pictures:
        return [], {}
    made = passages.examples(options.texts, 1, tokenizer=subject.tokenizer, tokens=TOKENS)
    behind = [_behind(example, pictures[i % len(pictures)]) for i, example in enumerate(made)]
    found: dict[str, list[float]] = {}
    for start in range(0, len(behind), AT_ONCE):
        batch = subject.batch(behind[start : start + AT_ONCE], **batches[0].form)
        for name, values in _losses(subject, batch, heads, strengths, options).items():
            found.setdefault(name, []).extend(values.tolist())
    return [example.group for example in made], found


def _behind(passage: Example, picture: Any) -> Example:
    return Example(passage.id, passage.group, (Segment("image", picture), Segment("text", "\n"), *passage.segments))


def _losses(
    subject: Any, batch: Batch, heads: Sequence[Head], strengths: dict[str, float], options: Any
) -> dict[str, Tensor]:
    base, drawn = record(subject, batch), random_circuits(heads, subject.n_heads, min(FEW, options.draws))
    variants = [
        look_variant(subject, batch, strengths[CHOSEN], heads),
        look_variant(subject, batch, strengths[EVERY]),
        *(look_variant(subject, batch, strengths[CHOSEN], some) for some in drawn),
    ]
    image = batch.where("image")
    behind = behind_image(image.to(base.mask.device), base.mask)
    asked = _of_rows(scored(batch, TOKENS), behind.cpu())
    values = Losses(base, asked, affected_positions(base, behind)).read([{}, *variants])[0][..., 0]
    none = torch.full(values.shape[1:], torch.nan)
    return {PLAIN: values[0], CHOSEN: values[1], EVERY: values[2], HEADS: values[3:].mean(0) if drawn else none}


def _of_rows(asked: Scored, rows: Tensor) -> Scored:
    """What is asked at these rows alone; a place elsewhere becomes the last one, where nothing is asked."""
    inside = rows.gather(1, asked.places)
    return Scored(asked.places.where(inside, asked.places[:, :1]), asked.targets.where(inside, -1))


def require(subject: Any, options: Any) -> None:
    """UserError: strengths that are none, or as many heads as there are not."""
    for name, least in (("factors", 1.0), ("alphas", 0.0)):
        values = getattr(options, name)
        if not values or min(values) <= 0 or max(values) <= least:
            said = " ".join(f"{one:g}" for one in values) or "nothing"
            raise UserError(f"--looking.{name} {said}: numbers above 0 are needed, one of them above {least:g}")
    most = len(subject.decoder.attending) * subject.n_heads
    if not 1 <= options.top <= most:
        raise UserError(f"--looking.top {options.top}: the model has 1…{most} heads to choose from")
    require_counts("looking", options, draws=0, texts=0)
