"""Dictionaries tell states by at most k directions, are found where they are planted, and are refused elsewhere."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses.common.controls import COMPONENTS
from crosslens.analyses.neurons import dictionaries
from crosslens.analyses.neurons._counts import label_of, tokens_of
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
