"""Nothing is opened or proved twice; nothing is taken for known that may have changed."""

from __future__ import annotations

import os

import pytest
from crosslens import cli
from crosslens.cli.model import ModelFlags
from crosslens.cli.recipe_runs import together
from crosslens.probes.check import subject_checks
from crosslens.probes.model.subject import Subject
from crosslens.probes.runs.remembered import prove_once

from .helpers import tiny
from .helpers.families import build


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A tiny model as a Hugging Face directory, and a cache of its own."""
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    build("llama").save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path


@pytest.fixture
def proved(monkeypatch):
    """The subjects that were proved."""
    names = []
    plain = subject_checks.check
    monkeypatch.setattr(subject_checks, "check", lambda subject: (names.append(subject.name), plain(subject))[1])
    return names


def test_a_finished_recipe_on_a_directory_opens_nothing(place, monkeypatch, proved):
    opened = []
    plain = ModelFlags.open
    monkeypatch.setattr(ModelFlags, "open", lambda self, name: (opened.append(name), plain(self, name))[1])
    where = str(place / "tiny")
    line = ["recipe", "attention_sinks", "--subject", where, "--task", "passages:tokens=24", "--limit", "8"]
    cli.main([*line, "--out", str(place / "out")])
    assert opened == [where]
    cli.main([*line, "--out", str(place / "out")])
    assert opened == [where], "its files are as they were"
    os.utime(place / "tiny" / "config.json")
    cli.main([*line, "--out", str(place / "out")])
    assert opened == [where, where], "a file was touched"
    assert len(proved) == 1, "the same subject, proved once"


def test_another_precision_is_another_subject(place, proved):
    where = str(place / "tiny")
    line = ["recipe", "attention_sinks", "--subject", where, "--task", "passages:tokens=24", "--limit", "8"]
    for dtype in ("float32", "bfloat16", "float32"):
        cli.main([*line, "--dtype", dtype, "--out", str(place / "out")])
    assert len(list((place / "out" / "runs").iterdir())) == 2
    assert len(proved) == 2


def test_changed_weights_are_proved_again(place, proved):
    def subject():
        return Subject(build("llama"), tiny.tokenizer())

    first = subject()
    prove_once(first)
    prove_once(subject())
    assert len(proved) == 1
    other = subject()
    other.model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    prove_once(Subject(other.model, tiny.tokenizer()))
    assert len(proved) == 2


def test_analyses_of_the_same_examples_ride_together():
    from crosslens.cli.recipe_runs import known_recipes, runs_of

    runs = runs_of(known_recipes()["full"])
    joined = together(runs)
    assert sorted(name for run in joined for name in run.analyses) == sorted(run.analyses[0] for run in runs)
    assert any(len(run.analyses) > 1 for run in joined)
    for run in joined:
        assert len(set(run.analyses)) == len(run.analyses)
    alone = {(run.analyses[0], run.task, run.limit): getattr(run, run.analyses[0]) for run in runs}
    assert all(getattr(j, a) == alone[a, j.task, j.limit] for j in joined for a in j.analyses)
