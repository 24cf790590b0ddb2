"""What a run would do, told before it begins: forwards, memory, files."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...data.tasks import Task
from . import costs
from .drawn import draw
from .job import Job, Settings, facts_of, form_of, open_job
from .needs import Sizes, memory_of, peak_of, row_bytes, shortage, size_said
from .plan import Shard, shapes
from .start import layer_notes, plan_of

if TYPE_CHECKING:
    from ..model.subject import Subject


def preview(
    subject: Subject,
    task: Task,
    analyses: Mapping[str, tuple[ModuleType, Any]],
    settings: Settings,
    *,
    proved: bool = True,
) -> list[str]:
    """What `run` would do, in lines: forwards, memory, files. Runs and writes nothing.

    proved: whether the instruments were proved already; the check needs memory of its own.
    """
    template, bos = form_of(subject, task, settings)
    how = {"template": template, "bos": bos, "skip_broken": settings.skip_broken}
    drawn = draw(subject, task, settings.limit, settings.seed, **how)
    facts, examples = facts_of(subject, task, drawn, settings, template, bos), drawn.examples
    jobs = [open_job(name, module, options, facts, settings) for name, (module, options) in analyses.items()]
    plans = [plan_of(job, subject, examples, template, bos, settings) for job in jobs]
    sizes = [shapes(subject, examples, plan, template) for plan in plans]
    todo = [(job, size) for job, size in zip(jobs, sizes, strict=True) if not job.complete]
    stages = memory_of(subject, todo, proved=proved, answers=settings.answer_tokens)
    conditions = " and ".join(facts["conditions"])
    width, dtype = max(12, *map(len, analyses)), facts["subject"]["dtype"]
    return [
        f"{'subject':{width}s} {subject.name}: {subject.n_layers} layers, {dtype} on {subject.device}",
        f"{'task':{width}s} {task.name}: {len(examples)} examples in {facts['task']['n_groups']} groups, {conditions}",
        *(f"{'left out':{width}s} {line}" for line in drawn.left_out),
        *_memory_lines(subject, stages, width),
        *_answer_lines(len(examples), settings, width),
        *(f"{'layers':{width}s} {note}" for note in layer_notes(subject)),
        *(
            line
            for job, plan, size in zip(jobs, plans, sizes, strict=True)
            for line in _preview_job(job, plan, size, subject, width)
        ),
    ]


def _memory_lines(subject: Subject, stages: Mapping[str, Mapping[str, int]], width: int) -> list[str]:
    held, weights = costs.held(subject), costs.weights(subject)
    stage, needed = peak_of(stages)
    kept = f"{size_said(weights)} of weights, {size_said(max(0, held - weights))} held beside them"
    most = f", {size_said(needed)} for {stage}" if stage else ""
    lines = [f"about {size_said(held + needed)} at most: {kept}{most}"]
    for one in _largest_of_each(stages):
        lines.append(f"{one}: " + ", ".join(f"{size_said(n)} {part}" for part, n in stages[one].items()).rstrip())
    lines += [line] if (line := shortage(subject, needed)) else []
    return [f"{'' if i else 'memory':{width}s} {line}" for i, line in enumerate(lines)]


def _largest_of_each(stages: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Of the stages that differ in their batch alone, the one that needs most."""
    largest: dict[str, str] = {}
    for stage in sorted(stages, key=lambda one: sum(stages[one].values())):
        largest[stage.partition("a batch")[0]] = stage
    return sorted(largest.values(), key=[*stages].index)


def _answer_lines(count: int, settings: Settings, width: int) -> list[str]:
    told = f"{count} of at most {settings.answer_tokens} tokens each, generated first, a forward a token and batch"
    return [f"{'answers':{width}s} {told}"] if settings.answer_tokens else []


def _passes(module: ModuleType) -> str:
    """What an analysis does with each batch."""
    shared = "forwards (shared with the other observing analyses)"
    if not hasattr(module, "observe"):
        return "sweeps"
    return f"{shared}, each with passes or sweeps of its own" if hasattr(module, "measure") else shared


def _preview_job(job: Job, fresh: list[Shard], sizes: Sizes, subject: Subject, width: int) -> list[str]:
    """Two lines of one analysis, its name in a column of `width`."""
    if job.complete:
        return [f"{job.name:{width}s} complete, nothing to do: {job.directory}"]
    plan = job.plan if "plan" in job.record else fresh
    todo = len(job.missing()) if "plan" in job.record else len(plan)
    learns = ", and a few on held-out examples" if hasattr(job.module, "fit") and "plan" not in job.record else ""
    each = _passes(job.module)
    known = hasattr(job.module, "row_size")
    total = f"about {sum(row_bytes(subject, job, sizes)) / 1e6:,.1f} MB" if known else "size unknown"
    return [
        f"{job.name:{width}s} {todo} of {len(plan)} {each}{learns}",
        f"{'':{width}s} {len(plan)} files of rows, {total}, then the tables and record.json, in {job.directory}",
        *_beside(job, subject, width),
    ]


def _beside(job: Job, subject: Subject, width: int) -> list[str]:
    """What an analysis writes elsewhere."""
    disk = job.module.disk(subject, job.options) if hasattr(job.module, "disk") else 0
    return [f"{'':{width}s} about {size_said(disk)} of what it learns, kept in the cache"] if disk else []
