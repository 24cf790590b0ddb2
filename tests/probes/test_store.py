"""Files that are whole or absent: whose errors are whose, whose temporaries are whose, what can name a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import InterventionError, SubjectError, UserError
from crosslens.probes.runs import store
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny


def test_errors_inside_a_lock_keep_their_meaning(tmp_path):
    for error in (ConnectionError("the hub is away"), OSError(5, "Input/output error"), ValueError("a bug")):
        with pytest.raises(type(error)) as raised, store.locked(tmp_path / "run"):
            raise error
        assert raised.value is error
    with store.locked(tmp_path / "run"):
        pass  # and the lock is free again


def test_an_analysis_own_error_is_not_the_disks(tmp_path):
    def lost(layer, batch, how):
        raise FileNotFoundError(2, "No such file", "a weight on disk")

    broken: Any = SimpleNamespace(**{**vars(lenses), "observe": lost})
    with pytest.raises(FileNotFoundError, match="a weight on disk"):
        run(tiny.subject(), tiny.task(), {"lenses": (broken, lenses.Options())}, Settings(limit=4, out=tmp_path))


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"), store.locked(tmp_path / "file" / "run"):
        pass


def test_files_are_flushed_through_a_writable_handle(tmp_path, monkeypatch):
    def flush(handle):
        os.write(handle, b"")  # refused by a handle for reading, as Windows refuses to flush it

    monkeypatch.setattr(store.os, "fsync", flush)
    store.write_json(tmp_path / "a.json", [1])
    assert store.read_json(tmp_path / "a.json") == [1]


def test_what_another_worker_writes_is_left_alone(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        names = {
            "killed": f".a.json.{store._host()}.{ended.pid}.tmp",
            "at work": f".b.json.{store._host()}.{alive.pid}.tmp",
            "elsewhere": f".c.json.another-machine.{ended.pid}.tmp",
            "long ago": f".d.json.another-machine.{ended.pid}.tmp",
        }
        paths = {what: tmp_path / "rows" / name for what, name in names.items()}
        (tmp_path / "rows").mkdir()
        for path in paths.values():
            path.write_text("half")
        os.utime(paths["long ago"], (time.time() - 200_000,) * 2)
        with store.locked(tmp_path):
            left = {what for what, path in paths.items() if path.exists()}
        alive.kill()
    assert left == {"at work", "elsewhere"}


def test_an_object_cannot_name_a_run(tmp_path):
    assert store.key_of({"a": (1, 2)}) == store.key_of({"a": [1, 2]})
    assert store.key_of({"a": tmp_path}) == store.key_of({"a": str(tmp_path)})
    with pytest.raises(UserError, match="cannot name a run"):
        store.key_of({"task": {"options": {"make": object()}}})


@pytest.mark.parametrize(
    ("text", "safe"), [("owner/name", "owner-name"), ("/a/b c", "a-b-c"), ("..", ""), ("é.1", "é.1")]
)
def test_safe_names(text, safe):
    assert store.safe_name(text) == safe
    assert store.safe_name("x" * 200 + "end", 5) == "xxend"
    assert store.safe_name("a+b=c", also="+=") == "a+b=c"


@pytest.mark.parametrize("kind", [SubjectError, InterventionError])
def test_what_a_model_refuses_is_a_users_error(kind):
    assert issubclass(kind, UserError)


def test_a_record_that_appears_before_the_lock_is_read(tmp_path, monkeypatch):
    """Two processes start at once: the one that waited finds the other's finished run and repeats nothing."""
    analyses = {"lenses": (lenses, lenses.Options())}
    settings = Settings(limit=4, out=tmp_path)
    locked, forwards = store.locked, []

    def after_another(directory):
        monkeypatch.setattr(store, "locked", locked)
        run(tiny.subject(), tiny.task(), analyses, settings)
        return locked(directory)

    monkeypatch.setattr(store, "locked", after_another)
    subject = tiny.subject()
    subject.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    (directory,) = run(subject, tiny.task(), analyses, settings)
    record = store.read_record(directory)
    assert record is not None
    assert record["status"] == "complete"
    assert not forwards
