"""Answers under repairs by replay: one recording of the prompts serves every strength, every control and every draw.

A repair acts at some rows of a prompt: head reinforcement at the last one, redistribution at those behind the image,
calibration at all of them. Only these are computed, stacked, against the recorded keys and values of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...probes.intervene.measures import logit_difference
from ...probes.intervene.readout import clean_values
from ...probes.intervene.recording import Recording, record
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch
from ..common.controls import example_keys
from ._act import act_variant
from ._tables import NONE, Variant
from ._var import var_variant
from ._vhr import branches_of, vhr_variant

# What a repair's name begins with -> its interventions on a recording.
MADE: dict[str, Callable[..., Any]] = {"VHR": vhr_variant, "VAR": var_variant, "ACT": act_variant}


def differences(subject: Any, batch: Batch, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Tensor, Any]]:
    """For every variant the logit of the right answer less the wrong one's, [b, draws], and what its last draw's repair
    has found.
    """
    for branches, those in groupby(sorted(variants, key=_needs_branches), key=_needs_branches):
        base = None  # one recording at a time
        given = subject.prepare(batch)
        base = record(subject, branches_of(subject, given, "dropped").inputs if branches else given)
        for _, group in groupby(those, key=lambda variant: variant.repair):
            yield from _read(base, batch, list(group))


def _needs_branches(variant: Variant) -> bool:
    """Whether it looks at the prompts without their images too."""
    return variant.repair.startswith("VHR")


def _read(base: Recording, batch: Batch, variants: list[Variant]) -> Iterator[tuple[Variant, Tensor, Any]]:
    """One repair at all of its strengths, with its controls."""
    copies = len(base.mask) // len(batch.examples)
    measure = logit_difference(batch.answers.repeat(copies), batch.wrong.repeat(copies))
    if variants[0].repair == NONE:
        yield variants[0], clean_values(base, measure)[:, None], None
        return
    drawn = [(v, draw) for v in variants for draw in range(v.draws)]
    made = [_interventions(base, v, example_keys(batch.example_ids, draw)) for v, draw in drawn]
    positions = torch.stack([_positions(base, edits) for edits, _ in made]).any(0)
    values = variant_sweep(base, [edits for edits, _ in made], positions, measure=measure).values
    start = 0
    for variant in variants:
        end = start + variant.draws
        yield variant, values[start:end, : len(batch.examples)].T, made[end - 1][1]
        start = end


def _interventions(base: Recording, variant: Variant, seed: list[str]) -> tuple[Any, Any]:
    how = {name: value for name, value in variant.how.items() if name != "image"}
    return MADE[variant.repair[:3]](base, seed=seed, **how)


def _positions(base: Recording, edits: Any) -> Tensor:
    """Where a variant acts."""
    masks = [change.positions for changes in edits.values() for change in changes]
    if any(mask is None for mask in masks):
        return base.mask
    return torch.stack([torch.zeros_like(base.mask), *masks]).any(0)
