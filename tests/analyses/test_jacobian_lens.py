"""The Jacobian lens finds what later layers will make of a state, its twin without such layers does not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses.common.controls import turned_map
from crosslens.analyses.lenses import _jacobian, _jacobian_rows, _jacobian_tables, jacobian_lens
from crosslens.analyses.lenses._jacobian import Fitting, fit_jacobians, open_jacobian
from crosslens.analyses.lenses._jacobian_tables import GRADIENT, JACOBIAN, LOGIT, TURNED_AT
from crosslens.data.errors import UserError
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import verify

from ..helpers import tiny
from .claims.jacobian_lens import tables_of
from .test_learned_lenses import corpus

FEW = {"passages": 4, "length": 9, "skip": 1, "parts": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_jacobian, "open_task", lambda spec: corpus())
    return tmp_path


def analyse(subject, out, settings=None, **options):
    options = jacobian_lens.Options(**FEW | options)
    (directory,) = run(
        subject, tiny.task(), {"jacobian_lens": (jacobian_lens, options)}, settings or Settings(limit=10, out=out)
    )
    return directory, {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def rows_of(subject, batch, name):
    kept = capture(subject, batch, ["resid_pre", f"blocks.{subject.n_layers - 1}.hook_resid_post"])
    places = torch.arange(len(batch.last)), batch.last
    states = torch.stack([tensor[places] for tensor in kept.values()], 1)
    return _jacobian_rows.read_states(subject, name, states, batch)


def test_a_run_verifies_and_the_last_state_is_the_output(home):
    subject = tiny.subject()
    directory, tables = analyse(subject, home)
    verify(directory, subject, tiny.task(), jacobian_lens, say=lambda line: None)
    last = tables["lenses"].query("state == 3")
    assert (last.query("measure == 'kl'")["value"] < 1e-6).all()
    assert (last.query("measure == 'top1'")["value"] == 1).all()
    record = json.loads((directory / "record.json").read_text())
    assert len(record["fitted"]["agreement"]) == 3
    said = jacobian_lens.methods(
        jacobian_lens.Options(), jacobian_lens.Learned(**record["fitted"]), {"examples": 0, "groups": 0}
    )
    assert "each output dimension from 2 of them. Two halves of them agree: cosine" in said


@torch.no_grad()
def test_ranks_equal_the_slow_way():
    subject = tiny.subject("qwen3")
    name = fit_jacobians(subject, Fitting(**FEW))
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 4, 0))
    rows = rows_of(subject, batch, name)
    for i, example in enumerate(batch.examples):
        x = capture(subject, subject.batch([example]), ["resid_pre"])["blocks.1.hook_resid_pre"][0, -1]
        J = open_jacobian(subject, name, 1)
        for way, matrix in ((LOGIT, torch.eye(32)), (JACOBIAN, J), (TURNED_AT[0], turned_map(J, TURNED_AT[0]))):
            logits = subject.unembed(subject.norm(matrix @ x))
            answer, wrong = (int(ids[i]) for ids in (batch.answers, batch.wrong))
            expected = [int((logits > logits[token]).sum()) for token in (answer, wrong)]
            assert rows[f"{way}|rank"][i, 1].tolist() == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_gradients_equal_autograd_through_a_changed_embedding(family):
    """Finite differences of the loss along the slope, at the embeddings."""
    subject = tiny.subject(family)
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 3, 0))
    ranks = _jacobian_rows.read_gradients(subject, batch)[f"{GRADIENT}|rank"]
    assert ranks.shape == (3, subject.n_layers + 1, 2)
    one = subject.batch([batch.examples[1]])
    states, end = _jacobian.states_with_gradient(subject, one)
    said = subject.unembed(subject.norm(end[:, -1])).log_softmax(-1)[0, int(one.answers[0])]
    for state, tensor in enumerate([*states, end]):
        (slope,) = torch.autograd.grad(said, tensor, retain_graph=True)
        up = slope.reshape(end.shape)[0, -1]
        with torch.no_grad():
            logits = subject.unembed(subject.norm(up / up.square().mean().sqrt()))
        assert int((logits > logits[int(one.answers[0])]).sum()) == int(ranks[1, state, 0])
    assert all(weight.requires_grad and weight.grad is None for weight in subject.model.parameters())


def test_any_batching_gives_the_same_tables(home):
    _, whole = analyse(tiny.subject(), home / "a")
    _, single = analyse(tiny.subject(), home / "b", Settings(limit=10, out=home / "b", size=3, padding="left"))
    for name in ("lenses", "gradients", "tested"):
        np.testing.assert_allclose(whole[name]["value"], single[name]["value"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("carried", [True, False])
def test_a_state_that_a_later_layer_turns_into_a_word_is_read_before_it_is_one(carried):
    """Layer 2's MLP turns direction u into the word w5; u is in every state from the start. Its twin does nothing."""
    subject = tiny.subject()
    word = subject.tokenizer.convert_tokens_to_ids("w5")
    said = torch.nn.functional.normalize(subject.model.lm_head.weight[word].detach(), dim=0)
    u = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(4)), dim=0)
    u = torch.nn.functional.normalize(u - (u @ said) * said, dim=0)
    layer, entering = subject.layers[2], []

    def enters(module, args, more):
        entering.append(args[0] if args else more["hidden_states"])

    handles = [
        subject.model.model.embed_tokens.register_forward_hook(lambda m, a, out: out + 20 * u),
        layer.register_forward_pre_hook(enters, with_kwargs=True),
        layer.mlp.register_forward_hook(lambda m, a, out: out + 30 * carried * (entering[-1] @ u)[..., None] * said),
    ]
    try:
        name = fit_jacobians(subject, Fitting(**FEW))
        batch = subject.batch(["w1 w2 w3 w4"])
        x = capture(subject, batch, ["resid_pre"])["blocks.1.hook_resid_pre"][0, -1]
    finally:
        for handle in handles:
            handle.remove()
    J = open_jacobian(subject, name, 1)
    top = {way: int(_jacobian.logits(subject, m, x).argmax()) for way, m in ((LOGIT, torch.eye(32)), (JACOBIAN, J))}
    top |= {way: int(_jacobian.logits(subject, turned_map(J, way), x).argmax()) for way in TURNED_AT}
    assert [way for way, token in top.items() if token == word] == ([JACOBIAN] if carried else [])


def test_a_turned_map_is_as_far_from_the_identity():
    J = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    turned, one = turned_map(J, "a"), torch.eye(24)
    torch.testing.assert_close(torch.linalg.svdvals(turned - one), torch.linalg.svdvals(J - one), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned.trace(), J.trace(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(turned, J, atol=0.1)
    assert torch.equal(turned, turned_map(J, "a"))
    assert not torch.allclose(turned, turned_map(J, "b"), atol=0.1)
    torch.testing.assert_close(turned_map(one, "a"), one)


def test_it_is_not_measured_on_what_it_was_fitted_on(home, monkeypatch):
    monkeypatch.setattr(_jacobian, "open_task", lambda spec: tiny.task())
    with pytest.raises(UserError, match=r"4 of these ids were used to learn Jacobian lens"):
        analyse(tiny.subject(), home)
    with pytest.raises(UserError, match="no learned Jacobian lens nowhere"):
        analyse(tiny.subject(), home, lens="nowhere")


def test_the_last_state_does_not_count_for_what_gradients_name():
    """It names the answer by construction; here it alone does, or there is no other."""
    first = np.zeros((12, 9, 2))
    first[:, -1, 0] = 1
    groups = pd.Series([f"g{i}" for i in range(12)])
    frames = [_jacobian_tables._of_gradients(some, groups) for some in (first[:, 4:-1], first[:, 4:4])]
    assert frames[0][0]["value"].tolist() == [0.0]
    assert frames[1][0]["untestable"].iloc[0].startswith("of one layer")
    assert tables_of(last=1)["tested"].equals(tables_of(last=9000)["tested"])
