"""A dozen types through the sweep, in processes of their own; `make families` goes through all of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import __main__ as sweep
from . import judging
from .building import all_types
from .judging import Verdict

EXACT = ("text:gemma3_text", "text:gpt_oss", "text:deepseek_v3", "text:granite", "text:cohere2")
SEES = ("vision:llava", "vision:qwen2_5_vl", "vision:idefics3", "vision:gemma3")
HALF = ("text:llama:bfloat16", "vision:qwen3_vl:bfloat16")
REFUSED = ("text:bert", "text:bart", "text:mamba")
KEPT = Path(sweep.__file__).with_name("verdicts.md")  # of the whole sweep: make families


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """type -> verdict, and the table."""
    out = tmp_path_factory.mktemp("sweep") / "families.md"
    command = [sys.executable, "-m", "crosslens.tests.sweep", "--out", str(out), "--jobs", "1", "--only"]
    subprocess.run([*command, *EXACT, *SEES, *HALF, *REFUSED], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    judged = sweep.read_verdicts(out.with_suffix(".json"))
    return {":".join(filter(None, one)): verdict for one, verdict in judged.items()}, out.read_text("utf-8")


def test_no_traceback_and_nothing_wrong(verdicts):
    found, _ = verdicts
    assert len(found) == len(EXACT + SEES + HALF + REFUSED)
    off = {name: one for name, one in found.items() if one.verdict not in ("exact", "in part", "refused")}
    assert not off


@pytest.mark.parametrize("name", EXACT + SEES + HALF)
def test_what_is_exact_stays_exact(verdicts, name):
    seen = "yes" if name.startswith("vision") else ""
    assert verdicts[0][name] == Verdict("exact", "", "", images=seen, tower=seen)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_out_of_reach_is_refused_in_one_line(verdicts, name):
    found = verdicts[0][name]
    assert found.verdict == "refused"
    assert "cannot be opened" in found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize("name", EXACT + SEES + HALF + REFUSED)
def test_the_kept_table_says_the_same(verdicts, name):
    (line,) = (line for line in verdicts[1].splitlines() if line.startswith(_cells(name)))
    assert line in KEPT.read_text("utf-8").splitlines()


def test_the_table_has_a_line_a_type_and_counts(verdicts):
    found, table = verdicts
    assert "11 exact, 3 refused" in table
    assert all(_cells(name) in table for name in found)


def _cells(name):
    kind, *rest = name.split(":")
    return f"| {' '.join(rest)} | {kind} |"


def test_a_killed_sweep_goes_on(tmp_path, monkeypatch):
    """What is judged already is not judged again."""
    judged = []

    def verdict_of(types, at_once):
        judged.extend(types)
        return iter([(one, Verdict("refused", "a | b")) for one in types])

    monkeypatch.setattr(sweep, "judged", verdict_of)
    for asked in ("llama", "gemma2"):
        monkeypatch.setattr(sys, "argv", ["sweep", "--out", str(tmp_path / "t.md"), "--only", "llama", asked])
        sweep.main()
    names = [name for _, name, _ in judged]
    assert "gemma2" in names
    assert len(judged) == len(set(judged))
    assert "a \\| b" in (tmp_path / "t.md").read_text("utf-8")


PLANTED = {
    "z": ("capture", lambda right: lambda *given: {name: 1.01 * tensor for name, tensor in right(*given).items()}),
    "knockout": ("knockout_sweep", lambda right: lambda *given, **more: _shifted(right(*given, **more))),
    "patch": ("patch_sweep", lambda right: lambda *given, **more: _shifted(right(*given, **more))),
}


def _shifted(swept):
    """The effects of each layer told of the next."""
    return dataclasses.replace(swept, values=swept.values.roll(1, 0))


@pytest.mark.parametrize("instrument", PLANTED)
def test_an_instrument_that_is_off_is_wrong(monkeypatch, instrument):
    name, plant = PLANTED[instrument]
    monkeypatch.setattr(judging, name, plant(getattr(judging, name)))
    found = judging.judge(("text", "llama", ""))
    assert found.verdict == "wrong"
    assert f"{instrument} " in found.reason


def test_an_unnamed_exception_is_a_traceback(monkeypatch):
    monkeypatch.setattr(judging.Subject, "check", lambda subject: {}["no such thing"])
    found = judging.judge(("text", "llama", ""))
    assert found == Verdict("traceback", "KeyError: 'no such thing'")


def test_a_tower_that_is_not_proved_is_told_beside_its_decoder():
    """SAM's tower attends by its own code."""
    found = judging.judge(("vision", "got_ocr2", ""))
    assert found[:4] == ("exact", "", "", "yes")
    assert "own code" in found.tower or "layer 0" in found.tower


def test_at_least_twenty_types_are_judged_in_bfloat16():
    assert sum(variant == "bfloat16" for _, _, variant in all_types()) >= 20


def test_every_registered_type_is_there():
    kinds = {(kind, name) for kind, name, _ in all_types()}
    assert len(kinds) >= 280
    assert len(all_types()) > len(kinds)
