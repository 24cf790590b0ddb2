"""Lenses are learned from one forward per passage, resumably, for one model, and measured on what they never saw."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses.common.descent import Descent, chosen_rows, descend
from crosslens.analyses.lenses import (
    _attention_lens,
    _learned_tables,
    _learning,
    _lens_logits,
    _tuned_lens,
    learned_lenses,
)
from crosslens.analyses.lenses._learning import Training, layers_of, learn, open_lens
from crosslens.analyses.lenses.learned_lenses import Options
from crosslens.data.errors import UserError
from crosslens.data.tasks import Task
from crosslens.probes.runs import lens_store
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import verify

from ..helpers import tiny

FEW = Training(passages=6, steps=30, batch=16, tuned_steps=4, tuned_batch=16, tuned_positions="4")


def corpus(seed: int = 7) -> Task:
    """Examples whose ids and groups no other tiny task has."""
    task = tiny.task()
    inner = task.module.examples

    def examples(n=None, seed=0, *, tokenizer):
        return [
            replace(e, id=f"corpus-{e.id}", group=f"corpus-{e.group}") for e in inner(n=n, seed=7, tokenizer=tokenizer)
        ]

    task.module.examples = examples
    return task


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_learning, "open_task", lambda spec: corpus())
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(subject, monkeypatch):
    """The ids that every forward of the model saw."""
    seen = []
    forward = subject.forward

    def count(inputs, **more):
        seen.extend(getattr(inputs, "example_ids", ["?"]))
        return forward(inputs, **more)

    monkeypatch.setattr(subject, "forward", count)
    return seen


def test_one_forward_per_passage_in_all(monkeypatch):
    subject = tiny.subject()
    seen = counted(subject, monkeypatch)
    name = learn(subject, FEW)
    assert sorted(seen) == sorted(e.id for e in corpus().examples(subject.tokenizer, 6, 0))
    assert learn(subject, FEW) == name
    assert len(seen) == 6
    other = learn(subject, replace(FEW, steps=5))  # another training reads the same activations
    assert other != name
    assert len(seen) == 6


def test_layers_states_and_weights(home):
    subject = tiny.subject()
    _, record = lens_store.read(learn(subject, replace(FEW, layers="all")), subject)
    assert _learning.lens_names(record, "attention") == [0, 1, 2]
    assert _learning.lens_names(record, "tuned") == [0, 1, 2]
    assert open_lens(subject, record["name"], "attention", 1)["weight"].shape == (4, 8, 61)
    assert [len(losses) for losses in record["losses"].values()] == [30] * 3 + [4] * 3
    assert all(losses[-1] < losses[0] for what, losses in record["losses"].items() if what.startswith("attention"))
    assert not list((lens_store.home() / record["name"]).glob("part-*"))


def test_the_models_own_weights_are_left_alone():
    subject = tiny.subject()
    before = subject.fingerprint
    learn(subject, FEW)
    fresh = tiny.subject()
    assert fresh.fingerprint == before
    assert torch.equal(fresh.W_U, subject.W_U)
    assert all(p.requires_grad and p.grad is None for p in subject.model.parameters())


@pytest.mark.parametrize("stop", [3, 26, 29])
def test_a_stopped_descent_gives_the_same_bits(tmp_path, stop, monkeypatch):
    z, target = torch.randn(40, 5), torch.randn(40, 3)
    begun = {"w": torch.randn(5, 3)}
    calls = 0

    def loss(weights, rows):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return (z[rows] @ weights["w"] - target[rows]).square().mean()

    descent = Descent(30, 8, 0.05)
    with pytest.raises(KeyboardInterrupt):
        descend(begun, loss, 40, descent, tmp_path / "c")
    assert (tmp_path / "c").exists() == (stop > 25)
    resumed, losses = descend(begun, loss, 40, descent, tmp_path / "c")
    whole, expected = descend(begun, loss, 40, descent, tmp_path / "other")
    assert torch.equal(resumed["w"], whole["w"])
    assert losses == expected
    assert losses[-1] < losses[0]
    assert not (tmp_path / "c").exists()


def test_descent_equals_torchs_adam():
    z, target = torch.randn(40, 5), torch.randn(40, 3)
    begun = {"w": torch.randn(5, 3)}
    descent = Descent(12, 8, 0.05)
    mine, _ = descend(
        begun, lambda w, r: (z[r] @ w["w"] - target[r]).square().mean(), 40, descent, lens_store.home() / "c"
    )
    weight = begun["w"].clone().requires_grad_()
    adam = torch.optim.Adam([weight], lr=1.0)
    for step in range(12):
        rows = chosen_rows(40, step, descent)
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 12)
        adam.zero_grad()
        (z[rows] @ weight - target[rows]).square().mean().backward()
        adam.step()
    torch.testing.assert_close(mine["w"], weight.detach(), atol=1e-6, rtol=1e-5)


def test_every_epoch_reads_every_batch_once():
    rows = torch.cat([chosen_rows(10, step, Descent(6, 3, 1.0)) for step in range(3)])
    assert len(rows.unique()) == 9
    assert not torch.equal(rows, torch.cat([chosen_rows(10, step, Descent(6, 3, 1.0)) for step in range(3, 6)]))


@torch.no_grad()
def test_d_head_form_equals_d_model_form():
    """Per head a map L from d_model: L · W_O in d_head has the same outputs, and every d_head map is such an L."""
    subject = tiny.subject("qwen3")
    z = torch.randn(7, 4, 8)
    W_O = subject.W_O(1).detach()
    written = torch.einsum("nhd,hdm->nhm", z, W_O)  # o = z · W_O, [n, h, d_model]
    L = torch.randn(4, 61, 32)
    slow = torch.einsum("nhm,hvm->nhv", written, L)
    short = {"weight": torch.einsum("hdm,hvm->hdv", W_O, L), "bias": torch.zeros(61)}
    torch.testing.assert_close(_attention_lens.logits(short, z), slow.sum(1), atol=1e-4, rtol=1e-4)
    for head in range(4):
        torch.testing.assert_close(_attention_lens.head_logits(short, z, head), slow[:, head], atol=1e-4, rtol=1e-4)
    any_map = torch.randn(4, 8, 61)
    L = (torch.linalg.pinv(W_O) @ any_map).mT
    slow = torch.einsum("nhm,hvm->nv", written, L)
    fast = _attention_lens.logits({"weight": any_map, "bias": torch.zeros(61)}, z)
    torch.testing.assert_close(fast, slow, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "gemma3_text"])
@torch.no_grad()
def test_start_is_the_direct_effect_at_the_mean_scale(family):
    """At the start the lens reads W_U · (norm with its scale held at the mean)(Σ_h z_h W_O^h), bias included."""
    subject = tiny.subject(family)
    batch = subject.batch(["w1 w2 w3 w4 w5 w6"])
    kept = capture(subject, batch, ["z", "blocks.1.hook_attn_out", "blocks.2.hook_resid_post"])
    z, final = kept["blocks.1.attn.hook_z"][0], kept["blocks.2.hook_resid_post"][0]
    lens = _attention_lens.start(subject, 1, z[-1:], final[-1:])  # one position: the mean scales are its own
    from crosslens.probes.model import anatomy, frozen_norms

    norm = frozen_norms.affine(subject.norm, final)
    bias = anatomy.output_bias(subject.layers[1])
    tail = frozen_norms.attention_tail(subject.layers[1])
    written = kept["blocks.1.hook_attn_out"][0, -1:] - (bias if tail is None and bias is not None else 0)
    expected = (norm.centered(written) * norm.gain / norm.scale(final[-1:]) + norm.bias) @ subject.W_U.T
    torch.testing.assert_close(_attention_lens.logits(lens, z[-1:]), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_ridge_finds_an_affine_map():
    states = torch.randn(500, 6)
    final = states + states @ torch.randn(6, 6) + torch.randn(6)
    found = _tuned_lens.translate(_tuned_lens.ridge(states, final, 1e-9), states)
    torch.testing.assert_close(found, final, atol=1e-4, rtol=1e-4)
    identity = _tuned_lens.ridge(states, final, 1e9)
    torch.testing.assert_close(identity["A"], torch.zeros(6, 6), atol=1e-5, rtol=0)


def analyse(subject, out, options=None, settings=None):
    options = options or Options(**vars(FEW), measured="3")
    settings = settings or Settings(limit=10, out=out)
    (directory,) = run(subject, tiny.task(), {"learned_lenses": (learned_lenses, options)}, settings)
    return directory, {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_last_state_is_the_models_own_output(tmp_path):
    subject = tiny.subject()
    directory, tables = analyse(subject, tmp_path)
    verify(directory, subject, tiny.task(), learned_lenses, say=lambda line: None)
    last = tables["kl"].query("state == 3 and lens != 'constant' and lens != 'Attention Lens'").set_index("measure")
    assert (last.loc["kl", "value"] < 1e-6).all()
    assert (last.loc["top1", "value"] == 1).all()
    assert tables["bias"].query("state == 3")["value"].max() < 1e-6
    assert len(tables["claims"]) == 3
    record = json.loads((directory / "record.json").read_text())
    assert record["fitted"]["layers"] == "0,1,2"


@torch.no_grad()
def test_tables_equal_the_slow_way(tmp_path):
    """Every example alone, every position read, the lenses' own functions."""
    subject = tiny.subject()
    _, tables = analyse(subject, tmp_path, Options(**vars(FEW), measured="last"))
    name = learn(subject, FEW)
    kl = {"logit lens": [], "tuned lens": [], "Attention Lens": []}
    for example in tiny.task().examples(subject.tokenizer, 10, 0):
        kept = capture(subject, subject.batch([example]), ["resid_pre", "z", "blocks.2.hook_resid_post"])
        x, last = kept["blocks.1.hook_resid_pre"][0, -1:], kept["blocks.2.hook_resid_post"][0, -1:]
        logits = {
            "logit lens": subject.unembed(subject.norm(x)),
            "tuned lens": _tuned_lens.logits(subject, open_lens(subject, name, "tuned", 1), x),
            "Attention Lens": _attention_lens.logits(
                open_lens(subject, name, "attention", 0), kept["blocks.0.attn.hook_z"][0, -1:]
            ),
        }
        p = subject.unembed(subject.norm(last)).softmax(-1)
        for lens, found in logits.items():
            kl[lens].append(float((p * (p.log() - found.log_softmax(-1))).sum()))
    rows = tables["kl"].query("measure == 'kl' and state == 1").set_index("lens")["value"]
    for lens, values in kl.items():
        np.testing.assert_allclose(rows[lens], np.mean(values), rtol=1e-3)


@torch.no_grad()
def test_a_word_written_into_one_heads_map_is_said_by_that_head_alone(tmp_path, monkeypatch):
    """And beside it stand the plain words: the head's z through W_O and W_U."""
    subject, raised, head = tiny.subject(), 7, 2
    layer = layers_of(subject.decoder.attending, FEW.layers)[0]

    def opened(*arguments):
        weights = {name: w.clone() for name, w in open_lens(*arguments).items()}
        if arguments[2:] == ("attention", layer):
            signs = subject_z[head].sign()
            weights["weight"][head][:, raised] = 1e3 * signs  # along this prompt's z
        return weights

    example = tiny.task().examples(subject.tokenizer, 1, 0)[0]
    subject_z = capture(subject, subject.batch([example]), ["z"])[f"blocks.{layer}.attn.hook_z"][0, -1]
    monkeypatch.setattr(_lens_logits, "open_lens", opened)
    options = Options(**vars(FEW), measured="3", words=3, shown=1)
    _, tables = analyse(subject, tmp_path, options, Settings(limit=1, out=tmp_path))
    words = tables["head_words"].query("rank == 1").set_index(["lens", "layer", "head"])["token"]
    said = [words[_learned_tables.LEARNED, layer, h] for h in range(subject.n_heads)]
    word = subject.tokenizer.decode([raised])
    assert [h for h, token in enumerate(said) if token == word] == [head]
    for h in range(subject.n_heads):
        expected = int((subject_z[h] @ subject.W_O(layer)[h] @ subject.W_U.T).argmax())
        assert words[_learned_tables.HEAD_ALONE, layer, h] == subject.tokenizer.decode([expected])


def test_any_batching_gives_the_same_tables(tmp_path):
    _, whole = analyse(tiny.subject(), tmp_path / "a")
    _, single = analyse(
        tiny.subject(), tmp_path / "b", None, Settings(limit=10, out=tmp_path / "b", size=3, padding="left")
    )
    for name in ("kl", "heads", "bias", "compared"):
        np.testing.assert_allclose(whole[name]["value"], single[name]["value"], rtol=1e-3, atol=1e-5)


def test_held_out_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(_learning, "open_task", lambda spec: tiny.task())
    with pytest.raises(UserError, match=r"6 of these ids were used to learn lens .* measure on another split"):
        analyse(tiny.subject(), tmp_path)


def test_same_document_is_not_held_out():
    record = {"ids": ["a"], "groups": ["doc"], "name": "lens"}
    lens_store.require_held_out(record, ["b"], ["other"])
    with pytest.raises(UserError, match="1 of these groups"):
        lens_store.require_held_out(record, ["b"], ["doc"])


def test_another_models_lens_is_refused(tmp_path):
    name = learn(tiny.subject(), FEW)
    with pytest.raises(UserError, match="learned from tiny-llama with fingerprint"):
        analyse(tiny.subject(seed=1), tmp_path, Options(**vars(FEW), lens=name))
    revised = tiny.subject()
    revised.revision = "other"
    with pytest.raises(UserError, match="with revision None, not from tiny-llama with other"):
        analyse(revised, tmp_path, Options(**vars(FEW), lens=name))
    with pytest.raises(UserError, match="no learned lens nowhere"):
        analyse(tiny.subject(), tmp_path, Options(lens="nowhere"))


def test_a_corpus_smaller_than_a_batch(tmp_path):
    with pytest.raises(UserError, match=r"attention lens: the corpus gives \d+ positions and a batch takes 512"):
        learn(tiny.subject(), replace(FEW, batch=512))
    with pytest.raises(UserError, match="tuned lens: the corpus gives 24 positions and a batch takes 25"):
        learn(tiny.subject(), replace(FEW, tuned_batch=25))


def test_layers_by_name():
    assert layers_of(range(30), "quarters") == [7, 15, 22]
    assert layers_of(range(30), "all") == list(range(30))
    assert layers_of(range(30), "5, 25,5") == [5, 25]
    with pytest.raises(UserError, match=r"'30' is no layer with heads: .* numbers of layers 0–29"):
        layers_of(range(30), "3,30")
    assert layers_of([1, 3, 5, 7], "quarters") == [3, 5, 7]
    with pytest.raises(UserError, match=r"'2' is no layer with heads: .* numbers of layers 1, 3, 5, 7"):
        layers_of([1, 3, 5, 7], "2")
