"""How much memory a run needs at most, stage by stage and part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import costs
from .job import Job

if TYPE_CHECKING:
    from ..model.subject import Subject

Sizes = Sequence[tuple[int, int]]  # (examples, padded positions) of each shard
Stages = dict[str, dict[str, int]]


def memory_of(subject: Subject, jobs: Sequence[tuple[Job, Sizes]], *, proved: bool = True, answers: int = 0) -> Stages:
    """What each stage of a run needs beside what is held already: stage -> part -> bytes.

    proved: whether the check of the instruments is behind. answers: tokens of the model's own answers. What an analysis
    holds beyond the shared forward comes behind it; the rows of all that observe are held meanwhile.
    """
    stages: Stages = {} if proved or not jobs else {"the check of the instruments": {"": costs.checking(subject)}}
    for b, p in sorted({size for _, sizes in jobs for size in sizes}):
        batch = f"a batch of {b} examples × {p} positions"
        rows = {"rows": sum(2 * 4 * b * _numbers(subject, job, p) for job, _ in jobs)}
        stages[batch] = {"a forward": costs.forward(subject, b, p)} | rows
        stages |= {
            f"{job.name}, {batch}": {job.name: own} | rows for job, _ in jobs if (own := _own(subject, job, b, p))
        }
        if answers:
            stages[f"answers, {batch}"] = {"keys and values": costs.keys_and_values(subject, b, p + answers)}
    # Shards are read and joined, then sorted: twice all rows, of one analysis after the other.
    rows = [2 * sum(row_bytes(subject, job, sizes)) for job, sizes in jobs]
    return stages | ({"the tables": {"": max(rows)}} if rows else {})


def peak_of(stages: Mapping[str, Mapping[str, int]]) -> tuple[str, int]:
    """The stage that needs most, and how much; "" where nothing is to be done."""
    totals = {stage: sum(parts.values()) for stage, parts in stages.items()}
    largest = max(totals, key=totals.__getitem__, default="")
    return largest, totals.get(largest, 0)


def shortage(subject: Subject, needed: int) -> str:
    """One line where a run needs more than is free, else ""."""
    free = costs.free(subject)
    if needed <= free:
        return ""
    place = "GPU" if subject.device.type == "cuda" else "machine"
    return (
        f"this {place} is too small: {size_said(needed)} more are needed, {size_said(free)} are free; take a smaller "
        "--batch-tokens, --dtype bfloat16, --quantize, or another machine"
    )


def row_bytes(subject: Subject, job: Job, sizes: Sizes) -> list[int]:
    """Bytes of each shard: one row of float32 an example, or of float64 and of counts a fold, where it sums."""
    summed = hasattr(job.module, "SUMS")
    return [(2 if summed else b) * _numbers(subject, job, p) * 4 for b, p in sizes]


def size_said(count: int) -> str:
    """ "1.2 GB", "340 MB"."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _own(subject: Subject, job: Job, batch: int, positions: int) -> int:
    return job.module.memory(subject, batch, positions, job.options) if hasattr(job.module, "memory") else 0


def _numbers(subject: Subject, job: Job, positions: int) -> int:
    """Numbers a row, 0 where an analysis does not say."""
    size = getattr(job.module, "row_size", None)
    return 0 if size is None else size(subject, positions, job.options)
