"""What a circuit does alone: the measure with every other head saying what it says in the twin's run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.intervene.interventions import Patch, Variant
from ...probes.intervene.sweep import variant_sweep
from ..common.contrast import Contrast
from ..common.controls import Head, random_circuits
from ._faithfulness_tables import SHARES, head_counts


def curve_points(subject: Any, found: Contrast, ranking: Sequence[Head], draws: int) -> Tensor:
    """The measure [b, 1 + draws, shares]: the ranked circuit of every size, then random ones with as many other heads
    in each layer; NaN where no such circuit exists.
    """
    circuits: list[frozenset[Head] | None] = []
    for count in head_counts(len(ranking)):
        drawn = random_circuits(ranking[:count], subject.n_heads, draws)
        circuits += [frozenset(ranking[:count]), *(map(frozenset, drawn) if drawn else [None] * draws)]
    value = _measured(found, dict.fromkeys(circuit for circuit in circuits if circuit is not None), frozenset(ranking))
    missing = torch.full_like(found.measure(found.base.logits.cpu(), torch.arange(len(found.answers))), torch.nan)
    points = [missing if circuit is None else value[circuit] for circuit in circuits]
    return torch.stack(points).unflatten(0, (len(SHARES), -1)).permute(2, 1, 0)


def _measured(found: Contrast, circuits: Iterable[frozenset[Head]], whole: frozenset[Head]) -> dict[frozenset, Tensor]:
    """Each circuit's measure [b], every one run once; the strongest edit comes first and is proved."""
    parted, edited = found.parted, [circuit for circuit in circuits if circuit != whole]
    variants = [_without(found, circuit, parted) for circuit in edited]
    sweep = variant_sweep(found.base, variants, parted, measure=found.measure)
    return dict(zip(edited, sweep.values, strict=True)) | {whole: sweep.clean}


def _without(found: Contrast, circuit: frozenset, parted: Tensor) -> Variant:
    """Every head outside of the circuit says what it says in the twin's run."""
    variant = {}
    for i in found.base.subject.decoder.attending:
        z = found.donor.layers[i].site("z")
        others = tuple(h for h in range(z.shape[2]) if (i, h) not in circuit)
        if others:
            variant[i] = (Patch("z", parted, z, others),)
    return variant
