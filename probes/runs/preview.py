"""What a run would do, told before it begins: forwards, memory, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...data.tasks import Task
from .job import Job, Settings, facts_of, form_of, open_job
from .plan import Shard, activation_bytes, shapes
from .start import layer_notes, plan_of

if TYPE_CHECKING:
    from ..model.subject import Subject


def preview(
    subject: Subject, task: Task, analyses: Mapping[str, tuple[ModuleType, Any]], settings: Settings
) -> list[str]:
    """What `run` would do, in lines: forwards, memory, files. Runs and writes nothing."""
    template, bos = form_of(subject, task, settings)
    examples = task.examples(subject.tokenizer, settings.limit, settings.seed)
    facts = facts_of(subject, task, examples, settings, template, bos)
    jobs = [open_job(name, module, options, facts, settings) for name, (module, options) in analyses.items()]
    plans = [plan_of(job, subject, examples, template, bos, settings) for job in jobs]
    sizes = [size for plan in plans for size in shapes(subject, examples, plan, template)]
    peak = max(activation_bytes(subject, *size) for size in sizes)
    conditions = " and ".join(facts["conditions"])
    width, dtype = max(12, *map(len, analyses)), facts["subject"]["dtype"]
    return [
        f"{'subject':{width}s} {subject.name}: {subject.n_layers} layers, {dtype} on {subject.device}",
        f"{'task':{width}s} {task.name}: {len(examples)} examples in {facts['task']['n_groups']} groups, {conditions}",
        f"{'memory':{width}s} about {peak / 1e6:,.0f} MB of activations at once, for {_largest(sizes)}",
        *(f"{'layers':{width}s} {note}" for note in layer_notes(subject)),
        *(
            line
            for job, plan in zip(jobs, plans, strict=True)
            for line in _preview_job(job, plan, shapes(subject, examples, plan, template), subject, width)
        ),
    ]


def _largest(sizes: Sequence[tuple[int, int]]) -> str:
    batch, positions = max(sizes, key=lambda size: size[0] * size[1])
    return f"a batch of {batch} examples × {positions} positions"


def _passes(module: ModuleType) -> str:
    """What an analysis does with each batch."""
    shared = "forwards (shared with the other observing analyses)"
    if not hasattr(module, "observe"):
        return "sweeps"
    return f"{shared}, each with passes or sweeps of its own" if hasattr(module, "measure") else shared


def _preview_job(job: Job, fresh: list[Shard], sizes: list[tuple[int, int]], subject: Subject, width: int) -> list[str]:
    """Two lines of one analysis, its name in a column of `width`."""
    if job.complete:
        return [f"{job.name:{width}s} complete, nothing to do: {job.directory}"]
    plan = job.plan if "plan" in job.record else fresh
    todo = len(job.missing()) if "plan" in job.record else len(plan)
    learns = ", and a few on held-out examples" if hasattr(job.module, "fit") and "plan" not in job.record else ""
    each = _passes(job.module)
    size = getattr(job.module, "row_size", None)
    summed_up = hasattr(job.module, "SUMS")  # one row of float64 a shard, else one of float32 an example
    counts = [(2 if summed_up else b) * size(subject, p, job.options) * 4 for b, p in sizes] if size else []
    total = "size unknown" if size is None else _megabytes(sum(counts))
    return [
        f"{job.name:{width}s} {todo} of {len(plan)} {each}{learns}",
        f"{'':{width}s} {len(plan)} files of rows, {total}, then the tables and record.json, in {job.directory}",
    ]


def _megabytes(count: int) -> str:
    return f"about {count / 1e6:,.1f} MB"
