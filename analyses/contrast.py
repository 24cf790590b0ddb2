"""A task as a contrast: its prompts, their corrupt twins, and the logit difference between what the two answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ..data.example import Example, UserError
from ..probes.batch import Batch, corrupt_twins
from ..probes.measures import logit_difference
from ..probes.plan import first_condition
from ..probes.replay import Recording, parted, record
from . import stats

PARTS = {"head": "z", "mlp": "mlp_out"}  # what a circuit is made of, and the site that it is patched at


class Contrast(NamedTuple):
    """base, donor: recordings of the prompts and of their twins; measure: the logit difference answer − foil."""

    base: Recording
    donor: Recording
    measure: Any
    answers: Tensor
    options: Tensor  # Int[b, m], the wrong answers; −1 where an example has fewer

    @property
    def parted(self) -> Bool[Tensor, "b p"]:
        """Positions that the twins' first other word reaches: before it both runs are the same."""
        return parted(self.base, self.donor).chosen


def contrast(subject: Any, batch: Batch, sites: Collection[str] = PARTS.values()) -> Contrast:
    """Both runs of a batch. The foil is the twin's answer, or the first wrong one where a twin has none.

    UserError: no twin, a longer twin, no foil, answer and foil the same token.
    """
    twins = corrupt_twins(subject, batch)
    answers = batch.answers
    foils = torch.tensor([batch.token_of(e, _foil(e)) for e in batch.examples])
    same = (answers == foils).nonzero()[:, 0].tolist()
    if same:
        raise UserError(
            f"example {batch.example_ids[same[0]]}: correct and wrong answer are the same token: "
            "there is no difference to patch"
        )
    wrong = [[batch.token_of(e, w) for w in e.wrong] for e in batch.examples]
    width = max(map(len, wrong))
    options = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in wrong])
    base, donor = (record(subject, one, sites) for one in (batch, twins))
    return Contrast(base, donor, logit_difference(answers, foils), answers, options)


def _foil(example: Example) -> str:
    twin = example.corrupt
    foil = twin.answer if twin is not None and twin.answer else next(iter(example.wrong), "")
    if not foil:
        raise UserError(f"example {example.id} has no wrong answer: a logit difference needs one")
    return foil


def task_rows(found: Contrast) -> dict[str, Tensor]:
    """How well the task is solved: clean and donor logit difference, right among the options, top-1, guessing [b]."""
    logits = found.base.logits.cpu()
    answer = logits.gather(1, found.answers[:, None])
    others = logits.gather(1, found.options.clamp(min=0)).masked_fill(found.options < 0, -torch.inf)
    rows = torch.arange(len(answer))
    return {
        "clean": found.measure(logits, rows),
        "donor": found.measure(found.donor.logits.cpu(), rows),
        "right": (answer > others).all(1).float(),
        "top1": (logits.argmax(1) == found.answers).float(),
        "guessing": 1 / (1 + (found.options >= 0).sum(1)).float(),
    }


def half_of(subject: Any, batches: Sequence[Batch], needs: str) -> tuple[list[Batch], list[str]]:
    """The first condition's batches with the examples of one half of the groups, and these groups' names.

    UserError: there are not two groups; `needs` says for what.
    """
    mine = first_condition(batches)
    groups = np.array([example.group for batch in mine for example in batch.examples])
    if len(np.unique(groups)) < 2:
        raise UserError(f"{needs} needs a task with at least two groups: heads are chosen on one half of them")
    names = set(groups[stats.split_half(groups)[0]].tolist())
    halves = [([e for e in batch.examples if e.group in names], batch.form) for batch in mine]
    return [subject.batch(examples, **form) for examples, form in halves if examples], sorted(names)
