"""The start of a run: what it learns first, and what a resumed run must repeat, written once."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...data.errors import UserError
from ...data.example import Example
from ...data.tasks import Task
from .. import VERSION
from ..model.hybrid import without_heads
from . import store
from .described import described, shown_example
from .drawn import Readable
from .job import Job, Settings, keyed_options
from .needs import memory_of, peak_of, shortage
from .plan import Shard, make_plan, plan_to_json, shapes
from .results import condition_of
from .sums import folds_of

if TYPE_CHECKING:
    from ..model.subject import Subject


def start(job: Job, subject: Subject, task: Task, read: Readable, facts: dict[str, Any], settings: Settings) -> None:
    """Fix what a resumed run must repeat: batches, threads, learned values. Written once."""
    if "plan" in job.record:
        return
    bos = [condition == condition_of(True) for condition in facts["conditions"]]
    template, examples = facts["task"]["template"], read.examples
    shards = plan_of(job, subject, examples, template, bos, settings)
    _warn(job, subject, examples, shards, template)
    held_out = _held_out(job, subject, task, read, template, bos[0], settings)
    job.record["fitted"] = _fit(job, subject, held_out, template, bos, settings)
    learned_on = {"examples": len(held_out), "groups": len({e.group for e in held_out})}
    job.record |= {
        **facts,
        "subject": facts["subject"] | described(subject),
        "title": (job.module.__doc__ or job.name).strip().splitlines()[0],
        "question": job.module.QUESTION,
        "paper": job.module.PAPER,
        "methods": job.module.methods(job.options, job.how.learned, learned_on),
        "options": keyed_options(job.module, job.options),
        "fitted_on": learned_on,
        "limit": settings.limit,
        "plan": {
            "shards": plan_to_json(shards),
            "threads": torch.get_num_threads(),
            "padding": settings.padding,
            "tokens": settings.tokens,
            "size": settings.size,
        },
        "versions": {
            **facts["versions"],
            "python": platform.python_version(),
            "analysis": job.module.VERSION,
            "probes": VERSION,
        },
        "machine": machine(subject.device),
        "command": settings.command,
        **({"location": subject.location} if subject.location else {}),
        **_reopening(subject),
        "example": shown_example(subject, examples, template, bos[0]),
        "started": store.now(),
        "notes": [*job.notes, *_common_groups(held_out, examples)],
    }
    if hasattr(job.module, "weights"):
        store.save_rows(job.weights_path, job.module.weights(subject, job.options), job.record["key"], ())
    store.write_record(job.directory, job.record)


def _warn(job: Job, subject: Subject, examples: Sequence[Example], shards: Sequence[Shard], template: str) -> None:
    """One line on stderr before a run that needs more memory than is free, by its shortest and longest prompts."""
    sizes = shapes(subject, examples, [shards[0], shards[-1]], template)
    if line := shortage(subject, peak_of(memory_of(subject, [(job, sizes)]))[1]):
        print(f"{job.name}: {line}", file=sys.stderr)


def _reopening(subject: Subject) -> dict[str, Any]:
    """What `verify` needs beside name and place, where the model is quantised or adapted."""
    opened = subject.opened or {}
    if not (opened.get("quantize") or opened.get("adapter")):
        return {}
    return {"reopen": {name: opened[name] for name in ("name", "quantize", "adapter")}}


def layer_notes(subject: Subject) -> list[str]:
    """What plan and page have to say of layers without attention."""
    told = without_heads(subject.decoder)
    return [told[0].upper() + told[1:]] if told else []


def plan_of(
    job: Job, subject: Subject, examples: Sequence[Example], template: str, bos: Sequence[bool], settings: Settings
) -> list[Shard]:
    """The shards of a job that begins; of one fold each where rows are summed."""
    folds = folds_of(e.group for e in examples) if hasattr(job.module, "SUMS") else None
    return make_plan(subject, examples, template, bos, settings.tokens, settings.size, folds)


def _held_out(
    job: Job, subject: Subject, task: Task, read: Readable, template: str, bos: bool, settings: Settings
) -> list[Example]:
    """What the analysis learns from; none where it learns nothing, or from a corpus of its own (FIT_EXAMPLES 0)."""
    if not hasattr(job.module, "fit") or not job.module.FIT_EXAMPLES:
        return []
    broken: list[str] | None = [] if settings.skip_broken else None
    how = {"template": template, "broken": broken}
    others = task.held_out(subject.tokenizer, job.module.FIT_EXAMPLES, settings.seed, read.examples, **how)
    if not others:
        raise UserError(f"task {task.name} has no held-out examples for {job.name} to learn from: lower --limit")
    return read.like(subject, others, template, bos)


def _common_groups(held_out: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """What the page has to say where the task has no group to spare."""
    common = {e.group for e in held_out} & {e.group for e in examples}
    if not common:
        return []
    return [
        f"{len(common)} groups of the held-out examples are measured too, since the task has none to spare; no "
        "prompt is in both."
    ]


def _fit(
    job: Job, subject: Subject, held_out: list[Example], template: str, bos: Sequence[bool], settings: Settings
) -> dict[str, Any]:
    """What the analysis learns before it measures, in batches like those of the run; the values are in the record."""
    if not hasattr(job.module, "fit"):
        return {}
    known = {example.id: example for example in held_out}
    shards = make_plan(subject, held_out, template, bos, settings.tokens, settings.size) if held_out else []
    batches = [subject.batch([known[i] for i in s.ids], template=template, bos=s.bos) for s in shards]
    return job.module.fit(subject, batches, job.options)._asdict()


def machine(device: torch.device) -> dict[str, str]:
    """What decides whether the same forward gives the same bits."""
    names = [line for line in _cpu_facts() if line.startswith("model name")]
    found = {
        "system": platform.system(),
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def _cpu_facts() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
