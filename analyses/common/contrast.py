"""A task as a contrast: its prompts, their corrupt twins, and the logit difference between what the two answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.intervene.measures import logit_difference
from ...probes.intervene.positions import diverging_positions
from ...probes.intervene.recording import Recording, record
from ...probes.prompts.batch import Batch, corrupt_twins
from ...probes.runs.results import How, Rows
from . import stats
from .frames import summarise
from .option_logits import guessing, wrong_options

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
        return diverging_positions(self.base, self.donor).chosen


def contrast(subject: Any, batch: Batch, sites: Collection[str] = PARTS.values()) -> Contrast:
    """Both runs of a batch. The foil is the twin's answer, or the first wrong one where a twin has none.

    UserError: no twin, a longer twin, no foil, answer and foil the same token.
    """
    twins = corrupt_twins(subject, batch)
    answers = batch.answers
    foils = torch.tensor([batch.first_token_of(e, _foil(e)) for e in batch.examples])
    same = (answers == foils).nonzero()[:, 0].tolist()
    if same:
        raise UserError(
            f"example {batch.example_ids[same[0]]}: correct and wrong answer are the same token: "
            "there is no difference to patch"
        )
    base, donor = (record(subject, one, sites) for one in (batch, twins))
    return Contrast(base, donor, logit_difference(answers, foils), answers, wrong_options(batch))


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
        "guessing": guessing(found.options),
    }


def task_table(rows: Rows, how: How) -> pd.DataFrame:
    """How well the task is solved: measure ("accuracy among the options", "top-1", "logit difference",
    "clean − corrupt") control value …
    """
    measures = {
        ("accuracy among the options", "", "share"): rows["right"],
        ("accuracy among the options", "guessing", "share"): rows["guessing"],
        ("top-1", "", "share"): rows["top1"],
        ("logit difference", "", "logits"): rows["clean"],
        ("logit difference", "corrupt twin", "logits"): rows["donor"],
        ("clean − corrupt", "", "logits"): rows["clean"] - rows["donor"],
    }
    frames = [
        summarise(values, rows.examples["group"], {}, unit, measure=name, control=control)
        for (name, control, unit), values in measures.items()
    ]
    return pd.concat(frames, ignore_index=True)


def apart(values: np.ndarray, groups: Any) -> bool:
    """Whether the interval of a mean of values [n] leaves out 0: what may be divided by."""
    _, lower, upper = stats.group_bootstrap(values, groups)
    return bool(lower > 0 or upper < 0)


def unsolved(rows: Rows) -> str:
    """Why nothing can be said of a circuit: accuracy not shown to be above guessing, or clean above corrupt; or ""."""
    groups = rows.examples["group"]
    for values, said in (
        (rows["right"] - rows["guessing"], "its accuracy is not above guessing"),
        (rows["clean"] - rows["donor"], "its clean and corrupt prompts do not differ"),
    ):
        if not stats.group_bootstrap(values, groups).lower > 0:
            return f"the task is not solved here: {said}"
    return ""
