"""The work of a run: batch by batch the rows of every analysis, each batch kept when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...data.example import Example
from ...data.progress import progress
from ..intervene.proofs import replay_notes
from . import store
from .finish import finish
from .job import Job
from .rows import compute_rows
from .workers import Work, Workers

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


def work(
    subject: Subject, examples: Mapping[str, Example], jobs: list[Job], template: str, workers: Workers | None = None
) -> None:
    """Compute and keep the batches that are missing of jobs with the same plan, then finish each job."""
    plan, shards = jobs[0].record["plan"], jobs[0].plan
    todo = sorted({index for job in jobs for index in job.missing()})
    began = monotonic()

    def of(index: int) -> Work:
        shard = shards[index]
        form = {"template": template, "bos": shard.bos, "padding": plan["padding"]}
        riding = {job.name: (job.module, job.how) for job in jobs if not job.shard_path(index).exists()}
        return Work([examples[i] for i in shard.ids], form, plan["threads"], riding)

    computed = _here(subject, todo, of) if workers is None else workers.rows(subject, todo, of)
    what = f"{' + '.join(job.name for job in jobs)} on {jobs[0].record['task']['name']}"
    with progress(what, len(shards), len(shards) - len(todo)) as count:
        for index, rows in computed:
            for job in jobs:
                if job.name in rows:
                    store.save_rows(job.shard_path(index), rows[job.name], job.record["key"], shards[index].ids)
            count(1)
    for job in jobs:
        if not hasattr(job.module, "observe"):  # It swept: were the layers replayed?
            job.record["notes"] = list(dict.fromkeys([*job.record["notes"], *replay_notes(subject)]))
        job.record |= {"seconds": round(monotonic() - began, 1), "forwards": len(job.plan)}
        finish(job, examples)


def _here(subject: Subject, todo: Sequence[int], of: Callable[[int], Work]) -> Iterator[tuple[int, Any]]:
    """The rows of all shards, one after the other, in this process, whose threads `run` has set."""
    for index in todo:
        examples, form, _, riding = of(index)
        yield index, compute_rows(subject, subject.batch(list(examples), **form), riding)
