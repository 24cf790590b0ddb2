"""What a vision-language subject on SmolLM2 has kept of its text tasks: the same prompts with its norms and the old."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.subjects import scenes_model
from ...data.tasks import open_task
from ...probes.prompts.batch import Batch
from ..common import stats
from ..common.frames import order_columns, summarise

TASKS = ("ioi", "facts", "passages")
SIZE = 8  # prompts a forward
MEASURES = {"top-1": "share", "NLL": "nats a token"}


def text_ability(subject: Any, n: int) -> list[list[Any]]:
    """[task, measure, group, after, before, tokens] of each text prompt; empty for subjects without a before.

    top-1: whether the answer's token is the likeliest; NLL: sum over the prompt's tokens.
    """
    if not subject.name.startswith("scenes"):
        return []
    found = []
    for name in TASKS:
        task = open_task(name)
        examples = task.examples(subject.tokenizer, n, 0)
        for start in range(0, len(examples), SIZE):
            batch = subject.batch(examples[start : start + SIZE], bos=task.module.BOS)
            after = _measure(subject, batch)
            with old_gains(subject.model):
                before = _measure(subject, batch)
            for example, new, old in zip(batch.examples, after, before, strict=True):
                found.append([name, new[0], example.group, new[1], old[1], new[2]])
    return found


@contextmanager
def old_gains(model: Any) -> Iterator[None]:
    """SmolLM2's own norms in the model, for a while."""
    new = {name: p.detach().clone() for name, p in scenes_model.gains(model).items()}
    _set(model, scenes_model.original_gains())
    try:
        yield
    finally:
        _set(model, new)


@torch.no_grad()
def _set(model: Any, values: dict[str, Tensor]) -> None:
    for name, parameter in scenes_model.gains(model).items():
        parameter.copy_(values[name])


def _measure(subject: Any, batch: Batch) -> list[tuple[str, float, int]]:
    """(measure, value, tokens) of each prompt."""
    if batch.examples[0].answer:
        right = subject.last_logits(batch).argmax(-1).cpu() == batch.answers
        return [("top-1", float(good), 1) for good in right]
    logits = subject.forward(batch, keep=0).float()[:, :-1]
    ids, real = batch.inputs["input_ids"][:, 1:].to(logits.device), batch.mask[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none").cpu() * real
    return [("NLL", float(total), int(count)) for total, count in zip(loss.sum(1), real.sum(1), strict=True)]


def text_table(found: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """source measure norms ("SmolLM2's", "this subject's", "change") value lower upper n n_groups unit.

    The change is in points of top-1 and as a share of the old NLL.
    """
    frame = pd.DataFrame(found, columns=["source", "measure", "group", "after", "before", "tokens"])
    tables = []
    for (source, measure), part in frame.groupby(["source", "measure"], sort=False):
        where, unit = {"source": str(source), "measure": str(measure)}, MEASURES[str(measure)]
        for name, column in (("SmolLM2's", "before"), ("this subject's", "after")):
            cells = summarise(part[column], part["group"], {}, unit, denominators=part["tokens"])
            tables.append(cells.assign(norms=name, **where))
        if measure == "NLL":
            change = summarise(
                part["after"] - part["before"], part["group"], {}, "of the old", denominators=part["before"]
            )
        else:
            told = stats.paired_difference(part["after"], part["before"], part["group"])
            numbers = {name: [float(getattr(told, name))] for name in ("value", "lower", "upper")}
            counts = {"n": len(part), "n_groups": part["group"].nunique(), "unit": "points"}
            change = pd.DataFrame({**numbers, **counts})
        tables.append(change.assign(norms="change", **where))
    return order_columns(pd.concat(tables, ignore_index=True).assign(value=lambda t: t["value"].astype(np.float64)))
