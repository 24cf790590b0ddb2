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

from ...probes.intervene.measures import Measure, logit_difference
from ...probes.intervene.readout import clean_values
from ...probes.intervene.recording import Recording, record
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch
from ..common.controls import example_keys
from ._act import act_variant
from ._branches import branches_of
from ._tables import NONE, Variant
from ._var import var_variant
from ._vhr import vhr_variant

# What a repair's name begins with -> its interventions on a recording.
MADE: dict[str, Callable[..., Any]] = {"VHR": vhr_variant, "VAR": var_variant, "ACT": act_variant}


def differences(subject: Any, batch: Batch, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Tensor, Any]]:
    """For every variant the logit of the right answer less the wrong one's, [b, draws], and what its last draw's repair
    has found.
    """
    for branches, those in groupby(sorted(variants, key=_together), key=_needs_branches):
        base = None  # one recording at a time
        given = subject.prepare(batch)
        base = record(subject, branches_of(subject, given, "dropped").inputs if branches else given)
        for _, group in groupby(those, key=_together):
            yield from _read(base, batch, list(group))


def _needs_branches(variant: Variant) -> bool:
    """Whether it looks at the prompts without their images too."""
    return variant.repair.startswith("VHR")


def _together(variant: Variant) -> tuple[bool, str, str]:
    """What variants that act at the same rows of the same recording have in common."""
    return _needs_branches(variant), variant.repair[:3], variant.how.get("positions", "")


def _read(base: Recording, batch: Batch, variants: list[Variant]) -> Iterator[tuple[Variant, Tensor, Any]]:
    """One repair at all of its strengths, with its controls and other rules."""
    copies = len(base.mask) // len(batch.examples)
    measure = logit_difference(batch.answers.repeat(copies), batch.wrong.repeat(copies))
    drawn = [(v, draw) for v in variants for draw in range(v.draws)]
    made = [_interventions(base, v, example_keys(batch.example_ids, draw)) for v, draw in drawn]
    values = _values(base, [edits for edits, _ in made], measure)
    start = 0
    for variant in variants:
        end = start + variant.draws
        yield variant, values[start:end, : len(batch.examples)].T, made[end - 1][1]
        start = end


def _interventions(base: Recording, variant: Variant, seed: list[str]) -> tuple[Any, Any]:
    if variant.repair == NONE:
        return {}, None
    how = {name: value for name, value in variant.how.items() if name != "image"}
    return MADE[variant.repair[:3]](base, seed=seed, **how)


def _values(base: Recording, variants: list[Any], measure: Measure) -> Tensor:
    """The measure of every variant [v, b], the clean one where nothing is edited (no head to calibrate)."""
    values = clean_values(base, measure).expand(len(variants), -1).clone()
    if acting := [i for i, edits in enumerate(variants) if edits]:
        edited = [variants[i] for i in acting]
        positions = torch.stack([_positions(base, edits) for edits in edited]).any(0)
        values[acting] = variant_sweep(base, edited, positions, measure=measure).values
    return values


def _positions(base: Recording, edits: Any) -> Tensor:
    """Where a variant acts."""
    masks = [change.positions for changes in edits.values() for change in changes]
    return base.mask if any(mask is None for mask in masks) else torch.stack(masks).any(0)
