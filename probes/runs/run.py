"""The run: examples in, rows in shards, tables and a record out; killed and resumed without loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from ...data.errors import UserError
from ...data.tasks import Task
from ..model.subject import refuse_under_edit
from ..prompts.bos import notes as bos_notes
from . import store
from .answers import answered
from .contract import check
from .drawn import draw, readable
from .job import Settings, facts_of, form_of, open_job, read_job
from .rows import threads
from .start import layer_notes, start
from .work import same_plan, work
from .workers import Workers

if TYPE_CHECKING:
    from ..model.subject import Subject


def run(
    subject: Subject,
    task: Task,
    analyses: Mapping[str, tuple[ModuleType, Any]],
    settings: Settings,
    *,
    before: Callable[[], Any] = lambda: None,
    workers: Workers | None = None,
) -> list[Path]:
    """Run analyses (name -> (module, options)) on one subject and task; all that observe ride one forward.

    before: called once before the first forward, not at all where every run is complete already (the check of the
    instruments). workers: processes that compute the batches; by default this one. Returns one run directory per
    analysis. UserError: an analysis that is not as the contract says, or as
    in the modules it calls.
    """
    refuse_under_edit(subject, "run")
    for name, (module, _) in analyses.items():
        check(name, module)
        if hasattr(module, "NEEDS"):
            raise UserError(f"{name} is made of finished runs of {' or '.join(module.NEEDS)}: crosslens overlap")
    template, bos = form_of(subject, task, settings)
    how = {"template": template, "bos": bos}
    drawn = draw(subject, task, settings.limit, settings.seed, **how, skip_broken=settings.skip_broken)
    facts = facts_of(subject, task, drawn, settings, template, bos)
    jobs = [open_job(name, module, options, facts, settings) for name, (module, options) in analyses.items()]
    with ExitStack() as stack:
        for job in [job for job in jobs if not job.complete]:
            stack.enter_context(store.locked(job.directory))
            read_job(job)  # another process may have begun or finished it before the lock was ours
        todo = [job for job in jobs if not job.complete]
        if todo:
            before()
            read = readable(subject, task, drawn.examples, **how, own=bool(settings.answer_tokens))
            for job in todo:
                job.notes += [*drawn.notes, *read.notes]
            read = replace(read, examples=answered(subject, read.examples, jobs, template, bos, settings))
        for job in todo:
            job.tokenizer = subject.tokenizer
            job.notes += [*bos_notes(subject, template, bos), *layer_notes(subject)]
            with threads(workers.threads if workers else torch.get_num_threads()):
                start(job, subject, task, read, facts, settings)
        for group in same_plan(todo):
            with threads(group[0].record["plan"]["threads"]):
                work(subject, {e.id: e for e in read.examples}, group, template, workers)
    return [job.directory for job in jobs]
