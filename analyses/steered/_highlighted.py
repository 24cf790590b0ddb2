"""A span highlighted: in each head alone, in the chosen ones, in all, in random ones; and another span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.measures import Measure
from ...probes.intervene.recording import Recording, record
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch
from ..common.controls import HEADS, SPAN, Head, example_keys, random_circuits, random_spans
from ..common.key_weights import highlighting
from ..common.option_logits import OptionLogits, guessing, is_right, lead

EDITS, CONTROLS = ("chosen", "every"), (HEADS, SPAN)


def span_of(batch: Batch, options: Any) -> Bool[Tensor, "b p"]:
    """What is highlighted. UserError: no such mark, or an example without it."""
    mark = next((name for name in options.spans if name in batch.marks), None)
    if mark is None:
        there = ", ".join(batch.marks) or "none"
        raise UserError(
            f"highlighting: the prompts have no mark {' or '.join(options.spans)}; they have {there} "
            "(--highlighting.spans)"
        )
    span = batch.marks[mark] & batch.mask
    if bare := (~span.any(1)).nonzero()[:, 0].tolist():
        raise UserError(f"highlighting: example {batch.example_ids[bare[0]]} has no {mark} to highlight")
    return span


def from_the_span_on(span: Bool[Tensor, "b p"], real: Bool[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
    """The rows that may read it: to those before it all keys weigh the same, so that nothing is told apart."""
    return real & (span.to(real.device).cumsum(1) > 0)


@torch.no_grad()
def gains_alone(
    base: Recording, span: Bool[Tensor, "b p"], measure: Measure, alpha: float
) -> Float[Tensor, "b layer h"]:
    """What each head alone adds to the answer's lead; NaN where a layer has none."""
    subject = base.subject
    attending = list(subject.decoder.attending)
    places = [(layer, head) for layer in attending for head in range(subject.decoder.heads(attending[0]))]
    rows = from_the_span_on(span, base.mask)
    variants = [highlighting(subject, base.mask, span, alpha, [place], rows) for place in places]
    sweep = variant_sweep(base, variants, rows, measure=measure)
    gains = torch.full((len(span), subject.n_layers, subject.n_heads), torch.nan)
    for (layer, head), values in zip(places, lead(sweep.values) - lead(sweep.clean), strict=True):
        gains[:, layer, head] = values.cpu()
    return gains


@torch.no_grad()
def highlighted_rows(subject: Any, batch: Batch, heads: Sequence[Head], options: Any) -> dict[str, Tensor]:
    """ "lead|…" and "right|…" of "clean" [b], of `EDITS` [b, alpha], and of both controls [b, alpha, draw], NaN
    without draws; guessing [b].
    """
    measure, span, base = OptionLogits.of(batch, "highlighting"), span_of(batch, options), record(subject, batch)
    asked = _asked(batch, span, heads, subject.n_heads, options)
    flat = [one for several in asked.values() for one in several]
    rows = [from_the_span_on(of, base.mask) for of, *_ in flat]
    variants = [highlighting(subject, base.mask, *one, of) for one, of in zip(flat, rows, strict=True)]
    sweep = variant_sweep(base, variants, torch.stack(rows).any(0), measure=measure)
    kept = {"guessing": guessing(measure.options)}
    for name, of in (("lead", lead), ("right", is_right)):
        kept[f"{name}|clean"], values = of(sweep.clean).cpu(), iter(of(sweep.values).cpu())
        for edit, several in asked.items():
            found = [next(values) for _ in several]
            none = torch.full((len(span), len(options.alphas) * options.draws), torch.nan)
            swept = torch.stack(found, 1) if found else none
            draws = (options.draws,) if edit in CONTROLS else ()
            kept[f"{name}|{edit}"] = swept.unflatten(1, (len(options.alphas), *draws))
    return kept


def _asked(
    batch: Batch, span: Bool[Tensor, "b p"], heads: Sequence[Head], n_heads: int, options: Any
) -> dict[str, list[tuple[Tensor, float, Sequence[Head] | None]]]:
    """Of every edit each alpha, of every control each draw at each alpha: what is highlighted, alpha, in which heads.

    A draw is the same at all alphas, so that a line over alpha is one of heads, or of spans.
    """
    names = batch.example_ids
    spans = [random_spans(span, batch.mask, example_keys(names, draw)) for draw in range(options.draws)]
    drawn = random_circuits(heads, n_heads, options.draws)
    return {
        "chosen": [(span, alpha, heads) for alpha in options.alphas],
        "every": [(span, alpha, None) for alpha in options.alphas],
        HEADS: [(span, alpha, some) for alpha in options.alphas for some in drawn],
        SPAN: [(other, alpha, heads) for alpha in options.alphas for other in spans],
    }
