"""Laws of weights: against whole matrices and TransformerLens, a planted channel and its twin, keys by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from crosslens import Subject
from crosslens.analyses import metrics
from crosslens.analyses.common.head_weights import score_circuit, value_circuit
from crosslens.analyses.weights import weights
from crosslens.analyses.weights._circuits import circuits_of, of_heads, permuted
from crosslens.analyses.weights._composed import KINDS, Circuits, composed
from crosslens.analyses.weights._distances import DISTANCES, turned_by_one
from crosslens.analyses.weights._keys import _inside
from crosslens.analyses.weights._matrices import MATRICES, of_matrices
from crosslens.data.errors import SubjectError, UserError
from crosslens.probes.intervene.rope import rotary_frequencies
from crosslens.probes.model.head_weights import key_weight, query_weight
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe
from crosslens.probes.sites import SiteError

from ..helpers import tiny
from ..helpers.families import TEXT, build, prompts
from ..helpers.makers import tables_from
from ..probes.test_families import assert_close
from .claims.weights import rows as planted_rows

HOW = How(weights.Options(hull=2))


@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_query_and_key_weights_give_what_the_projections_give(family):
    """W_Q and W_K of every head, applied to what the attention reads, up to a constant (the bias)."""
    subject = Subject(build(family))

    def check(layer):
        from crosslens.probes.model.frozen_norms import input_norm

        norm = input_norm(subject.layers[layer.index])
        read = layer.resid_pre if norm is None else norm(layer.resid_pre)
        for site, of in (("q", query_weight), ("k", key_weight)):
            try:
                weight, told = of(subject, layer.index), layer[site]
            except (SubjectError, SiteError):  # normed, or fused
                continue
            told = told.repeat_interleave(subject.n_heads // told.shape[2], 2)
            rest = told - torch.einsum("bpd,hde->bphe", read, weight)
            assert_close(rest - rest.mean((0, 1)) + told, told, family)

    with tracing(subject, check):
        subject.forward(prompts("none"))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3"])
@torch.no_grad()
def test_fused_projections_give_the_scores_of_the_first_position(family):
    """At the first position nothing is turned yet: the queries that the attention reads are those of W_Q."""
    subject = Subject(build(family))

    def check(layer):
        from crosslens.probes.model.frozen_norms import input_norm

        norm = input_norm(subject.layers[layer.index])
        read = layer.resid_pre if norm is None else norm(layer.resid_pre)
        for told, of in ((layer.rot_q, query_weight), (layer.rot_k, key_weight)):
            told = told.repeat_interleave(subject.n_heads // told.shape[2], 2)[:, 0]
            rest = told - torch.einsum("bd,hde->bhe", read[:, 0], of(subject, layer.index))
            assert_close(rest - rest.mean(0) + told, told, family)

    with tracing(subject, check):
        subject.forward(prompts("none"))


def test_all_pairs_equal_pairs():
    rng = torch.Generator().manual_seed(0)
    senders, receivers = ((torch.randn(n, 12, 4, generator=rng), torch.randn(n, 4, 12, generator=rng)) for n in (3, 2))
    found = metrics.compositions(senders, receivers)
    for s in range(3):
        for t in range(2):
            one = metrics.composition((senders[0][s], senders[1][s]), (receivers[0][t], receivers[1][t]))
            torch.testing.assert_close(found.whole[s, t], one.whole)
            torch.testing.assert_close(found.components[s, t], one.components)
            torch.testing.assert_close(found.singular[s], one.singular)


def test_ranks_and_eigenvalues_equal_those_of_whole_matrices():
    rng = torch.Generator().manual_seed(1)
    left, right = torch.randn(9, 3, generator=rng), torch.randn(3, 9, generator=rng)
    whole = left @ right
    values = torch.linalg.svdvals(metrics.product_core(left, right))
    torch.testing.assert_close(values, torch.linalg.svdvals(whole)[:3])
    ranks = metrics.spectrum_ranks(values)
    torch.testing.assert_close(ranks.stable, metrics.stable_rank(whole))
    torch.testing.assert_close(ranks.participation, metrics.participation_ratio(whole))
    eigenvalues = torch.linalg.eigvals(whole)
    expected = eigenvalues.real.sum() / eigenvalues.abs().sum()
    torch.testing.assert_close(metrics.positive_eigenvalue_share(left, right), expected, rtol=1e-4, atol=1e-5)
    assert metrics.positive_eigenvalue_share(left, left.T).item() == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_whole_scores_are_those_of_transformer_lens(family):
    from transformer_lens import FactoredMatrix
    from transformer_lens.utilities.matrix import composition_scores

    subject = tiny.subject(family)
    found = composed(circuits_of(subject), subject.n_layers)
    sender = FactoredMatrix(*value_circuit(subject, 0))
    queries, keys = score_circuit(subject, 2)
    values, out = value_circuit(subject, 2)
    readers = {"Q": (queries, keys), "K": (keys.mT, queries.mT), "V": (values, out)}
    for kind in KINDS:
        expected = composition_scores(sender, FactoredMatrix(*readers[kind]), broadcast_dims=True)
        torch.testing.assert_close(found[f"{kind}|whole"][0, :, 2], expected, rtol=1e-4, atol=1e-5)
    assert found["Q|whole"][1, :, 1].isnan().all()
    assert found["Q|whole"][2, :, 1].isnan().all()


def planted(twin: bool) -> list[Circuits]:
    """Two layers of random heads; the keys of 1.2 read the strongest direction that 0.1 writes, but not in the twin."""
    rng = torch.Generator().manual_seed(2)
    d, r, heads = 64, 8, 4

    def random() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(heads, d, r, generator=rng), torch.randn(heads, r, d, generator=rng)

    first, second = Circuits(0, random(), random()), Circuits(1, random(), random())
    assert first.ov is not None
    assert second.qk is not None
    if not twin:
        written = first.ov[1][1, 0] * 4
        first.ov[1][1, 0] = written
        second.qk[1][2] += 3 * written / 4 * torch.randn(r, 1, generator=rng)  # Wᵀ_K: rows along what is written
    return [first, second]


def test_a_composed_channel_is_found_and_nothing_in_its_twin():
    for twin in (False, True):
        circuits = planted(twin)
        part = composed(circuits, 2)["K|part"]
        bar = max(float(composed(permuted(circuits, draw), 2)["K|part"].nan_to_num().max()) for draw in range(8))
        above = {tuple(place) for place in (part.nan_to_num() > bar).nonzero().tolist()}
        assert above == (set() if twin else {(0, 1, 1, 2)})


def test_permuted_weights_keep_the_entries_and_lose_the_symmetry():
    subject = tiny.subject("gpt2")
    circuits = circuits_of(subject)
    mixed = permuted(circuits, 0)
    for one, other in zip(circuits, mixed, strict=True):
        assert one.ov is not None
        assert other.ov is not None
        torch.testing.assert_close(one.ov[0].flatten(1).sort().values, other.ov[0].flatten(1).sort().values)
    with torch.no_grad():
        circuits = [one._replace(qk=(one.qk[0], one.qk[0].mT)) for one in circuits if one.qk is not None]
    assert of_heads(circuits, 3)["QK symmetric share"].min() == pytest.approx(1.0)
    assert of_heads(permuted(circuits, 0), 3)["QK symmetric share"].mean() == pytest.approx(0.5, abs=0.1)


def test_matrices_are_those_of_the_layer():
    subject = tiny.subject("llama")
    layer = subject.model.model.layers[1]
    whole = {"Q": layer.self_attn.q_proj, "K": layer.self_attn.k_proj, "V": layer.self_attn.v_proj}
    whole |= {"O": layer.self_attn.o_proj, "gate": layer.mlp.gate_proj, "up": layer.mlp.up_proj}
    whole |= {"down": layer.mlp.down_proj}
    found = of_matrices(subject)["stable rank"][1]
    for name, module in whole.items():
        torch.testing.assert_close(found[MATRICES.index(name)], metrics.stable_rank(module.weight.detach()))
    assert of_matrices(tiny.subject("gpt2"))["stable rank"][:, MATRICES.index("up")].isnan().all()  # it has no gate


def test_families_whose_weights_alone_give_no_circuit_lack_it():
    normed = circuits_of(Subject(build("qwen3")))
    assert all(one.qk is None and one.ov is not None for one in normed)
    found = weights.weights(tiny.subject("qwen3"), weights.Options())
    assert found["heads|QK symmetric share"].isnan().all()
    assert "K|part" not in found
    assert "V|part" in found


def test_a_model_with_one_attending_layer_has_no_composition():
    planted = planted_rows(one_layer=True)
    tables = tables_from(weights, planted)
    assert not {"composition", "between", "composed"} & set(tables)
    row = tables["tested"].set_index("claim").loc["components stand out"]
    assert row["untestable"].startswith("no head reads an earlier layer's")


def test_short_texts_say_nothing_of_hulls():
    """Of fewer than d_head + 2 keys none lies inside the hull of the others, whatever they are."""
    keys = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    assert _inside(keys[:9], keys[:9], True).isnan().all()
    assert not _inside(keys, keys, True).isnan().any()
    for options, said in ((weights.Options(), "every text has fewer"), (weights.Options(hull=0), "no layer was asked")):
        row = tables_from(weights, planted_rows(keys=False), options)["tested"].set_index("claim")
        assert row.loc["keys can be chosen", "untestable"].startswith(said)


def rows_of(subject, batch):
    return observe(subject, batch, {"weights": (weights, HOW)})["weights"]


def test_keys_by_hand():
    subject = tiny.subject("llama")
    batch = subject.batch(tiny.examples(3, tokenizer=subject.tokenizer))
    found, seen = rows_of(subject, batch), {}
    with tracing(subject, lambda layer: seen.update({layer.index: (layer.rot_q, layer.rot_k)})):
        subject.forward(batch)
    for example in range(3):
        kept = batch.mask[example].nonzero()[1:, 0]
        queries, keys = seen[1][0][example, kept], seen[1][1][example, kept]
        torch.testing.assert_close(found["use"][example, 1], metrics.frequency_use(queries, keys))
        expected = torch.stack([metrics.key_interference(keys[:, h]).square for h in range(keys.shape[1])])
        torch.testing.assert_close(found["interference"][example, 1, :, 0], expected)
    assert found["hull"][:, 1].isnan().all()
    enough = batch.mask.sum(1) - 1 >= subject.d_head + 2
    assert enough.any()
    assert bool((~found["hull"][:, [0, 2]].isnan() == enough[:, None, None, None]).all())


def test_rotary_pairs_are_seen_where_there_are_any():
    for family, there in (("llama", True), ("gpt2", False), ("gpt_neox", False), ("smollm3", True)):
        subject = tiny.subject(family)
        use = rows_of(subject, subject.batch(tiny.examples(2, tokenizer=subject.tokenizer)))["use"]
        assert bool((~use.isnan()).any()) == there, family
    assert use[:, 1].isnan().all()
    assert not use[:, 0].isnan().any()


def test_the_turn_between_neighbours_is_that_of_the_model():
    subject = tiny.subject("llama")
    batch = subject.batch(tiny.examples(1, tokenizer=subject.tokenizer))
    expected, found = rotary_frequencies(subject), {}

    def check(layer):
        rows = torch.arange(1, int(batch.mask[0].sum()))
        found[layer.index] = turned_by_one(layer.q[0, rows], layer.rot_q[0, rows], rows)
        one = turned_by_one(layer.q[0, rows[:1]], layer.rot_q[0, rows[:1]], rows[:1])
        assert one.isnan().all()

    with tracing(subject, check):
        subject.forward(batch)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_looks_back_by_position_alone_is_found_and_not_its_twin():
    """Biases make the mean key, and the mean query of head 1 the key as the rotation brings it from one place back."""
    for planted_ in (True, False):
        subject = biased(planted_)
        batch = subject.batch(tiny.examples(3, tokenizer=subject.tokenizer))
        scores = rows_of(subject, batch)["distances"][:, 0]
        assert scores.shape[-1] == DISTANCES
        assert bool((scores[:, 1].argmax(-1) == 1).all()) == planted_
    mixed = rows_of(biased(True), batch)["distances|permuted"][:, 0, 1]
    assert not bool((mixed.argmax(-1) == 1).all())


def biased(back: bool) -> Subject:
    """A small Llama whose first layer's queries and keys are nearly their biases; back: a query is its key,
    turned as far back as the rotation turns in one place.
    """
    subject = tiny.subject("llama")
    angle = -rotary_frequencies(subject) * back
    key = torch.randn(subject.decoder.n_kv_heads, subject.d_head, generator=torch.Generator().manual_seed(3)) * 4
    first, second = key.unflatten(-1, (2, -1)).unbind(-2)
    query = torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)
    model = copy.deepcopy(subject.model)
    attention = model.model.layers[0].self_attn
    for projection, bias in (
        (attention.q_proj, query.repeat_interleave(subject.n_heads // len(key), 0)),
        (attention.k_proj, key),
    ):
        projection.bias = torch.nn.Parameter(bias.flatten())
        projection.weight.data.mul_(0.01)
    return Subject(model, subject.tokenizer)


def test_rows_do_not_depend_on_batch_padding_and_order():
    subject = tiny.subject("llama")
    examples = tiny.examples(4, tokenizer=subject.tokenizer)
    whole = rows_of(subject, subject.batch(examples))
    other = rows_of(subject, subject.batch(examples[::-1], padding="left"))
    for name, values in whole.items():
        torch.testing.assert_close(other[name].flip(0), values, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"), [({"draws": 1}, "draws 1: at least 2"), ({"hull": -1}, "hull -1: a number")]
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(UserError, match=f"--weights.{said}"):
        weights.weights(tiny.subject(), weights.Options(**options))
