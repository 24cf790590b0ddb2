"""The end of a run: shards to rows, rows to tables, and only then a record that says complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from ...data.errors import NothingToMeasure
from ...data.example import Example
from . import store
from .job import Job
from .judged import said_of
from .results import Rows, condition_of, merge
from .sums import FoldSums
from .tables import tables_of

LEADING = ("subject", "task", "analysis")


def finish(job: Job, examples: Mapping[str, Example]) -> None:
    """Merge the shards, make the tables, and only then say that the run is complete."""
    tables = make_tables(job, examples)
    for name, table in tables.items():
        store.write_table(job.directory / "tables" / f"{name}.parquet", table)
    job.record |= {"status": "complete", "finished": store.now(), "tables": sorted(tables)}
    job.record |= {"nothing": job.nothing} if job.nothing else {}
    store.write_record(job.directory, job.record)


def make_tables(job: Job, examples: Mapping[str, Example]) -> dict[str, pd.DataFrame]:
    """All tables of a job whose shards are there, claims and findings included, with the leading columns."""
    rows = read_run(job, examples)
    try:
        tables = tables_of(job.module, rows, job.how)
        tables |= said_of(job.module, tables, job.record["conditions"])
    except NothingToMeasure as nothing:
        tables, job.nothing = nothing.tables, str(nothing)
    first = {
        "subject": job.record["subject"]["name"],
        "task": job.record["task"]["name"],
        "analysis": job.name,
    }
    for table in tables.values():
        for at, column in enumerate(LEADING):
            table.insert(at, column, first[column])
    return tables


def read_run(job: Job, examples: Mapping[str, Example]) -> Rows:
    """All rows of a finished job, checked against its key and plan."""
    plan, fold_sums = job.plan, FoldSums()
    saved = (
        (shard, condition_of(shard.bos), store.read_rows(job.shard_path(i), job.record["key"], shard.ids))
        for i, shard in enumerate(plan)
    )
    conditions = [condition_of(shard.bos) for shard in plan for _ in shard.ids]
    rows = merge(fold_sums.without_sums(saved), conditions, [examples[i] for shard in plan for i in shard.ids])
    of_weights = store.read_rows(job.weights_path, job.record["key"], ()) if job.weights_path.exists() else {}
    sums, counts = fold_sums.stacked()
    return replace(
        rows,
        weights={name: value.numpy() for name, value in of_weights.items()},
        tokenizer=job.tokenizer,
        folds=fold_sums.folds(),
        sums=sums,
        counts=counts,
    )
