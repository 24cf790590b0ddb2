"""What `steering` measures beside the repair: the task without its content gatherers, and where its movers look when
other heads are steered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.intervene.intervening import full_forward
from ...probes.intervene.interventions import Patch, Variant
from ...probes.intervene.recording import Recording
from ...probes.intervene.sweep import variant_sweep
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.contrast import Contrast
from ..common.controls import HEADS, Head, random_circuits
from ..common.option_logits import OptionLogits, is_right, lead
from ._circuit_tables import ANSWER
from ._movers import heard_by, movers, queries_of
from ._steered import steered

MOVERS = 3
DRAWN = 5  # random sets of heads under which the movers' attention is looked at, a whole forward each


def movers_and_gatherers(subject: Any, half: Sequence[Batch], count: int) -> tuple[list[Head], list[Head]]:
    """The task's own movers, and the heads that help most on the path to their queries."""
    writing = movers(subject, half, MOVERS)
    receivers = queries_of(writing, subject.decoder.attending[0])
    heard = heard_by(subject, half, receivers, count, at_last=True, helping=True)
    both = [[(layer, head) for layer, head in heads] for heads in (writing, heard)]
    return both[0], [head for head in both[1] if head not in both[0]]


def silenced(base: Recording, heads: Sequence[Head]) -> Variant:
    """Some heads say nothing, at every position: what they mix are values of 0."""
    variant: dict[int, list[Patch]] = {}
    for layer, head in sorted(set(heads)):
        nothing = torch.zeros_like(base.layers[layer].site("z"))
        variant.setdefault(layer, []).append(Patch("z", base.mask, nothing, (head,)))
    return variant


def without(found: Contrast, heads: Sequence[Head], draws: int) -> dict[str, Tensor]:
    """Logit difference and whether the answer wins, as it is, without some heads and without random ones [b(, draws)].

    Nothing where there are no heads.
    """
    base = found.base
    if not heads:
        return {}
    drawn = random_circuits(heads, base.subject.n_heads, draws)
    variants = [silenced(base, some) for some in (heads, *drawn)]
    sweep = variant_sweep(base, variants, base.mask, measure=OptionLogits(found.answers, found.options))
    kept = {}
    for name, of in (("difference", lead), ("right", is_right)):
        own, *others = (of(one) for one in sweep.values)
        kept |= {f"silent|{name}|clean": of(sweep.clean), f"silent|{name}": own}
        kept[f"silent|{name}|{HEADS}"] = torch.stack(others, -1) if others else torch.full((len(own), draws), torch.nan)
    return kept


def looks(
    base: Recording, batch: Batch, asking: Sequence[Head], heads: Sequence[Head], targets: Tensor
) -> dict[str, Tensor]:
    """Attention of the last position on the answer's token and on the wrong options' [b], mean over the movers that are
    not steered themselves: as it is, with `heads` steered, and with random ones. Nothing without either.
    """
    asking = [head for head in asking if head not in set(heads)]
    if not asking or not heads:
        return {}
    answer = next((batch.marks[name] for name in ANSWER if name in batch.marks), None)
    marks = {"the wrong options": targets} | ({} if answer is None else {"the answer": answer})
    sets = {"clean": [{}], "steered": [steered(base, heads, targets)]}
    sets[HEADS] = [steered(base, some, targets) for some in random_circuits(heads, base.subject.n_heads, DRAWN)]
    found = {name: [_looked(base, batch, asking, marks, one) for one in several] for name, several in sets.items()}
    missing = torch.full((len(batch.last),), torch.nan)
    return {
        f"looks|{mark}|{name}": torch.stack([one[mark] for one in several]).mean(0) if several else missing
        for name, several in found.items()
        for mark in marks
    }


def _looked(
    base: Recording, batch: Batch, asking: Sequence[Head], marks: Mapping[str, Tensor], variant: Variant
) -> dict[str, Tensor]:
    """Mean over the movers of the last position's attention on each mark [b], in one whole forward."""
    shares: dict[str, list[Tensor]] = {name: [] for name in marks}

    def keep(layer: Layer) -> None:
        mine = [head for at, head in asking if at == layer.index]
        if mine:
            pattern = layer.pattern(batch.last[:, None])
            for name, where in marks.items():
                share = metrics.attention_share(pattern, where.to(pattern.device))[..., 0]
                shares[name].append(share[:, mine].float().cpu())

    full_forward(base, variant, keep)
    return {name: torch.cat(parts, 1).mean(1) for name, parts in shares.items()}
