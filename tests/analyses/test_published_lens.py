"""Published tuned lenses are read as their code reads them; ours are written so; what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crosslens import capture, load_tuned_lens, save_tuned_lens
from crosslens.analyses.lenses import _learning, learned_lenses
from crosslens.analyses.lenses._learning import learn, open_lens
from crosslens.analyses.lenses._lens_logits import state_logits
from crosslens.data.errors import UserError
from crosslens.probes.runs import lens_store
from safetensors.torch import load_file, save_file

from ..helpers import tiny
from .test_learned_lenses import FEW, analyse, corpus


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_learning, "open_task", lambda spec: corpus())
    monkeypatch.setattr("crosslens.analyses.lenses._published_lens.open_task", lambda spec: corpus())
    return tmp_path


def published(directory, subject, **changed):
    """A lens as tuned-lens writes it (Linear layers' state_dict), converted to safetensors."""
    directory.mkdir()
    torch.manual_seed(3)
    linears = torch.nn.ModuleList([torch.nn.Linear(subject.d_model, subject.d_model) for _ in range(subject.n_layers)])
    save_file(linears.state_dict(), directory / "params.safetensors")
    told = {"base_model_name_or_path": "some/model", "d_model": subject.d_model, "bias": True}
    told |= {"num_hidden_layers": subject.n_layers, "base_model_revision": None, "lens_type": "linear_tuned_lens"}
    (directory / "config.json").write_text(json.dumps(told | changed))
    return linears


@torch.no_grad()
def test_a_state_reads_as_in_their_code(home):
    """unembed(h + linear(h)), `TunedLens.forward`."""
    subject = tiny.subject("gpt2")
    linears = published(home / "theirs", subject)
    name = load_tuned_lens(subject, home / "theirs", passages=4)
    kept = capture(subject, subject.batch(["w1 w2 w3 w4"]), ["resid_pre"])
    for state, linear in enumerate(linears):
        h = kept[f"blocks.{state}.hook_resid_pre"][0]
        expected = subject.unembed(subject.norm(h + linear(h)))
        torch.testing.assert_close(state_logits(subject, "tuned lens", state, h, name), expected, atol=1e-4, rtol=1e-4)
    assert load_tuned_lens(subject, home / "theirs", passages=4) == name


def test_ours_comes_back_as_it_went(home):
    subject = tiny.subject()
    name = learn(subject, FEW)
    save_tuned_lens(subject, name, home / "out")
    config = json.loads((home / "out" / "config.json").read_text())
    weight = subject.model.get_output_embeddings().weight.detach().float().numpy()
    assert config["unembed_hash"] == hashlib.sha256(str.encode(np.array_str(weight, precision=1))).hexdigest()
    assert {(k.split(".")[1]) for k in load_file(home / "out" / "params.safetensors")} == {"weight", "bias"}
    again = load_tuned_lens(subject, home / "out", passages=4)
    for state in range(subject.n_layers):
        before, after = (open_lens(subject, of, "tuned", state) for of in (name, again))
        assert all(torch.equal(before[part], after[part]) for part in ("A", "b"))
    with pytest.raises(UserError, match=r"has a config\.json already: name a new directory"):
        save_tuned_lens(subject, name, home / "out")
    with pytest.raises(UserError, match="has no translator for every state"):
        save_tuned_lens(subject, learn(subject, replace(FEW, states="none")), home / "none")


def test_a_run_takes_the_directory_itself(home):
    subject = tiny.subject()
    published(home / "theirs", subject)
    options = learned_lenses.Options(**vars(FEW), lens=str(home / "theirs"), measured="3")
    directory, tables = analyse(subject, home, options)
    assert set(tables["kl"]["lens"]) == {"logit lens", "tuned lens", "constant"}
    assert "heads" not in tables
    record = json.loads((directory / "record.json").read_text())
    assert record["fitted"]["published"] == "some/model"
    said = learned_lenses.methods(options, learned_lenses.Learned(**record["fitted"]), {})
    assert "published by others (of some/model)" in said
    assert "so the measured text may be among it" in said
    assert str(home) not in said


def test_another_models_lens_is_refused_in_one_line(home):
    subject = tiny.subject()
    cases = {
        r"has num_hidden_layers 7, tiny-llama has 3: it is another model's": {"num_hidden_layers": 7},
        r"has d_model 5, tiny-llama has 32": {"d_model": 5},
        r"is a lens of the type other: linear_tuned_lens can be read": {"lens_type": "other"},
        r"with another unembedding than tiny-llama's \(of some/model\)": {"unembed_hash": "0" * 64},
    }
    for i, (message, changed) in enumerate(cases.items()):
        published(home / str(i), subject, **changed)
        with pytest.raises(UserError, match=message):
            load_tuned_lens(subject, home / str(i))
    save_file({"0.weight": torch.zeros(2, 2)}, home / "0" / "params.safetensors")
    (home / "0" / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "d_model": 32}))
    with pytest.raises(UserError, match=r"0\.weight is \(2, 2\) and should be \(32, 32\): the file is broken"):
        load_tuned_lens(subject, home / "0")
    assert not lens_store.home().exists()


def test_a_pickle_is_never_read(home):
    subject = tiny.subject()
    published(home / "theirs", subject)
    (home / "theirs" / "params.safetensors").rename(home / "theirs" / "params.pt")
    with pytest.raises(UserError, match=r"weights as params\.pt alone, and pickles are never read: write"):
        load_tuned_lens(subject, home / "theirs")
    (home / "theirs" / "params.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as a tuned lens"):
        load_tuned_lens(subject, home / "theirs")
