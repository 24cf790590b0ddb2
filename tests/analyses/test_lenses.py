"""The lens reads what the model says at the end, and finds the token that a layer was made to write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses.lenses import _jacobian, _learning, lenses
from crosslens.analyses.lenses._learning import open_lens
from crosslens.data.errors import UserError
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from .claims.lenses import planted
from .test_learned_lenses import FEW


def test_a_site_that_there_is_not_is_refused_before_anything_is_read():
    unknown: Any = ("resid", "z")
    with pytest.raises(UserError, match=r"--lenses\.sites resid z: some of resid, attn_out, mlp_out"):
        lenses.row_size(tiny.subject(), 8, lenses.Options(sites=unknown))


@pytest.mark.parametrize("sites", [(), ("mlp_out", "mlp_out")])
def test_the_residual_is_read_where_it_is_not_asked(sites, tmp_path):
    options = lenses.Options(sites=sites)
    (directory,) = run(tiny.subject(), tiny.task(), {"lenses": (lenses, options)}, Settings(limit=10, out=tmp_path))
    shown = pd.read_parquet(directory / "tables" / "lens.parquet")
    assert set(shown[shown["subset"] == "all"]["site"]) == {"resid", *sites}
    assert len(pd.read_parquet(directory / "tables" / "accuracy.parquet"))


def analyse(subject, out):
    (directory,) = run(subject, tiny.task(), {"lenses": (lenses, lenses.Options())}, Settings(limit=10, out=out))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_last_state_is_the_models_own_answer(tmp_path):
    subject = tiny.subject()
    tables = analyse(subject, tmp_path)
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 10, 0))
    with torch.no_grad():
        p = subject.last_logits(batch).softmax(-1)
    lens = tables["lens"].query("site == 'resid' and norm == 'final norm' and control == '' and subset == 'all'")
    last = lens[lens["state"] == 3].set_index("measure")["value"]
    np.testing.assert_allclose(last["probability"], p[torch.arange(10), batch.answers].mean(), atol=1e-6)
    assert last["kl"] < 1e-5
    np.testing.assert_allclose(last["entropy"], -(p * p.log()).sum(-1).mean(), atol=1e-5)
    rank = (p > p[torch.arange(10), batch.answers][:, None]).sum(-1)
    assert last["rank"] == np.median(rank.numpy())
    assert last["top1"] == (rank == 0).float().mean()


def test_planted_writer_is_found(tmp_path):
    """Layer 1's MLP writes the unembedding of w5 everywhere: its output names w5, the residual does from state 2."""
    subject = tiny.subject()
    token = subject.tokenizer.convert_tokens_to_ids("w5")
    direction = subject.model.lm_head.weight[token].detach()
    handle = subject.layers[1].mlp.register_forward_hook(lambda m, args, out: out + 300 * direction / direction.norm())
    try:
        grid = lenses.show(subject, subject.batch(["w1 w2 w3 w4"]), lenses.Options())["grid"]
    finally:
        handle.remove()
    tops = grid.groupby("state")["top"].unique().map(list)
    assert tops[2] == ["w5"]
    assert tops[3] == ["w5"]
    assert tops[1] != ["w5"]


def test_grid_has_a_cell_for_every_state_and_token():
    subject = tiny.subject()
    grid = lenses.show(subject, subject.batch(["w1 w2 w3", "w4 w5"], padding="left"), lenses.Options())["grid"]
    assert len(grid) == 4 * (4 + 3)
    assert grid["value"].between(0, 1).all()
    assert list(grid.query("example == 'prompt-1' and state == 0")["token"]) == ["<s>", "w4", "w5"]


def test_a_flat_curve_is_no_late_one():
    """Bounds that never reach half of the final probability decide nothing: no state is made of them."""
    tables = planted("readable late", holds=True)
    row = tables["compared"]["measure"] == lenses.READ_BEFORE
    tables["compared"].loc[row, ["value", "lower", "upper"]] = 0.4, 0.2, 0.6
    made = {claim.name: claim.verdict for claim in lenses.claims(tables)}
    assert made["readable late"] == "undecidable here"
    tables["accuracy"].loc[tables["accuracy"]["measure"] == "pair accuracy − guessing", ["value", "lower"]] = 0.0, -0.1
    assert {claim.name: claim.verdict for claim in lenses.claims(tables)}["readable late"] == "not testable"


def test_a_grid_under_the_jacobian_lens(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    monkeypatch.setattr(_jacobian, "open_task", lambda spec: tiny.task())
    monkeypatch.setattr(_learning, "open_task", lambda spec: tiny.task())
    subject = tiny.subject()
    name = _jacobian.fit_jacobians(subject, _jacobian.Fitting(passages=2, length=9, skip=1, parts=1))
    grid = lenses.show(subject, subject.batch(["w1 w2 w3"]), lenses.Options(lens=name))["grid"]
    assert set(grid["lens"]) == {"Jacobian lens"}
    x = capture(subject, subject.batch(["w1 w2 w3"]), ["resid_pre"])["blocks.1.hook_resid_pre"][0]
    moved = x @ _jacobian.open_jacobian(subject, name, 1).T
    expected = subject.unembed(subject.norm(moved)).softmax(-1).max(-1).values
    np.testing.assert_allclose(grid.query("state == 1")["value"], expected.detach(), rtol=1e-4)
    heads = _learning.learn(subject, replace(FEW, states="none"))
    with pytest.raises(UserError, match="has no maps of states, only of heads"):
        lenses.show(subject, subject.batch(["w1"]), lenses.Options(lens=heads))
    with pytest.raises(UserError, match="no learned lens nowhere"):
        lenses.show(subject, subject.batch(["w1"]), lenses.Options(lens="nowhere"))


@torch.no_grad()
def test_trajectories_equal_the_slow_way(tmp_path, monkeypatch):
    """Under the logit lens and under a learned one, cell by cell."""
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    monkeypatch.setattr(_learning, "open_task", lambda spec: tiny.task())
    subject = tiny.subject()
    name = _learning.learn(subject, FEW)
    batch = subject.batch(["w1 w2 w3 w4", "w5 w6"], padding="left")
    for asked, kind in (("", "logit lens"), (name, "tuned lens")):
        tables = lenses.show(subject, batch, lenses.Options(lens=asked))
        assert set(tables["grid"]["lens"]) == {kind}
        moves = tables["trajectories"].set_index(["example", "measure", "state", "position"])["value"].sort_index()
        kept = capture(subject, subject.batch(["w5 w6"]), ["resid_pre", "blocks.2.hook_resid_post"])
        final = subject.unembed(subject.norm(kept["blocks.2.hook_resid_post"][0])).log_softmax(-1)
        x = kept["blocks.1.hook_resid_pre"][0]
        x = (
            x + x @ open_lens(subject, name, "tuned", 1)["A"] + open_lens(subject, name, "tuned", 1)["b"]
            if asked
            else x
        )
        read = subject.unembed(subject.norm(x)).log_softmax(-1)
        found = moves["prompt-1"]
        kl = (final.exp() * (final - read)).sum(-1)
        np.testing.assert_allclose(found["KL to the output", 1], kl, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["entropy", 1], -(read.exp() * read).sum(-1), rtol=1e-4)
        ids = subject.tokenizer.convert_tokens_to_ids(["w5", "w6"])
        np.testing.assert_allclose(found["surprise at the next token", 1][:2], -read[[0, 1], ids], rtol=1e-4)
        assert np.isnan(found["surprise at the next token", 1][2])
        assert (found["KL to the output", 3].abs() < 1e-6).all()
