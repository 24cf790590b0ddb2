"""The lens reads what the model says at the end, and finds the token that a layer was made to write."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from crosslens.analyses.lenses import lenses
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from .claims.lenses import planted


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
