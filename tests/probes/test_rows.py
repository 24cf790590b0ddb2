"""Rows of shards become one set: what a shard lacks is missing, and meta replaces nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.runs.results import merge
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.makers import analysis


def examples(n: int, **meta: Any) -> list[Example]:
    return [Example(f"e{i}", f"g{i}", (Segment("text", "w1"),), meta=meta) for i in range(n)]


def test_a_name_that_a_shard_lacks_is_missing_in_its_rows():
    shards = [{"clean": torch.ones(1), "flow": torch.ones(1, 2)}, {"clean": torch.zeros(2)}, {"flow": torch.ones(1, 3)}]
    shards[2]["clean"] = torch.ones(1)
    rows = merge(shards, ["BOS"] * 4, examples(4))
    assert rows["clean"].tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(np.isnan(rows["flow"]), [[0, 0, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]])


def test_shards_are_of_these_examples():
    with pytest.raises(ValueError, match="3 rows for 4 examples"):
        merge([{"clean": torch.ones(1)}, {}, {"clean": torch.zeros(2)}], ["BOS"] * 4, examples(4))


def kinds(n=None, seed=0, *, tokenizer):
    """Two kinds of prompts, of which one has a subject."""
    made = tiny.examples(n, seed, tokenizer=tokenizer)
    bare = (Segment("text", "w1 w2 w3"),)
    return [e if e.meta["relation"] == "even" else replace(e, segments=bare) for e in made]


def mark_rows(layer, batch, how):
    """A row for every mark of the batch, NaN for examples without it."""
    there = {name: where.any(1) for name, where in batch.marks.items()}
    norm = layer.resid_pre.norm(dim=-1)
    found = {f"mark|{n}": (norm * w).sum(1).masked_fill(~there[n], torch.nan) for n, w in batch.marks.items()}
    return found | {"first": norm[torch.arange(len(norm)), batch.start]}


def mark_table(rows, how):
    marked = rows["mark|subject"]
    return rows.examples[["id"]].assign(value=marked[:, 1], there=~np.isnan(marked[:, 1]))


MARKS = analysis(observe=mark_rows, TABLES={"marks": (mark_table, ("id", "there"))})


@pytest.mark.parametrize("size", [1, 3])
def test_rows_that_only_some_batches_have(tmp_path, size):
    task = Task("kinds", SimpleNamespace(**{**vars(tiny.task().module), "examples": kinds}), {})
    analyses = {"marks": (MARKS, MARKS.Options())}
    whole, small = (
        pd.read_parquet(run(tiny.subject(), task, analyses, settings)[0] / "tables/marks.parquet")
        for settings in (Settings(out=tmp_path / "a"), Settings(size=size, out=tmp_path / "b"))
    )
    assert whole["there"].tolist() == [False, True] * 5
    pd.testing.assert_frame_equal(small, whole, rtol=1e-4)


@pytest.mark.parametrize("name", ["id", "group", "condition"])
def test_meta_cannot_replace_what_intervals_resample(name):
    frame = merge([{"clean": torch.ones(2)}], ["BOS"] * 2, examples(2, **{name: "same", "kind": 1})).examples
    assert list(frame) == ["id", "group", "condition", "kind"]
    assert frame["id"].tolist() == ["e0", "e1"]
    assert frame["group"].tolist() == ["g0", "g1"]
    assert frame["condition"].tolist() == ["BOS"] * 2
    task = Task("clash", SimpleNamespace(examples=lambda **asked: examples(2, **{name: "same"})), {})
    with pytest.raises(UserError, match=f"meta '{name}'"):
        task.examples(None, 2, 0)
