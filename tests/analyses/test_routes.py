"""Laws of routes: parts sum to states, the slow way by hand, batches and padding, a planted path and its twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crosslens.analyses.flow import routes
from crosslens.analyses.flow._route_edges import edges_of
from crosslens.analyses.flow._route_knockout import read_by_last
from crosslens.analyses.flow._route_parts import Parts, Place, attention_parts, weigh
from crosslens.analyses.flow._route_rows import recorded_layers, roles_of
from crosslens.analyses.flow._route_walk import ADDED, EDGE, KINDS, walk
from crosslens.data.errors import UserError
from crosslens.probes.model.frozen_norms import behind_projection, written_by_heads
from crosslens.probes.runs.results import How
from crosslens.probes.sites import SITES

from ..helpers import contrasts, planted, tiny
from ..helpers.families import TEXT

HOW = How(routes.Options(edges=400))
KEY = "another draw"


def batch_of(subject, n=3, padding="left"):
    examples = contrasts.examples(n, tokenizer=subject.tokenizer)
    return subject.batch(examples, template="raw", bos=None, padding=padding)


@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_parts_sum_to_the_state_and_heads_to_what_attention_adds(family):
    """Gates, norms behind the projection, sinks, biases, parallel blocks and residual factors: nothing is left over."""
    subject = tiny.subject(family)
    batch = batch_of(subject)
    place = Place(1, batch.mask[1].nonzero()[:, 0])
    rows = torch.arange(len(place.real))
    for layer in recorded_layers(subject, batch):
        between = layer.stack.has(layer.index, SITES["resid_mid"])
        parts = attention_parts(subject, layer, place, rows, not between)
        assert parts.heads is not None
        torch.testing.assert_close(sum(part.sum(1) for part in parts.heads()), parts.written, atol=2e-5, rtol=1e-4)
        whole = (layer.resid_mid if between else layer.resid_post)[1, place.real]
        torch.testing.assert_close(parts.whole(), whole, atol=2e-5, rtol=1e-4)


def test_a_norm_behind_the_projection_is_held_at_the_scale_of_all_heads():
    subject, rng = tiny.subject("gemma2"), torch.Generator().manual_seed(0)
    z = torch.randn(5, subject.n_heads, subject.d_head, generator=rng)
    heads, _ = written_by_heads(subject, 1, z)
    behind = torch.einsum("nhd,hdm->nhm", z, subject.W_O(1))
    reach, _ = behind_projection(subject, 1, behind.sum(1), z.dtype)
    torch.testing.assert_close(reach(behind), heads)
    torch.testing.assert_close(reach(0.3 * behind[:, None]), 0.3 * heads[:, None])


def slow_shares(parts, threshold):
    """{name: share} of what is above the threshold, of {name: vector}; the largest alone where nothing is."""
    whole = torch.stack([*parts.values()]).sum(0)
    near = {name: max(1e-5, float(whole.abs().sum() - (whole - part).abs().sum())) for name, part in parts.items()}
    shares = {name: value / sum(near.values()) for name, value in near.items()}
    kept = {name: value for name, value in shares.items() if value > threshold}
    kept = kept or {max(shares, key=lambda name: shares[name]): 1.0}
    return {name: value / sum(kept.values()) for name, value in kept.items()}


@torch.no_grad()
def slow_route(subject, ids, threshold):
    """Of a llama, from maps of eager attention and every vector by itself: {(state, kind, source, target): share} of
    the edges that can be reached from the output, and the flow at the embeddings.
    """
    model = subject.model
    model.set_attn_implementation("eager")
    told = model(input_ids=ids[None], output_attentions=True, output_hidden_states=True)
    n, edges, flow = len(ids), {}, torch.zeros(len(ids))
    flow[-1] = 1.0
    for i in reversed(range(subject.n_layers)):
        block, state, pattern = model.model.layers[i], told.hidden_states[i][0], told.attentions[i][0]
        heads, width = pattern.shape[0], block.self_attn.head_dim
        values = block.self_attn.v_proj(block.input_layernorm(state)).reshape(n, -1, width)
        values = values.repeat_interleave(heads // values.shape[1], 1)
        W_O = block.self_attn.o_proj.weight.T.reshape(heads, width, -1)
        below = torch.zeros(n)
        for q in (flow > 0).nonzero()[:, 0].tolist():
            parts = {(k, h): pattern[h, q, k] * values[k, h] @ W_O[h] for k in range(n) for h in range(heads)}
            middle = state[q] + torch.stack([*parts.values()]).sum(0)
            written = block.mlp(block.post_attention_layernorm(middle))
            for name, share in slow_shares({"MLP": written, "residual": middle}, threshold).items():
                edges[i + 0.5, name, q, q] = share
            for name, share in slow_shares(parts | {"residual": state[q]}, threshold).items():
                source, kind = (q, name) if isinstance(name, str) else (name[0], "attention")
                edges[float(i), kind, source, q] = edges.get((float(i), kind, source, q), 0.0) + share
                below[source] += flow[q] * share
        flow = below
    return edges, flow


@pytest.mark.parametrize("threshold", [0.02, 0.04, 0.1])
def test_routes_equal_the_slow_way(threshold):
    subject = tiny.subject("llama")
    batch = batch_of(subject, 1)
    ids = batch.inputs["input_ids"][0]
    route = walk(subject, recorded_layers(subject, batch), Place(0, torch.arange(len(ids))), threshold)
    edges, flow = slow_route(subject, ids, threshold)
    at = [EDGE.index(name) for name in ("state", "kind", "source", "target", "value")]
    found = {(s, KINDS[int(k)], int(a), int(b)): v for s, k, a, b, v in route.edges[:, at].tolist()}
    assert found.keys() == edges.keys()
    assert found == pytest.approx(edges, abs=1e-4)
    torch.testing.assert_close(route.flow[0], flow, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(route.flow.sum(1), torch.ones(subject.n_layers + 1), atol=1e-4, rtol=1e-4)
    between = [key for key in edges if key[1] == "attention" and key[2] != key[3]]
    assert route.sums[:, ADDED.index("edges")].sum().item() == len(between)
    assert route.sums[0, ADDED.index("possible")].item() == len(ids) * (len(ids) - 1) / 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_row_belongs_to_its_example_alone(family):
    subject = tiny.subject(family)
    alone = [rows_of(subject, [e]) for e in contrasts.examples(3, tokenizer=subject.tokenizer)]
    for padding in ("left", "right"):
        together = routes.measure(subject, batch_of(subject, 3, padding), {}, HOW)
        for i, one in enumerate(alone):
            for name, value in one.items():
                if name == "edges":  # equal flows may change places
                    assert torch.equal(together[name][i].isnan(), value[0].isnan())
                    continue
                torch.testing.assert_close(together[name][i], value[0], atol=2e-4, rtol=1e-3, equal_nan=True)


def rows_of(subject, examples):
    return routes.measure(subject, subject.batch(examples, template="raw", bos=None, padding="left"), {}, HOW)


def test_few_rows_at_a_time_are_all_rows(monkeypatch):
    subject = tiny.subject("llama")
    batch = batch_of(subject)
    whole = routes.measure(subject, batch, {}, HOW)
    monkeypatch.setattr("crosslens.analyses.flow._route_parts.BUDGET", 1)
    for name, value in routes.measure(subject, batch, {}, HOW).items():
        if name == "edges":  # equal flows may change places
            assert torch.equal(value.isnan(), whole[name].isnan())
            continue
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=1e-4, equal_nan=True)


def test_a_row_without_a_strong_part_keeps_its_largest():
    """The released code divides by 0 there."""
    rng = torch.Generator().manual_seed(0)
    parts = torch.eye(40)[None] + 1e-3 * torch.rand(1, 40, 40, generator=rng)
    parts[0, 7] *= 1.2
    kept = weigh(Parts(torch.zeros(1, 40), {}, lambda: iter([parts]), parts.sum(1)), 40, 0.04)
    assert kept.heads.nonzero().tolist() == [[0, 7, 0]]
    assert kept.heads.sum().item() == 1.0
    assert 0.02 < kept.held.item() < 0.04


def test_the_route_follows_the_built_path_and_not_its_twin():
    """A B … A: head 1.0 reads B where it stands, whose state head 0.0 has told of A; in the twin 1.0 writes nothing."""
    for built in (True, False):
        subject = planted.induction_model(planted=built)
        inputs, _, answers, _ = planted.prompts()
        layers = recorded_layers(subject, inputs)
        for example, ids in enumerate(inputs["input_ids"]):
            at = ids[:-1].tolist().index(int(answers[example]))
            route = walk(subject, layers, Place(example, torch.arange(9)), 0.04)
            names = [EDGE.index(name) for name in ("layer", "source", "target", "head", "kind")]
            kept = {tuple(int(v) for v in edge) for edge in route.edges[:, names].tolist()}
            assert ((1, at, 8, 0, 0) in kept) == built
            assert ((0, at - 1, at, 0, 0) in kept) == built
            assert bool(route.flow[0, at] > 0) == built


def test_the_control_permutes_whom_heads_write_through_and_no_attention():
    subject = tiny.subject("llama")
    batch = batch_of(subject)
    layer, real = recorded_layers(subject, batch)[1], batch.mask[0].nonzero()[:, 0]
    rows = torch.arange(len(real))
    own, other = (attention_parts(subject, layer, Place(0, real, key), rows) for key in ("", KEY))
    assert own.heads is not None
    assert other.heads is not None
    assert not torch.allclose(own.whole(), other.whole())
    torch.testing.assert_close(sum(part.sum(1) for part in other.heads()), other.written, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own.residual, other.residual)


def test_every_token_has_one_role_and_the_flow_is_whole():
    subject = tiny.subject("llama")
    batch = batch_of(subject)
    assert torch.equal(torch.stack([*roles_of(batch).values()]).sum(0), batch.mask.long())
    rows = routes.measure(subject, batch, {}, HOW)
    whole = sum(value for name, value in rows.items() if name.startswith("flow|") and "null" not in name)
    torch.testing.assert_close(whole, torch.ones_like(whole))
    for name, mask in roles_of(batch).items():
        assert (f"knocked|{name}" in rows) == (name != "last token")
        read = rows[f"read|{name}"]
        assert ((read > 0).any(1) <= mask.any(1)).all()
    assert rows["effect"].shape == (3, subject.n_layers, subject.n_heads)


def test_what_the_last_token_reads_and_what_cutting_it_costs_by_hand():
    """On the planted path: layer 1 alone, and there the token that holds the answer."""
    subject = planted.induction_model()
    inputs, _, answers, _ = planted.prompts()
    layers = recorded_layers(subject, inputs)
    for example, ids in enumerate(inputs["input_ids"]):
        chosen = ids == answers[example]
        chosen[-1] = False
        route = walk(subject, layers, Place(example, torch.arange(9)), 0.04)
        edges = {(s, t): v for i, s, t, k, v in route.edges[:, EDGE_AT].tolist() if i == 1 and k == 0}
        read = read_by_last(route, chosen)
        at = int(chosen.nonzero())
        assert read.tolist() == pytest.approx([0.0, edges[at, 8]])


EDGE_AT = [EDGE.index(name) for name in ("layer", "source", "target", "kind", "value")]


def test_without_twins_there_is_no_effect():
    subject = tiny.subject("llama")
    rows = rows_of(subject, tiny.examples(3, tokenizer=subject.tokenizer))
    assert "effect" not in rows


def test_a_single_prompt_is_the_run_s_own_edges():
    subject = tiny.subject("llama")
    batch = batch_of(subject, 1)
    shown = routes.show(subject, batch, HOW.options)["edges"]
    kept = routes.measure(subject, batch, {}, HOW)["edges"]
    assert shown.equals(edges_of(kept[0].numpy(), batch.example_ids[0], subject.tokenizer))
    assert shown["followed"].is_monotonic_decreasing
    assert set(shown["kind"]) <= set(KINDS)
    assert shown[shown["kind"] == "attention"]["strongest"].str.contains(r"^\d\.\d$").all()
    top = shown[(shown["target"] == shown["target"].max()) & (shown["state"] == shown["state"].max())]
    assert top["followed"].sum() == pytest.approx(1.0)


def test_mistakes_are_one_line():
    subject = tiny.subject("llama")
    for wrong in ({"threshold": 0.0}, {"share": 1.0}, {"edges": 0}):
        with pytest.raises(UserError, match=f"--routes.{next(iter(wrong))}"):
            routes.measure(subject, batch_of(subject), {}, How(routes.Options(**wrong)))


def test_layers_without_heads_have_none():
    subject = tiny.subject("olmo_hybrid")
    rows = routes.measure(subject, batch_of(subject), {}, HOW)
    attends = np.isin(np.arange(subject.n_layers), subject.decoder.attending)
    assert not attends.all()
    assert np.array_equal(~rows["importance"].isnan().all(-1).all(0).numpy(), attends)
    assert not rows["sums"].isnan().any()
    assert np.array_equal(~rows["knocked|first token"].isnan().all(0).numpy(), attends)
