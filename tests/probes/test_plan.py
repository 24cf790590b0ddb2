"""`--plan` says what a run will cost, is near the truth, and does nothing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from crosslens import cli, load, record
from crosslens.analyses.attention import sinks
from crosslens.analyses.lenses import learned_lenses, lenses
from crosslens.probes.model import loading
from crosslens.probes.model.checkpoint_files import weight_bytes
from crosslens.probes.runs import costs
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
    sizes = [costs.forward(subject, batch, positions) for batch, positions in ((1, 8), (2, 8), (2, 16))]
    assert sizes == sorted(set(sizes))


def needing(count):
    """A tiny analysis that says that it needs so many bytes."""
    parts: dict[str, Any] = {"memory": lambda subject, batch, positions, options: count}
    parts["measure"] = lambda subject, batch, kept, how: {"x": torch.zeros(len(batch.examples))}
    made = makers.analysis(**parts)
    return {"needy": (made, made.Options())}


def test_what_an_analysis_says_it_needs_is_counted_and_too_much_is_told(tmp_path, capsys):
    settings = Settings(limit=4, out=tmp_path)
    few, many = (preview(tiny.subject(), tiny.task(), needing(n), settings) for n in (5_000_000_000, 10**15))
    assert any("5.0 GB needy" in line for line in few)
    assert any("this machine is too small: 1,000,000.0 GB more are needed" in line for line in many)
    assert not any("too small" in line for line in preview(tiny.subject(), tiny.task(), ANALYSES, settings))
    run(tiny.subject(), tiny.task(), needing(10**15), settings)
    assert "needy: this machine is too small" in capsys.readouterr().err


def test_every_part_grows_with_its_batch_and_the_vocabulary():
    subject = tiny.subject()
    sweeps = [
        lambda b: costs.recording(subject, b, 9, ("z", "mlp_out")),
        lambda b: costs.gradient(subject, b, 9),
        lambda b: costs.variants(subject, 5, b, 3, 9),
        lambda b: costs.logits(subject, b, 1),
        lambda b: costs.read_logits(subject, 5, b),
        lambda b: costs.keys_and_values(subject, b, 9),
    ]
    assert all(0 < part(2) < part(4) for part in sweeps)
    assert costs.variants(subject, 10**9, 2, 3, 9) <= costs.BUDGET, "sweeps go chunk by chunk"
    assert costs.logits(subject, 3, 1) == 4 * 3 * costs.vocabulary(subject)


def test_a_recording_takes_what_is_said():
    subject = tiny.subject()
    batch = subject.batch([f"w{i} w2 w3 w4 w5 w6" for i in range(8)])
    base = record(subject, batch, ("z", "mlp_out"))
    held = {t.data_ptr(): t.nbytes for layer in base.layers for t in (layer.resid_pre, layer.key, layer.value)}
    held |= {t.data_ptr(): t.nbytes for layer in base.layers for t in layer.sites.values()}
    assert costs.recording(subject, *batch.mask.shape, ("z", "mlp_out")) == pytest.approx(sum(held.values()), rel=0.2)


def test_weights_are_counted_before_they_are_opened(tmp_path, monkeypatch, capsys):
    build("llama").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    opened = load(tmp_path / "model", check=False)
    assert weight_bytes(str(tmp_path / "model"), None, 4) == costs.weights(opened) - sum(
        b.nbytes for b in opened.model.buffers()
    )
    assert weight_bytes(str(tmp_path / "model"), None, 4, 0.5) < weight_bytes(str(tmp_path / "model"), None, 2)
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    monkeypatch.setattr(loading, "_read", lambda *_: pytest.fail("opened"))
    cli.main(["run", "sinks", "--task", "passages", "--subject", str(tmp_path / "model"), "--plan"])
    assert "too small: the weights of" in capsys.readouterr().err


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


def test_what_is_learned_is_counted(tmp_path):
    options = learned_lenses.Options(layers="1")
    subject = tiny.subject()
    size = 4 * (subject.n_layers * subject.d_model * (subject.d_model + 1))
    size += 4 * subject.n_heads * subject.d_head * costs.vocabulary(subject)
    assert learned_lenses.disk(subject, options) == size
    assert not learned_lenses.disk(subject, learned_lenses.Options(lens="one that is there"))
