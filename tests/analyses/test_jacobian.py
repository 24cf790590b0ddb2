"""The Jacobian lens equals TransformerLens' on the same prompts, and autograd by hand; killed, it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens import capture
from crosslens.analyses.lenses import _jacobian
from crosslens.analyses.lenses._jacobian import Fitting, fit_jacobians, jacobian_rows, open_jacobian
from crosslens.data.errors import UserError
from crosslens.probes.runs import lens_store

from ..helpers import tiny
from .test_learned_lenses import corpus

TEXT = "w1 w5 w2 w9 w3 w8 w20"
FEW = Fitting(passages=4, length=9, skip=1, parts=2)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_jacobian, "open_task", lambda spec: corpus())
    return tmp_path


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "qwen3"])
def test_rows_equal_autograd_by_hand(family):
    """Each source position and each target position on its own, from the embeddings that the model itself reads."""
    subject, skip = tiny.subject(family), 1
    batch = subject.batch([TEXT])
    rows = jacobian_rows(subject, dict(batch.inputs), [3, 17, 0], skip)
    n = batch.inputs["input_ids"].shape[1]
    states, last = _jacobian.states_with_gradient(subject, batch)
    for state in (0, 1):
        for at, dim in enumerate([3, 17, 0]):
            expected = torch.zeros(subject.d_model)
            for source in range(skip, n - 1):
                for target in range(source, n - 1):
                    (slope,) = torch.autograd.grad(last[0, target, dim], states[state], retain_graph=True)
                    expected += slope.reshape(n, -1)[source] / (n - 1 - skip)
            torch.testing.assert_close(rows[state, at], expected, atol=1e-5, rtol=1e-4)
    assert all(weight.requires_grad and weight.grad is None for weight in subject.model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_equals_transformerlens(family):
    """Their J of block l is ours of the state behind it; readout too."""
    from transformer_lens.tools.analysis import JacobianLens

    subject = tiny.subject(family)
    model = tiny.bridge(subject.model)
    theirs = JacobianLens.fit(model, [TEXT], corpus="test", skip_first_positions=1, dim_batch=8, show_progress=False)
    ids = model.to_tokens(TEXT)
    ours = jacobian_rows(subject, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, range(32), 1)
    for layer, matrix in theirs.jacobians.items():
        torch.testing.assert_close(ours[layer + 1], matrix, atol=1e-4, rtol=1e-4)
    read = theirs.readout(model, ids, return_full_logits=True)
    kept = capture(subject, {"input_ids": ids}, ["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"][0]
    mine = _jacobian.logits(subject, ours[1], kept)
    torch.testing.assert_close(mine.detach(), read.lens_logits[0], atol=1e-4, rtol=1e-3)


def test_parts_share_the_dimensions_and_every_row_is_a_mean(home):
    subject = tiny.subject()
    name = fit_jacobians(subject, FEW)
    examples = corpus().examples(subject.tokenizer, 4, 0)
    batches = [{k: v[:, :9] for k, v in subject.batch([e]).inputs.items()} for e in examples]
    for dim, prompts in ((4, (0, 2)), (5, (1, 3))):
        rows = torch.stack([jacobian_rows(subject, batches[i], [dim], 1)[:, 0] for i in prompts]).mean(0)
        for state in range(subject.n_layers):
            torch.testing.assert_close(open_jacobian(subject, name, state)[dim], rows[state], atol=1e-5, rtol=1e-4)
    assert torch.equal(open_jacobian(subject, name, subject.n_layers), torch.eye(32))
    record = lens_store.record_of(name, _jacobian.WHAT)
    assert len(record["agreement"]) == subject.n_layers
    assert not list((lens_store.home() / name).glob("part-*"))


def test_killed_it_goes_on_where_it_was(monkeypatch):
    subject, calls = tiny.subject(), []

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return jacobian_rows(*arguments)

    monkeypatch.setattr(_jacobian, "jacobian_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        fit_jacobians(subject, FEW)
    name = fit_jacobians(subject, FEW)
    assert len(calls) == 5  # two were kept
    assert fit_jacobians(subject, FEW) == name
    assert len(calls) == 5


def test_what_does_not_fit_is_refused_in_one_line():
    subject = tiny.subject()
    with pytest.raises(UserError, match="3 passages cannot share the output dimensions in 2 parts: take a multiple"):
        fit_jacobians(subject, replace(FEW, passages=3))
    with pytest.raises(UserError, match="of 9 tokens the first 8 are left out: no position is left"):
        fit_jacobians(subject, replace(FEW, skip=8))
    with pytest.raises(UserError, match=r"has \d+ tokens, too few behind the first 40"):
        fit_jacobians(subject, replace(FEW, skip=40, length=60))
    name = fit_jacobians(subject, FEW)
    with pytest.raises(UserError, match=r"Jacobian lens .* was learned from tiny-llama with fingerprint"):
        open_jacobian(tiny.subject(seed=1), name, 0)
    with pytest.raises(UserError, match="is no lens but a Jacobian lens"):
        lens_store.record_of(name)


def test_linear_layers_have_the_lens_as_their_output(monkeypatch):
    """Of a model whose layers add nothing J is the identity."""
    subject = tiny.subject("gpt2")
    for layer in subject.layers:
        for part in (layer.attn.c_proj, layer.mlp.c_proj):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    rows = jacobian_rows(subject, dict(subject.batch([TEXT]).inputs), range(32), 1)
    torch.testing.assert_close(rows, torch.eye(32).expand(3, 32, 32), atol=1e-6, rtol=0)
