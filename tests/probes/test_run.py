"""A run gives the same tables whatever the batching, the padding, the company or the number of kills."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.analyses.attention import sinks
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.data.example import Segment
from crosslens.probes.runs import store
from crosslens.probes.runs.run import Settings, run
from safetensors.torch import load_file, save_file

from ..helpers import tiny

# The tiny model has no massive dimension: name some, so that φ is computed at all.
SINKS = sinks.Options(dimensions=(3, 5), tau=1.5)
ANALYSES = {"sinks": (sinks, SINKS), "lenses": (lenses, lenses.Options())}


def go(out: Path, analyses=None, **settings):
    settings = {"limit": 10, "bos": (True, False), "out": out} | settings
    return run(tiny.subject(), tiny.task(), analyses or ANALYSES, Settings(**settings))


def tables(directory: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in sorted((directory / "tables").glob("*.parquet"))}


def assert_same(found: list[Path], expected: list[Path], rtol: float = 1e-4):
    for a, b in zip(found, expected, strict=True):
        for name, table in tables(a).items():
            if name not in ("claims", "findings"):
                pd.testing.assert_frame_equal(table, tables(b)[name], rtol=rtol, atol=1e-6)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return go(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_batches_and_padding_change_nothing(reference, tmp_path, size, padding):
    assert_same(go(tmp_path, size=size, padding=padding), reference)


def test_analyses_alone_equal_together(reference, tmp_path):
    alone = [go(tmp_path, {name: pair})[0] for name, pair in ANALYSES.items()]
    assert_same(alone, reference, rtol=0)


def test_one_forward_serves_all_analyses(tmp_path):
    subject = tiny.subject()
    count = 0

    def forward(module, args, kwargs):
        nonlocal count
        count += 1

    subject.model.register_forward_pre_hook(forward, with_kwargs=True)
    settings = Settings(limit=10, out=tmp_path, size=5)
    run(subject, tiny.task(), ANALYSES, settings)
    assert count == 2
    run(subject, tiny.task(), ANALYSES, settings)
    assert count == 2, "a finished run is not repeated"


def test_columns_come_in_order(reference):
    for directory in reference:
        for name, table in tables(directory).items():
            shared = [
                c for c in table.columns if c in ("subject", "task", "analysis", "condition", "value", "n", "unit")
            ]
            assert shared == sorted(shared, key=lambda c: list(table.columns).index(c))
            assert list(table.columns[:3]) == ["subject", "task", "analysis"], name
            assert isinstance(table.index, pd.RangeIndex)


def test_record_says_what_was_done(reference):
    record = json.loads((reference[0] / "record.json").read_text())
    assert record["status"] == "complete"
    assert record["task"]["n"] == 10
    assert record["task"]["n_groups"] == 5
    assert record["conditions"] == ["BOS", "no BOS"]
    assert record["forwards"] == len(record["plan"]["shards"])


def test_key_follows_the_weights(reference, tmp_path):
    other = run(tiny.subject(seed=1), tiny.task(), ANALYSES, Settings(limit=10, bos=(True, False), out=tmp_path))
    assert {d.name for d in other}.isdisjoint({d.name for d in reference})


# --- nothing lost, nothing silently reused

# One process imports everything once and forks a child for every kill; a child dies at its n-th rename.
KILLER = """
import os, sys, signal
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.probes.test_run import go

def child(out, writes):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    replace = os.replace
    def counted(a, b):
        nonlocal writes
        writes -= 1
        if writes < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(a, b)
    os.replace = counted
    go(out, size=5, bos=(True,))
    os._exit(0)

base = Path({base!r})
assert child(base / "whole", 10**6) == 0
writes = 0
while True:
    out = base / f"killed-{{writes}}"
    code = child(out, writes)
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
    assert child(out, 10**6) == 0, writes
    writes += 1
print(writes)
"""


def test_killed_at_every_write_point_and_resumed(tmp_path):
    code = KILLER.format(root=str(Path(__file__).parents[2]), base=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    points = int(done.stdout.split()[-1])
    whole = sorted((tmp_path / "whole" / "runs").iterdir())
    # two records and one for each end, two shards each, the tables
    assert points >= 4 + sum(len(list(d.glob("rows/*"))) + len(list(d.glob("tables/*"))) for d in whole)
    for writes in range(points):
        found = sorted((tmp_path / f"killed-{writes}" / "runs").iterdir())
        assert [d.name for d in found] == [d.name for d in whole]
        for a, b in zip(found, whole, strict=True):
            for path in (b / "tables").glob("*.parquet"):
                assert (a / "tables" / path.name).read_bytes() == path.read_bytes(), (writes, path.name)


def unfinished(tmp_path: Path) -> Path:
    """A run directory that lost its tables and still has to merge its shards."""
    (directory,) = go(tmp_path, {"lenses": ANALYSES["lenses"]}, size=4)
    record = json.loads((directory / "record.json").read_text())
    record["status"] = "running"
    from crosslens.probes.runs.store import write_record

    write_record(directory, record)
    return directory


def test_truncated_shard_is_named(tmp_path):
    shard = unfinished(tmp_path) / "rows" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"00001\.safetensors is broken"):
        go(tmp_path, {"lenses": ANALYSES["lenses"]}, size=4)


def test_shard_of_another_run_is_refused(tmp_path):
    shard = unfinished(tmp_path) / "rows" / "00001.safetensors"
    save_file(load_file(shard), shard, {"key": "other", "ids": "[]"})
    with pytest.raises(UserError, match="belongs to another run"):
        go(tmp_path, {"lenses": ANALYSES["lenses"]}, size=4)


def test_edited_record_is_refused(tmp_path):
    directory = unfinished(tmp_path)
    text = (directory / "record.json").read_text()
    (directory / "record.json").write_text(text.replace('"n": 10', '"n": 11'))
    with pytest.raises(UserError, match="was edited"):
        go(tmp_path, {"lenses": ANALYSES["lenses"]}, size=4)


def test_two_runs_at_once(tmp_path):
    from crosslens.probes.runs.store import locked

    directory = unfinished(tmp_path)
    with locked(directory), pytest.raises(UserError, match="another run is at work"):
        go(tmp_path, {"lenses": ANALYSES["lenses"]}, size=4)


def test_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    import errno

    from crosslens.probes.runs import store

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(UserError, match="no space left"):
        go(tmp_path)
    monkeypatch.undo()
    assert all((d / "record.json").exists() for d in go(tmp_path))


def test_an_answer_of_two_tokens_is_read_where_it_differs_from_the_wrong_one(tmp_path):
    """The rows are those of the first tokens alone, or of a prompt that ends with what both share; the page says it."""
    from dataclasses import replace

    def rows_with(answer, wrong, end, out):
        task = tiny.task()
        inner = task.module.examples

        def examples(**asked):
            made = inner(**asked)
            longer = [(*e.segments, Segment("answer", end)) if end else e.segments for e in made]
            return [replace(e, answer=answer, wrong=(wrong,), segments=s) for e, s in zip(made, longer, strict=True)]

        task.module.examples = examples
        (directory,) = run(tiny.subject(), task, {"lenses": ANALYSES["lenses"]}, Settings(out=tmp_path / out))
        return tables(directory)["accuracy"]["value"].tolist(), store.read_record(directory)["notes"]

    first, plain = rows_with(" w1", " w3", "", "one")
    assert rows_with(" w1 w2", " w3 w4", "", "two")[0] == first
    assert not any("several tokens" in note for note in plain)
    behind, _ = rows_with(" w1", " w3", " w2", "behind")
    shared, notes = rows_with(" w2 w1", " w2 w3", "", "shared")
    assert shared == behind != first
    assert any("10 of 10 answers are several tokens" in n and "in 10 what they share" in n for n in notes)


def test_rows_are_per_example(reference):
    """Means of the tables come from per-example rows: completeness of the accuracy table."""
    accuracy = tables(reference[1])["accuracy"]
    parts = accuracy[(accuracy["measure"] == "top1") & (accuracy["control"] == "") & (accuracy["condition"] == "BOS")]
    whole = parts[parts["subset"] == "all"].iloc[0]
    rest = parts[parts["subset"] != "all"]
    assert rest["n"].sum() == whole["n"]
    assert np.isclose((rest["value"] * rest["n"]).sum() / rest["n"].sum(), whole["value"])


def noting_threads(used, finish, *arguments):
    used.append(torch.get_num_threads())
    return finish(*arguments)


def test_threads_of_the_first_start_are_kept(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        directory = unfinished(tmp_path)
        torch.set_num_threads(2)
        used = []
        monkeypatch.setattr(lenses, "measure", partial(noting_threads, used, lenses.measure))
        (directory / "rows" / "00000.safetensors").unlink()
        go(tmp_path, {"lenses": ANALYSES["lenses"]}, size=4)
        assert used == [1], "the numbers' bits depend on threads"
        assert torch.get_num_threads() == 2, "what the caller set is as it was"
        assert json.loads((directory / "record.json").read_text())["status"] == "complete"
    finally:
        torch.set_num_threads(before)
