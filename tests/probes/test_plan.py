"""`--plan` says what a run will cost, is near the truth, and does nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from crosslens import cli
from crosslens.analyses.attention import sinks
from crosslens.analyses.lenses import lenses
from crosslens.probes.runs import plan
from crosslens.probes.runs.preview import preview
from crosslens.probes.runs.run import Settings, run

from ..helpers import makers, tiny
from ..helpers.families import build

ANALYSES = {
    "sinks": (sinks, sinks.Options(dimensions=(3, 5), tau=1.5)),
    "lenses": (lenses, lenses.Options()),
}


def test_nothing_is_run_or_written(tmp_path):
    subject = tiny.subject()
    subject.model.forward = lambda *args, **kwargs: pytest.fail("a forward")
    lines = preview(subject, tiny.task(), ANALYSES, Settings(limit=10, size=3, bos=(True, False), out=tmp_path))
    assert not list(tmp_path.iterdir())
    assert "10 examples in 5 groups, BOS and no BOS" in lines[1]
    assert sum("8 of 8 forwards" in line for line in lines) == 2
    assert "about" in lines[2]


def test_what_is_done_besides_the_shared_forward_is_said(tmp_path):
    analysis = makers.analysis(observe=None, measure=None)
    chosen = {"a_name_of_many_letters": (analysis, analysis.Options()), "sinks": ANALYSES["sinks"]}
    lines = preview(tiny.subject(), tiny.task(), chosen, Settings(limit=4, out=tmp_path))
    (told,) = (line for line in lines if line.startswith("a_name_of_many_letters "))
    assert "passes or sweeps of its own" in told
    starts = {line[: len("a_name_of_many_letters ")][-1] for line in lines}
    assert starts == {" "}, "one column"


@pytest.mark.parametrize("name", ANALYSES)
def test_bytes_are_near_the_truth(tmp_path, name):
    chosen, settings = {name: ANALYSES[name]}, Settings(limit=200, out=tmp_path)
    promised = preview(tiny.subject(), tiny.task(), chosen, settings)
    (directory,) = run(tiny.subject(), tiny.task(), chosen, settings)
    (found,) = re.findall(r"about ([\d.]+) MB, then", "\n".join(promised))
    actual = sum(path.stat().st_size for path in (directory / "rows").iterdir()) / 1e6
    assert float(found) == pytest.approx(actual, rel=0.3, abs=0.06)
    assert "complete, nothing to do" in preview(tiny.subject(), tiny.task(), chosen, settings)[-1]


def test_memory_grows_with_the_batch():
    subject = tiny.subject()
    sizes = [plan.activation_bytes(subject, batch, positions) for batch, positions in ((1, 8), (2, 8), (2, 16))]
    assert sizes == sorted(set(sizes))


def test_from_the_command_line(tmp_path, capsys):
    model: Path = tmp_path / "model"
    build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    words = ["--task", "passages:tokens=24", "--subject", str(model), "--out", str(tmp_path / "out"), "--limit", "4"]
    cli.main(["run", "sinks", *words, "--plan"])
    assert "files of rows" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_check_writes_a_page(tmp_path, capsys):
    model: Path = tmp_path / "model"
    build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    cli.main(["check", str(model), "--out", str(tmp_path / "out")])
    (page,) = (tmp_path / "out").glob("check-*.html")
    assert capsys.readouterr().out.split()[-1] == str(page)
    text = page.read_text()
    for words in ("parts sum to the residual", "layer 2, padded on the left", "an edit acts in its own layer"):
        assert words in text
    assert not re.search(r"(src|href)=.?http", text)
