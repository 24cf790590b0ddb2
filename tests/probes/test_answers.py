"""The model's own answers survive a kill, batch by batch, and are generated in batches of the run's size."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crosslens.analyses.lenses import lenses
from crosslens.probes.runs import answers
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny

# A process that dies when the answers of so many batches are kept.
KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from crosslens.probes.runs import store
from tests.probes.test_answers import go

write, left = store.write_json, {batches}
def counted(path, content):
    global left
    write(path, content)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
store.write_json = counted
go({out!r})
"""


def go(out, **settings):
    settings = {"limit": 10, "answer_tokens": 3, "size": 3, "out": Path(out)} | settings
    (directory,) = run(tiny.subject(), tiny.task(), {"lenses": (lenses, lenses.Options())}, Settings(**settings))
    return directory


@pytest.fixture
def generated(monkeypatch):
    """The ids of every batch that is generated."""
    batches, plain = [], answers.generate_answers

    def noted(subject, batch, tokens):
        batches.append(batch.example_ids)
        return plain(subject, batch, tokens)

    monkeypatch.setattr(answers, "generate_answers", noted)
    return batches


def test_a_killed_run_keeps_the_answers_that_it_has(tmp_path, generated):
    code = KILLED.format(root=str(Path(__file__).parents[2]), batches=2, out=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    whole = go(tmp_path / "whole")
    every = list(generated)
    (kept,) = (tmp_path / "killed").rglob("answers.json")
    assert sorted(json.loads(kept.read_text())) == sorted(every[0] + every[1])
    generated.clear()
    resumed = go(tmp_path / "killed")
    assert generated == every[2:], "what was kept is not generated again"
    for name in ("answers.json", "tables/lens.parquet"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_answers_are_generated_in_batches_of_the_run(tmp_path, generated):
    go(tmp_path / "a", size=1)
    assert [len(batch) for batch in generated] == [1] * 10
    generated.clear()
    go(tmp_path / "b", size=None, tokens=40)
    assert max(len(batch) for batch in generated) < 10
    assert sum(len(batch) for batch in generated) == 10


def test_a_second_analysis_takes_the_first_ones_answers(tmp_path, generated):
    go(tmp_path)
    generated.clear()
    analyses = {"lenses": (lenses, lenses.Options()), "again": (lenses, lenses.Options())}
    settings = Settings(limit=10, answer_tokens=3, size=3, out=tmp_path)
    first, second = run(tiny.subject(), tiny.task(), analyses, settings)
    assert not generated
    assert (second / "answers.json").read_bytes() == (first / "answers.json").read_bytes()
