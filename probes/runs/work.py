"""The work of a run: batch by batch the rows of every analysis, each batch kept when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data.example import Example
from ...data.progress import tracked
from ..intervene.proofs import replay_notes
from . import store
from .finish import finish
from .job import Job
from .results import observe
from .sums import summed

if TYPE_CHECKING:
    from ..model.subject import Subject


def same_plan(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that can ride together: same batches."""
    groups: list[list[Job]] = []
    for job in jobs:
        group = next((g for g in groups if g[0].record["plan"] == job.record["plan"]), None)
        if group is None:
            groups.append([job])
        else:
            group.append(job)
    return groups


def work(subject: Subject, examples: Mapping[str, Example], jobs: list[Job], template: str) -> None:
    """Compute and keep the batches that are missing of jobs with the same plan, then finish each job."""
    plan = jobs[0].record["plan"]
    todo = sorted({index for job in jobs for index in job.missing()})
    began = monotonic()
    what = f"{' + '.join(job.name for job in jobs)} on {jobs[0].record['task']['name']}"
    for index in tracked(todo, what, done=len(jobs[0].plan) - len(todo)):
        shard = jobs[0].plan[index]
        batch = subject.batch(
            [examples[i] for i in shard.ids], template=template, bos=shard.bos, padding=plan["padding"]
        )
        riding = [job for job in jobs if not job.shard_path(index).exists()]
        rows = compute_rows(subject, batch, riding)
        for job in riding:
            store.save_rows(job.shard_path(index), rows[job.name], job.record["key"], shard.ids)
    for job in jobs:
        if not hasattr(job.module, "observe"):  # It swept: were the layers replayed?
            job.record["notes"] = list(dict.fromkeys([*job.record["notes"], *replay_notes(subject)]))
        job.record |= {"seconds": round(monotonic() - began, 1), "forwards": len(job.plan)}
        finish(job, examples)


def compute_rows(subject: Subject, batch: Any, jobs: Sequence[Job]) -> dict[str, dict[str, Tensor]]:
    """Rows of every job from one batch, summed where a job sums them; those that observe ride one forward."""
    settled = {job.name: (job.module, job.how) for job in jobs}
    observing = {name: pair for name, pair in settled.items() if hasattr(pair[0], "observe")}
    rows = observe(subject, batch, observing) if observing else {}
    for name, (module, how) in settled.items():
        if name not in observing:
            rows[name] = module.measure(subject, batch, {}, how)
    return {job.name: summed(rows[job.name], getattr(job.module, "SUMS", ())) for job in jobs}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, since the bits of a forward depend on them; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
