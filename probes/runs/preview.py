"""What a run would do, told before it begins: forwards, memory, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...data.tasks import Task
from . import costs
from .job import Job, Settings, facts_of, form_of, open_job
from .plan import Shard, shapes
from .start import layer_notes, plan_of

if TYPE_CHECKING:
    from ..model.subject import Subject

Sizes = list[tuple[int, int]]


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
    examples = task.examples(subject.tokenizer, settings.limit, settings.seed)
    facts = facts_of(subject, task, examples, settings, template, bos)
    jobs = [open_job(name, module, options, facts, settings) for name, (module, options) in analyses.items()]
    plans = [plan_of(job, subject, examples, template, bos, settings) for job in jobs]
    sizes = [shapes(subject, examples, plan, template) for plan in plans]
    needs = memory_of(subject, [(j, s) for j, s in zip(jobs, sizes, strict=True) if not j.complete], proved)
    conditions = " and ".join(facts["conditions"])
    width, dtype = max(12, *map(len, analyses)), facts["subject"]["dtype"]
    return [
        f"{'subject':{width}s} {subject.name}: {subject.n_layers} layers, {dtype} on {subject.device}",
        f"{'task':{width}s} {task.name}: {len(examples)} examples in {facts['task']['n_groups']} groups, {conditions}",
        *_memory_lines(subject, needs, width),
        *(f"{'layers':{width}s} {note}" for note in layer_notes(subject)),
        *(
            line
            for job, plan, size in zip(jobs, plans, sizes, strict=True)
            for line in _preview_job(job, plan, size, subject, width)
        ),
    ]


def memory_of(subject: Subject, jobs: Sequence[tuple[Job, Sizes]], proved: bool) -> dict[str, dict[str, int]]:
    """What each stage of a run needs beside what is held already: stage -> part -> bytes.

    Batches: one forward, the rows of all that observe it, and what the analyses hold beyond it, one after the other.
    """
    stages = {} if proved or not jobs else {"the check of the instruments": {"": costs.checking(subject)}}
    for b, p in sorted({size for _, sizes in jobs for size in sizes}):
        parts = {"a forward": costs.forward(subject, b, p)}
        parts["rows"] = sum(4 * b * _numbers(subject, job, p) for job, _ in jobs)
        own = {job.name: job.module.memory(subject, b, p, job.options) for job, _ in jobs if _says(job)}
        largest = max(own, key=own.__getitem__, default="")
        stages[f"a batch of {b} examples × {p} positions"] = parts | ({largest: own[largest]} if own else {})
    # Shards are read and joined, then sorted: twice all rows, of one analysis after the other.
    rows = [2 * sum(_row_bytes(subject, job, sizes)) for job, sizes in jobs]
    return stages | ({"tables": {"": max(rows)}} if rows else {})


def peak_of(stages: Mapping[str, Mapping[str, int]]) -> tuple[str, int]:
    """The stage that needs most, and how much; "" where nothing is to be done."""
    totals = {stage: sum(parts.values()) for stage, parts in stages.items()}
    largest = max(totals, key=totals.__getitem__, default="")
    return largest, totals.get(largest, 0)


def too_small(subject: Subject, needed: int) -> str:
    """One line where a run needs more than there is, else ""."""
    free = costs.free(subject)
    if needed <= free:
        return ""
    place = "GPU" if subject.device.type == "cuda" else "machine"
    return (
        f"this {place} is too small: {_size(needed)} are needed yet, {_size(free)} are free; take a smaller "
        "--batch-tokens, --dtype bfloat16 or --quantize, or another machine"
    )


def _memory_lines(subject: Subject, stages: Mapping[str, Mapping[str, int]], width: int) -> list[str]:
    held, weights = costs.held(subject), costs.weights(subject)
    stage, needed = peak_of(stages)
    kept = f"{_size(weights)} of weights, {_size(max(0, held - weights))} held beside them"
    lines = [f"about {_size(held + needed)} at most: {kept}" + (f", {_size(needed)} for {stage}" if stage else "")]
    batch = max((s for s in stages if s.startswith("a batch")), key=lambda s: sum(stages[s].values()), default="")
    if batch:
        lines.append(f"{batch}: " + ", ".join(f"{_size(n)} {part}" for part, n in stages[batch].items()))
    lines += [line] if (line := too_small(subject, needed)) else []
    return [f"{'' if i else 'memory':{width}s} {line}" for i, line in enumerate(lines)]


def _says(job: Job) -> bool:
    return hasattr(job.module, "memory")


def _numbers(subject: Subject, job: Job, positions: int) -> int:
    """Numbers a row, 0 where an analysis does not say."""
    size = getattr(job.module, "row_size", None)
    return 0 if size is None else size(subject, positions, job.options)


def _row_bytes(subject: Subject, job: Job, sizes: Sizes) -> list[int]:
    """Bytes of each shard: one row of float32 an example, or of float64 and of counts a fold, where it sums."""
    summed = hasattr(job.module, "SUMS")
    return [(2 if summed else b) * _numbers(subject, job, p) * 4 for b, p in sizes]


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
    total = _megabytes(sum(_row_bytes(subject, job, sizes))) if known else "size unknown"
    return [
        f"{job.name:{width}s} {todo} of {len(plan)} {each}{learns}",
        f"{'':{width}s} {len(plan)} files of rows, {total}, then the tables and record.json, in {job.directory}",
    ]


def _megabytes(count: int) -> str:
    return f"about {count / 1e6:,.1f} MB"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
