"""What the cache holds is listed with size, age and owner; what a finished run was made with stays, and is named."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from crosslens import cached, cli
from crosslens.probes.runs import lens_store, store
from crosslens.probes.runs.activations import home as activations_home
from crosslens.probes.runs.kept import ACTIVATIONS, GGUF, LENS, Kept, kept

from ..helpers import tiny

OLD = 40 * 86400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Activations, a learned lens that a finished run names, one that none does, and a converted file; all old."""
    root = tmp_path / "cache"
    monkeypatch.setenv("CROSSLENS_CACHE", str(root))
    subject = tiny.subject()
    cached(subject, tiny.task(), ["resid_pre"], limit=2)
    for name in ("tiny.used", "tiny.unused"):
        record = {"key": name, "name": name, "subject": lens_store.identity(subject), "corpus": {"name": "words"}}
        lens_store.save(lens_store.home() / name, {"A": torch.zeros(1000)}, record)
    gguf = root / "gguf-some-model-v2-123-456"
    gguf.mkdir()
    (gguf / "config.json").write_text("{}")
    run = {"status": "complete", "fitted": {"lens": "tiny.used"}, "subject": {"name": "another"}}
    store.write_record(tmp_path / "out" / "runs" / "learned_lenses.tiny", run)
    for directory in [gguf, *lens_store.home().iterdir(), *activations_home().glob("runs/*")]:
        then = directory.stat().st_mtime - OLD
        os.utime(directory, (then, then))
    return SimpleNamespace(root=root, out=tmp_path / "out", gguf=gguf)


def test_all_kinds_are_listed_with_their_owner(cache, capsys):
    assert [(one.kind, one.of) for one in kept()] == [
        (ACTIVATIONS, "tiny-llama on words"),
        (LENS, "tiny-llama on words"),
        (LENS, "tiny-llama on words"),
        (GGUF, "some-model-v2"),
    ]
    cli.main(["cache", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(" MB " in line and " h  " in line for line in lines)
    assert "gguf-some-model-v2-123-456" in lines[-1]


def test_what_a_finished_run_names_stays_and_is_said(cache, capsys):
    prune = ["cache", "prune", "--out", str(cache.out)]
    cli.main(prune)
    said = capsys.readouterr().out
    assert "tiny.used  stays: 1 finished runs name it, learned_lenses.tiny first; --named deletes it too" in said
    assert [one.directory.name for one in kept()] == ["tiny.used"]
    cli.main([*prune, "--named"])
    assert "tiny.used  deleted: 1 finished runs name it" in capsys.readouterr().out
    assert not kept()


def test_a_converted_file_is_named_by_its_model(cache):
    one = Kept(GGUF, cache.gguf, "some-model-v2")
    assert one.is_named_in({"subject": {"name": "some-model-v2"}})
    assert not one.is_named_in({"subject": {"name": "other"}})


def test_what_is_new_stays(cache, capsys):
    for one in kept():
        os.utime(one.directory)
    cli.main(["cache", "prune", "--out", str(cache.out)])
    assert not capsys.readouterr().out
    assert len(kept()) == 4


def test_half_made_and_broken_ones_are_named_so(cache):
    (lens_store.home() / "begun").mkdir()
    (lens_store.home() / "tiny.unused" / "record.json").write_text("{")
    assert {"unfinished", "unreadable"} <= {one.of for one in kept()}
