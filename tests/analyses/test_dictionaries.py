"""Dictionaries tell states by at most k directions, are found where they are planted, and are refused elsewhere."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses.common.controls import COMPONENTS
from crosslens.analyses.common.places import text_without_first
from crosslens.analyses.neurons import dictionaries
from crosslens.analyses.neurons._counts import label_of
from crosslens.analyses.neurons._dictionary import Dictionary, from_sae_lens, open_dictionary, site_of
from crosslens.analyses.neurons._dictionary_features import STEERED, STRENGTHS, of_labels
from crosslens.analyses.neurons._dictionary_learning import Training, train, unit
from crosslens.analyses.neurons._dictionary_rows import effects, targets
from crosslens.analyses.neurons._dictionary_ways import MEAN, OWN, WAYS, Ways, opened
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.observe.tracing import rewrite_output
from crosslens.probes.runs import lens_store
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import verify
from safetensors.torch import save_file

from ..helpers import tiny

LABELS = {"French": range(1, 21), "German": range(21, 41)}
FEW = dictionaries.Options(steps=20, batch=16, active=4, positions=4, top=3)
SITE = "blocks.1.hook_resid_post"


def example(i: int, label: str, seed: int = 0) -> Example:
    drawn = random.Random(f"{i} {label} {seed}")
    words = [f"w{drawn.choice(LABELS[label])}" for _ in range(7 + i % 4)]
    return Example(
        f"{label} {i} {seed}", f"page {i} {seed}", (Segment("text", " ".join(words)),), meta={"label": label}
    )


EXAMPLES = [example(i, label) for i in range(12) for label in LABELS]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def task() -> Task:
    def examples(n=None, seed=0, *, tokenizer):
        return [example(i, label, seed) for i in range(12) for label in LABELS][:n]

    module = SimpleNamespace(
        __doc__="Words of two kinds", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=examples
    )
    return Task("kinds", module, {})


def known(subject: Subject, **options) -> How:
    made = replace(FEW, **options)
    return How(made, dictionaries.fit(subject, [subject.batch(EXAMPLES)], made))


def rows_of(subject: Subject, examples, how: How, **form):
    batch = subject.batch(examples, **form)
    return observe(subject, batch, {"dictionaries": (dictionaries, how)})["dictionaries"]


def sparse(n: int, directions: torch.Tensor, active: int, seed: int = 0) -> torch.Tensor:
    """States that are sums of a few of so many directions, and a constant."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(n, len(directions), generator=generator).argsort(1)[:, :active]
    sizes = 1 + torch.rand(n, active, generator=generator)
    return torch.zeros(n, len(directions)).scatter(1, on, sizes) @ directions + 0.5


def test_encoding_keeps_the_k_largest_and_decoding_is_affine():
    torch.manual_seed(0)
    told = Dictionary(SITE, 3, torch.randn(8, 20), torch.randn(20), unit(torch.randn(20, 8)), torch.randn(8))
    x = torch.randn(5, 7, 8)
    found = told.encode(x)
    before = ((x - told.b_dec) @ told.W_enc + told.b_enc).relu()
    assert int((found > 0).sum(-1).max()) <= 3
    for row, own in zip(found.reshape(-1, 20), before.reshape(-1, 20), strict=True):
        kept = own.argsort(descending=True)[:3]
        expected = torch.zeros(20)
        expected[kept] = own[kept]
        torch.testing.assert_close(row, expected)
    a, b = torch.rand(2, 4, 20)
    torch.testing.assert_close(told.decode(a + b) + told.b_dec, told.decode(a) + told.decode(b))


@pytest.mark.parametrize("planted", [True, False])
def test_planted_directions_are_found_and_of_shuffled_numbers_none(tmp_path, planted):
    torch.manual_seed(0)
    directions = unit(torch.randn(20, 32))
    states = sparse(3000, directions, 3)
    if not planted:  # the same numbers, each place of the state for itself
        states = torch.stack([column[torch.randperm(len(column))] for column in states.T], 1)
    weights, losses = train(states, Training(1, 3, 600, 128, 1e-2), tmp_path / "c")
    best = (unit(weights["W_dec"]) @ directions.T).amax(0)
    assert losses[-1] < losses[0]
    if planted:
        assert float((best > 0.9).float().mean()) >= 0.9
    else:
        assert float((best > 0.9).float().mean()) <= 0.1


def test_learning_that_was_stopped_gives_the_same(tmp_path, monkeypatch):
    from crosslens.analyses.neurons import _dictionary_learning

    states = sparse(200, unit(torch.randn(10, 8)), 2)
    training = Training(2, 2, 40, 16)
    whole, losses = train(states, training, tmp_path / "whole")
    asked, own = 0, _dictionary_learning.reconstruction_loss

    def stop(*arguments):
        nonlocal asked
        asked += 1
        if asked == 33:
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(_dictionary_learning, "reconstruction_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        train(states, training, tmp_path / "c")
    again, told = train(states, training, tmp_path / "c")
    assert told == losses
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_run_measures_what_it_did_not_learn_from(tmp_path):
    subject = tiny.subject()
    settings = Settings(limit=24, out=tmp_path)
    (directory,) = run(subject, task(), {"dictionaries": (dictionaries, FEW)}, settings)
    verify(directory, subject, task(), dictionaries, say=lambda line: None)
    tables = {path.stem: pd.read_parquet(path) for path in (directory / "tables").glob("*.parquet")}
    assert {"quality", "by_label", "often", "specific", "features", "steering", "tested", "claims"} <= set(tables)
    assert len(tables["claims"]) == len(dictionaries.CLAIMS)
    assert tables["often"]["value"].sum() == 4 * subject.d_model
    assert tables["quality"].query("measure == 'active features a token'")["value"].max() <= 4


def test_counts_are_those_by_hand():
    subject = tiny.subject()
    how = known(subject, site=SITE)
    rows, ways = rows_of(subject, EXAMPLES, how), opened(subject, how.learned)
    for i, one in enumerate(EXAMPLES):
        batch = subject.batch([one])
        with torch.no_grad():
            states = capture(subject, batch, [SITE])[SITE][0, text_without_first(batch)[0]]
        states = states[ways.ordinary(states)]
        fires = ways.dictionary.encode(states) > 0
        told = ways.dictionary.decode(ways.dictionary.encode(states))
        left = (states - told).square().sum()
        torch.testing.assert_close(rows["left"][i, WAYS.index(OWN)], left, rtol=1e-3, atol=1e-4)
        total = (states - ways.beside["mean"]).square().sum()
        torch.testing.assert_close(rows["total"][i], total, rtol=1e-3, atol=1e-4)
        assert rows["tokens"][i] == len(states)
        assert rows["fires"][i].tolist() == fires.sum(0).tolist()
        for label, own in enumerate(how.learned.features):
            assert rows["on|features"][i, label, : len(own)].tolist() == fires.sum(0)[own].tolist()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(padding):
    subject = tiny.subject()
    how = known(subject, site=SITE)
    together = rows_of(subject, EXAMPLES[5::-1], how, padding=padding)
    for i, one in enumerate(EXAMPLES[5::-1]):
        for name, value in rows_of(subject, [one], how).items():
            torch.testing.assert_close(together[name][i], value[0], rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


def test_what_is_put_in_the_place_of_states_is_the_forward_with_it():
    """And the exact state in its place changes nothing."""
    subject = tiny.subject()
    how = known(subject, site=SITE)
    batch, ways = subject.batch(EXAMPLES[:4]), opened(subject, how.learned)
    kept = text_without_first(batch)
    found = effects(subject, batch, ways, SITE, how.learned, replace(FEW, positions=64))

    def loss(change) -> torch.Tensor:
        with ExitStack() as stack, torch.no_grad():
            rewrite_output(
                stack, subject.layers[1], "resid_post", lambda x: torch.where(kept[..., None], change(x).to(x), x)
            )
            logits = subject.model(**subject.prepare(batch)).logits.float().log_softmax(-1)
        ids, losses = batch.inputs["input_ids"], []
        for i in range(len(ids)):
            real = batch.mask[i].nonzero()[:, 0]
            losses.append(-logits[i, real[:-1], ids[i, real[1:]]].mean())
        return torch.stack(losses)

    torch.testing.assert_close(found["clean|loss"], loss(torch.clone), rtol=1e-4, atol=1e-5)
    for at, way in enumerate(WAYS):
        torch.testing.assert_close(found["replaced|loss"][:, at], loss(ways.instead(way)), rtol=1e-4, atol=1e-4)
    at = targets(batch, how.learned.labels)
    for strength in range(len(STRENGTHS)):
        for way in range(len(STEERED)):
            added = STRENGTHS[strength] * ways.beside["directions"][way, at][:, None]
            expected = loss(lambda x, added=added: x + added)
            torch.testing.assert_close(found["steered|loss"][:, way, strength], expected, rtol=1e-4, atol=1e-4)

    class Exact:
        encode = decode = staticmethod(torch.Tensor.float)

    exact = Ways(Exact(), ways.beside, 4)
    torch.testing.assert_close(exact.instead(OWN)(torch.ones(2, 3, subject.d_model)), torch.ones(2, 3, subject.d_model))
    assert not torch.allclose(exact.told(MEAN, torch.ones(1, subject.d_model)), torch.ones(1, subject.d_model))


def test_as_many_components_as_a_state_has_numbers_tell_all_of_it():
    subject = tiny.subject()
    how = known(subject, site=SITE, active=32)
    rows = rows_of(subject, EXAMPLES[:4], how)
    assert rows["left"][:, WAYS.index(COMPONENTS)].max() < 1e-3 * rows["total"].min()
    torch.testing.assert_close(rows["replaced|loss"][:, WAYS.index(COMPONENTS)], rows["clean|loss"], atol=1e-3, rtol=0)


def test_features_of_a_label_are_those_that_it_alone_activates():
    rate = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.5], [0.0, 0.2, 0.1], [0.1, 0.0, 0.8], [0.3, 0.0, 0.0]])
    assert of_labels(rate, 2) == [[0, 4], [2], [3]]


def test_texts_are_steered_to_another_label():
    subject = tiny.subject()
    batch = subject.batch(EXAMPLES)
    found = targets(batch, list(LABELS))
    assert all(list(LABELS)[int(at)] != label_of(one) for at, one in zip(found, EXAMPLES, strict=True))
    assert targets(batch, ["other", "labels"]).tolist() == [-1] * len(EXAMPLES)


def test_without_labels_the_quality_alone_is_measured():
    subject = tiny.subject()
    plain = [replace(one, meta={}) for one in EXAMPLES]
    learned = dictionaries.fit(subject, [subject.batch(plain)], FEW)
    rows = rows_of(subject, plain[:4], How(FEW, learned))
    assert learned.labels == []
    assert not any(name.startswith("steered") for name in rows)
    assert rows["replaced|loss"].isfinite().all()


def sae_lens(directory, width: int, **config) -> dict[str, torch.Tensor]:
    """A dictionary as sae-lens saves it."""
    directory.mkdir()
    torch.manual_seed(1)
    weights = {"W_enc": torch.randn(width, 12), "b_enc": torch.randn(12), "W_dec": torch.randn(12, width)}
    weights["b_dec"] = torch.randn(width)
    save_file(weights, directory / "sae_weights.safetensors")
    told = {"architecture": "topk", "k": 3, "d_in": width, "d_sae": 12, "apply_b_dec_to_input": True}
    (directory / "cfg.json").write_text(json.dumps(told | {"metadata": {"hook_name": SITE}} | config))
    return weights


@pytest.mark.parametrize("centred", [True, False])
def test_dictionaries_of_sae_lens_are_read(home, centred):
    width = tiny.subject().d_model
    weights = sae_lens(home / "sae", width, apply_b_dec_to_input=centred)
    found, x = from_sae_lens(home / "sae"), torch.randn(5, width)
    before = (x - centred * weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    top = before.topk(3)
    expected = torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())
    torch.testing.assert_close(found.encode(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.decode(expected), expected @ weights["W_dec"] + weights["b_dec"])
    how = known(tiny.subject(), dictionary=str(home / "sae"))
    assert rows_of(tiny.subject(), EXAMPLES[:2], how)["fires"].shape == (2, 12)


def test_a_dictionary_for_another_site_width_or_model_is_refused_in_one_line(home):
    subject = tiny.subject()
    name = known(subject, site=SITE).learned.dictionary
    with pytest.raises(UserError, match=r"is of blocks\.1\.hook_resid_post, not of blocks\.0\.hook_resid_post"):
        open_dictionary(subject, name, "blocks.0.hook_resid_post")
    with pytest.raises(UserError, match=r"dictionary .* was learned from tiny-llama with fingerprint"):
        open_dictionary(tiny.subject(seed=1), name)
    sae_lens(home / "wide", 7)
    with pytest.raises(UserError, match=r"wide is of states 7 wide; tiny-llama has \d+ at"):
        open_dictionary(subject, str(home / "wide"))
    for wrong in ({"architecture": "gated"}, {"normalize_activations": "layer_norm"}):
        sae_lens(home / str(*wrong), 7, **wrong)
        with pytest.raises(UserError, match="topk and standard on states as they are"):
            open_dictionary(subject, str(home / str(*wrong)))
    with pytest.raises(UserError, match="no learned dictionary nowhere"):
        open_dictionary(subject, "nowhere")
    beside = known(subject, site=SITE).learned.beside
    with pytest.raises(UserError, match="is no dictionary but a"):
        open_dictionary(subject, beside)


def test_a_given_dictionary_is_not_measured_on_what_it_was_learned_from():
    subject = tiny.subject()
    name = known(subject, site=SITE).learned.dictionary
    how = known(subject, dictionary=name)
    with pytest.raises(UserError, match="were used to learn dictionary"):
        rows_of(subject, EXAMPLES[:2], how)
    other = [example(i, label, seed=5) for i in range(2) for label in LABELS]
    assert rows_of(subject, other, how)["left"].isfinite().all()
    assert lens_store.record_of(name, "dictionary")["k"] == FEW.active


@pytest.mark.parametrize("site", ["resid_post", "blocks.1.attn.hook_z", "blocks.1.attn.hook_rot_q"])
def test_sites_that_no_dictionary_can_have_are_refused_in_one_line(site):
    with pytest.raises(UserError, match="has no heads and can be changed"):
        site_of(tiny.subject(), site)


@pytest.mark.parametrize("wrong", [{"active": 0}, {"width": 0}, {"top": 0}, {"steps": -1}, {"batch": 10**6}])
def test_options_that_mean_nothing_are_refused_in_one_line(wrong):
    subject = tiny.subject()
    with pytest.raises(UserError):
        dictionaries.fit(subject, [subject.batch(EXAMPLES)], replace(FEW, **wrong))
