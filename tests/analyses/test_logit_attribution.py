"""Parts sum to the logit on every family; a head that writes a word is named; OV circuits equal TransformerLens'."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common.claims import HOLDS
from crosslens.analyses.common.controls import HEADS
from crosslens.analyses.common.head_weights import value_circuit
from crosslens.analyses.lenses import _attention_lens, _attribution, _value_circuit, logit_attribution
from crosslens.analyses.lenses.logit_attribution import Options, attribute
from crosslens.data.errors import UserError
from crosslens.probes.model import frozen_norms
from crosslens.probes.model.head import _logit_cap
from crosslens.probes.model.head_weights import value_weight
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.families import TEXT, build, prompts
from ..helpers.makers import tables_from
from ..probes.test_families import assert_close
from .claims import logit_attribution as claims_of


def parts_of(subject, texts, padding="right"):
    """What is added at the last position of every prompt, and the batch."""
    batch = subject.batch(texts, padding=padding)
    return observe(subject, batch, {"kept": (SimpleNamespace(observe=logit_attribution.observe), How(Options()))})[
        "kept"
    ], batch


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_parts_sum_to_the_models_logit(family, padding):
    """Embedding, heads, their biases, MLPs and final bias, soft-capped where the model caps: its own logit."""
    subject = tiny.subject(family)
    kept, batch = parts_of(subject, ["w1 w2 w3 w4 w5 w6 w7", "w8 w9 w3", "w4 w5 w6 w1"], padding)
    ids = torch.tensor([7, 20, 33])
    bias = torch.zeros(3, 1) if subject.b_U is None else subject.b_U[ids][:, None]
    found = attribute(subject, kept, subject.W_U[ids][:, None], bias)
    whole = found["heads"].sum((2, 3)) + found["attention bias"].sum(2) + found["mlp"].sum(2)
    whole = (whole + found["embedding"] + found["final bias"])[:, 0]
    cap = _logit_cap(subject.model)
    logit = whole if cap is None else cap * torch.tanh(whole / cap)
    assert_close(logit, subject.last_logits(batch)[torch.arange(3), ids], family)
    assert_close(found["logit"][:, 0], whole, family)


@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_heads_and_bias_sum_to_the_attention_output(family):
    subject = Subject(build(family))
    kept = capture(subject, prompts("none"), ["z", "attn_out"])
    for layer in range(3):
        z = kept[f"blocks.{layer}.attn.hook_z"].flatten(0, 1)
        heads, bias = frozen_norms.written_by_heads(subject, layer, z)
        expected = kept[f"blocks.{layer}.hook_attn_out"].flatten(0, 1)
        assert_close(heads.sum(1) + bias, expected, f"{family} {layer}")


@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_a_norm_is_its_affine_form(family):
    subject = Subject(build(family))
    x = 3 * torch.randn(5, subject.d_model) + 0.5
    for module in (
        subject.norm,
        frozen_norms.input_norm(subject.layers[1]),
        frozen_norms.attention_tail(subject.layers[1]),
    ):
        if module is not None:
            norm = frozen_norms.affine(module, x)
            assert_close(norm.centered(x) * norm.gain / norm.scale(x) + norm.bias, module(x), family)
            read = torch.randn(subject.d_model)
            assert_close((norm.centered(x) * norm.gain) @ read, x @ norm.pull(read), family)


@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_value_weights_give_the_values(family):
    """W_V of every head, applied to what the attention reads, is the captured value up to a constant (the bias)."""
    subject = Subject(build(family))

    def check(layer):
        norm = frozen_norms.input_norm(subject.layers[layer.index])
        read = layer.resid_pre if norm is None else norm(layer.resid_pre)
        value = layer.v.repeat_interleave(subject.n_heads // layer.v.shape[2], 2)
        rest = value - torch.einsum("bpd,hde->bphe", read, value_weight(subject, layer.index))
        assert_close(rest - rest.mean((0, 1)) + value, value, family)

    with tracing(subject, check):
        subject.forward(prompts("none"))


def planted(layer=1, head=2, word="w5"):
    """Head 1.2 writes the unembedding of w5 (the final norm's gain undone), whatever it reads; also the word's id."""
    subject = tiny.subject()
    token = subject.tokenizer.convert_tokens_to_ids(word)
    model = subject.model
    with torch.no_grad():
        direction = subject.W_U[token] / subject.norm.weight
        weight = model.model.layers[layer].self_attn.o_proj.weight  # [d, h * d_head]
        columns = slice(head * subject.d_head, (head + 1) * subject.d_head)
        values = model.model.layers[layer].self_attn.v_proj
        kv = head // (subject.n_heads // subject.n_kv_heads)
        values.weight[kv * subject.d_head] = 0
        values.bias = torch.nn.Parameter(torch.zeros(len(values.weight)))
        values.bias[kv * subject.d_head] = 1.0  # the first number of this head's z is 1
        for other in range(subject.n_heads):
            weight[:, other * subject.d_head] = 0
        weight[:, columns] *= 0.01
        weight[:, columns.start] = 40 * direction / direction.norm()
    return subject, token


def test_planted_head_is_named_by_dla_and_lens():
    subject, token = planted()
    kept, _ = parts_of(subject, ["w1 w2 w3 w4", "w9 w8 w7 w6 w1"])
    heads = attribute(subject, kept, subject.W_U[[token, token]][:, None].detach(), torch.zeros(2, 1))["heads"][:, 0]
    assert (heads.flatten(1).argmax(1) == 1 * subject.n_heads + 2).all()
    words = _attribution.head_words(subject, kept, 3)
    assert (words["word_ids"][:, 1, 2, 0] == token).all()
    assert (words["word_ids"][:, 1, 0, 0] != token).any()
    lens = _attention_lens.start(subject, 1, kept["z"][:, 1], kept["final"][:, 0])
    assert (_attention_lens.head_logits(lens, kept["z"][:, 1], 2).argmax(-1) == token).all()
    grid = metrics.logit_lens(
        frozen_norms.written_by_heads(subject, 1, kept["z"][:, 1])[0][:, 2], subject.norm, subject.unembed
    )
    assert (grid.argmax(-1) == token).all()


def test_planted_copying_head_is_named_by_its_weights():
    """W_V · W_O = the identity on eight dimensions: what it reads is what it promotes, and the copying score is 1."""
    subject = tiny.subject()
    model = subject.model
    with torch.no_grad():
        table = model.model.embed_tokens.weight
        table.copy_(torch.nn.functional.normalize(table, dim=-1))
        model.lm_head.weight.copy_(table)
        for norm in (subject.norm, model.model.layers[1].input_layernorm):
            norm.weight.fill_(1.0)
        attention = model.model.layers[1].self_attn
        basis = torch.linalg.qr(torch.randn(subject.d_model, subject.d_head)).Q
        attention.v_proj.weight[: subject.d_head] = basis.T
        attention.o_proj.weight[:, : subject.d_head] = basis
    found = _value_circuit.promoted(subject, 3, 4)
    assert found["copying"].shape == (3, 4)
    assert found["copying"][1, 0] > 0.999
    assert found["copying"].abs().max() <= 1 + 1e-5
    assert torch.equal(found["reads_ids"][1, 0], found["promotes_ids"][1, 0])
    torch.testing.assert_close(found["strength"][1, 0], torch.full((3,), 1 / 8), atol=1e-5, rtol=0)
    assert not torch.equal(found["reads_ids"][1, 1], found["promotes_ids"][1, 1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_ov_circuit_equals_transformerlens_with_folded_norms(family):
    """W_E · W_V · W_O · W_U of TransformerLens' processed weights and ours: the same matrix, so the same words."""
    subject = tiny.subject(family)
    bridge = tiny.bridge(subject.model)
    W_E = bridge.W_E.detach().clone()
    bridge.enable_compatibility_mode(disable_warnings=True)
    ours_E = subject.model.get_input_embeddings().weight
    ours_U = frozen_norms.affine(subject.norm, subject.W_U[0]).pull(subject.W_U)
    for layer in range(3):
        values, out = value_circuit(subject, layer)
        for head in range(4):
            mine = ours_E @ values[head] @ out[head] @ ours_U.T
            kv = head // (4 // subject.n_kv_heads) if bridge.W_V.shape[1] != 4 else head
            theirs = W_E @ bridge.W_V[layer, kv] @ bridge.W_O[layer, head] @ bridge.W_U
            # Their unembedding is centred over the vocabulary, which no softmax can see; their writing weights too.
            mine, theirs = (m - m.mean(1, keepdim=True) for m in (mine, theirs))
            assert_close(mine, theirs, f"{family} {layer}.{head}")


def analyse(subject, out, **options):
    module = {"logit_attribution": (logit_attribution, Options(**options))}
    (directory,) = run(subject, tiny.task(), module, Settings(limit=10, out=out))
    return directory, {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_tables(tmp_path):
    subject, _ = planted()
    directory, tables = analyse(subject, tmp_path, words=4, prompts=2, directions=2)
    assert tables["completeness"]["largest"].max() < 1e-3
    words = tables["words"].query("layer == 1 and head == 2 and rank == 1")
    assert list(words["token"]) == ["w5", "w5"]
    assert words["example"].nunique() == 2
    assert len(tables["words"]) == 3 * 4 * 2 * 4
    assert len(tables["ov"]) == 2 * 3 * 4 * 2 * 4
    assert len(tables["copying"]) == 12
    assert list(tables["claims"]["name"]) == [statement.name for statement in logit_attribution.CLAIMS]
    parts, heads = tables["parts"], tables["heads"]
    attention = parts.query("part == 'attention' and measure == 'difference'").set_index("layer")["value"]
    summed = heads.query("measure == 'difference'").groupby("layer")["value"].sum()
    np.testing.assert_allclose(attention, summed, atol=1e-4)  # a Llama has no output biases
    from crosslens.probes.runs.verify import verify

    verify(directory, subject, tiny.task(), logit_attribution, say=lambda line: None)


def test_no_words_no_directions(tmp_path):
    _, tables = analyse(tiny.subject(), tmp_path, words=0)
    assert set(tables) == {"parts", "heads", "top", "completeness", "tested", "claims", "findings"}
    reasons = tables["tested"].set_index("claim")["untestable"]
    assert reasons["copy"] or reasons.all(), "no OV circuits, no score"


def test_the_control_of_the_strongest_heads_does_not_cancel():
    """Other heads that add as much to either side: their signed mean is 0, each turned to its own side it is not."""
    rows = claims_of.rows()
    sides = np.where(np.arange(20) % 2, 3.0, -3.0)
    rows.values["heads"][:, :, 5] = sides + np.random.default_rng(0).normal(0, 0.3, (claims_of.N, 1, 20))
    top = tables_from(logit_attribution, rows)["top"].query("layer == 5")
    own, control = (top[top["control"] == name] for name in ("", HEADS))
    assert len(own) == 10
    np.testing.assert_allclose(np.abs(control["value"]), 3, atol=0.2)
    assert (np.sign(control["value"]).to_numpy() == np.sign(own["value"]).to_numpy()).all()
    rows.values["logit"] = rows["heads"].sum((2, 3)) + 9
    margin = _tested(rows).query("claim == 'few' and than != ''")
    assert abs(margin["value"].item()) < 0.05
    assert [c.verdict for c in logit_attribution.claims({"tested": _tested(rows)}) if c.name == "few"] != [HOLDS]


def _tested(rows):
    return tables_from(logit_attribution, rows, Options(words=0))["tested"]


def test_one_prompt():
    subject = tiny.subject()
    batch = subject.batch(["w1 w2 w3"])
    tables = logit_attribution.show(subject, batch, Options(token=" w9"))
    logit = subject.last_logits(batch)[0, subject.tokenizer.convert_tokens_to_ids("w9")]
    assert tables["parts"]["value"].sum() == pytest.approx(float(logit), rel=1e-4, abs=1e-4)
    assert len(tables["heads"]) == 12
    with pytest.raises(UserError, match="is not one token of tiny-llama"):
        logit_attribution.show(subject, batch, Options(token=" w9 w8"))
