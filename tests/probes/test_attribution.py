"""Attribution is exact patching in the limit of small changes, complete in the limit of many steps, and as
TransformerLens has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens import Subject, attribution_sweep
from crosslens.data.errors import UserError
from crosslens.probes.intervene.attribution import attribution_sweeps
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.edge_graph import Reader
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import patch_sweep
from crosslens.probes.intervene.recording import record

from ..helpers import by_hand, tiny
from ..helpers.families import build, prompts

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
SITES = ("z", "resid_pre", "attn_out", "mlp_out")


def nearby(base, donor, share):
    """The donor moved towards the base: a recording whose activations lie `share` of the way."""
    layers = []
    for ours, theirs in zip(base.layers, donor.layers, strict=True):
        resid = ours.resid_pre + share * (theirs.resid_pre - ours.resid_pre)
        sites = {name: site + share * (theirs.sites[name] - site) for name, site in ours.sites.items()}
        layers.append(replace(ours, resid_pre=resid, sites=sites))
    return replace(base, layers=layers)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "llava"])
def test_small_changes_are_predicted(family, padding):
    given, other = by_hand.inputs(family, padding), by_hand.inputs(family, padding, seed=1)
    subject = Subject(by_hand.build(family))
    base, donor = (record(subject, one, SITES) for one in (given, other))
    donor = nearby(base, donor, 1e-3)
    for site in SITES:
        for positions in (base.mask, "each"):
            exact = patch_sweep(subject, base, donor, site, positions=positions, measure=MEASURE)
            found = attribution_sweep(subject, base, donor, site, positions=positions, measure=MEASURE)
            assert found.values.shape == exact.values.shape
            assert torch.equal(found.values.isnan(), exact.values.isnan())
            effects = [(s.values - s.clean).nan_to_num().double() for s in (exact, found)]
            scale = effects[0].abs().max()
            assert float((effects[0] - effects[1]).abs().max() / scale) < 0.02, site


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", by_hand.FAMILIES)
def test_replayed_gradients_equal_those_of_whole_forwards(family, padding):
    """Twins that part at their last token but two: rows before it are not run again."""
    given = by_hand.inputs(family, padding)
    other = {name: value.clone() for name, value in given.items()}
    mask = given["attention_mask"]
    parting = (mask.cumsum(1) == mask.sum(1, keepdim=True) - 2) & mask.bool()
    other["input_ids"][parting] = (given["input_ids"][parting] + 7) % 50 + 1
    subject = Subject(by_hand.build(family))
    base, donor = record(subject, given, SITES), record(subject, other, SITES)
    asked = {"positions": "each", "measure": MEASURE, "steps": 2}
    replayed = attribution_sweeps(subject, base, donor, SITES, **asked)
    slow = attribution_sweeps(subject, replace(base, obstacle="whole forwards"), donor, SITES, **asked)
    for site in SITES:
        expected = slow[site].values - slow[site].clean
        scale = float(expected.nan_to_num().abs().max())
        assert scale > 0
        found = replayed[site].values - replayed[site].clean
        torch.testing.assert_close(found, expected, atol=1e-4 * scale + 1e-7, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_integrated_gradients_are_complete(family):
    """Over all positions of the embeddings, pixels included, they sum to the whole change."""
    given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
    subject = Subject(by_hand.build(family))
    kwargs = {"positions": "each", "measure": MEASURE}
    errors = []
    for steps in (1, 5, 200):
        sweep = attribution_sweep(subject, given, other, "resid_pre", steps=steps, **kwargs)
        total = (sweep.values[0] - sweep.clean).nansum(0)
        errors.append(float((total - (sweep.donor - sweep.clean)).abs().max()))
    assert errors[-1] < 0.02 * errors[0]
    assert errors[-1] < 0.05
    if family == "llava":
        image = given["input_ids"] == by_hand.vision.IMAGE
        assert float((sweep.values[0] - sweep.clean)[image.T].abs().max()) > 0


def test_batch_and_padding_do_not_matter():
    subject = Subject(by_hand.build("llama"))
    values = []
    for padding in ("left", "right"):
        pair = [by_hand.inputs("llama", padding, seed=s) for s in (0, 1)]
        real = pair[0]["attention_mask"].bool()
        for one in pair:  # the same real tokens on either side
            tokens = torch.randint(1, 61, one["input_ids"].shape, generator=torch.Generator().manual_seed(len(values)))
            one["input_ids"] = tokens
        words = [torch.arange(1, 9).roll(s) for s in (0, 3)]
        for one, word in zip(pair, words, strict=True):
            for row, there in zip(one["input_ids"], real, strict=True):
                row[there] = word[: int(there.sum())]
        sweep = attribution_sweep(subject, *pair, "z", positions=real, measure=MEASURE, steps=3)
        values.append(sweep.values)
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)


def test_edges_leaving_a_writer_sum_to_its_node():
    for family in ("llama", "gpt_neox", "granite"):
        given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
        subject = Subject(by_hand.build(family))
        edges = edge_attribution(subject, given, other, measure=MEASURE, steps=2)
        total = edges.values.nansum(0)
        kwargs = {"positions": given["attention_mask"].bool(), "measure": MEASURE, "steps": 2}
        for site, kind in (("z", "head"), ("mlp_out", "mlp")):
            sweep = attribution_sweep(subject, given, other, site, **kwargs)
            mine = torch.stack([total[i] for i, w in enumerate(edges.writers) if w.kind == kind])
            expected = (sweep.values - sweep.clean).reshape(mine.shape)
            torch.testing.assert_close(mine, expected, atol=2e-4, rtol=2e-3)
        early = [w.layer >= r.layer for r in edges.readers for w in edges.writers if r.kind in "qkv"]
        nan = [edges.values[i].isnan()[:, 0] for i, r in enumerate(edges.readers) if r.kind in "qkv"]
        assert torch.equal(torch.cat(nan), torch.tensor(early))


def test_nodes_and_edges_equal_transformerlens():
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    base, donor = ({k: v[:1] for k, v in prompts("none", seed).items()} for seed in (0, 1))
    model = build("gpt2")
    bridge = tiny.bridge(model)
    subject, measure = Subject(model), logit_difference(torch.tensor([3]), torch.tensor([6]))
    # They take the gradient on the corrupt run and patch towards the clean one: our base is their corrupt.
    config = EdgeAttributionConfig(granularity="edge")
    theirs = attribution_patch(
        bridge, donor["input_ids"], base["input_ids"], lambda logits: logits[0, -1, 3] - logits[0, -1, 6], config
    )
    edges = edge_attribution(subject, base, donor, measure=measure)
    kinds = {"q": "q_input", "k": "k_input", "v": "v_input", "mlp": "mlp_in", "final": "logits"}
    expected: dict = {}
    for (writer, reader), score in theirs.edge_scores.items():
        place = (writer.kind, writer.layer, writer.head, reader.kind, reader.layer, reader.head)
        expected[place] = expected.get(place, 0.0) + score
    names = {"embed": "embed", "head": "attn_head_out", "mlp": "mlp_out"}
    found = {}
    for i, r in enumerate(edges.readers):
        for j, w in enumerate(edges.writers):
            value = float(edges.values[i, j, 0])
            if value == value:
                layer = 2 if r.kind == "final" else r.layer
                heads = [None if h < 0 else h for h in (w.head, r.head)]
                writer_layer = None if w.kind == "embed" else w.layer
                found[(names[w.kind], writer_layer, heads[0], kinds[r.kind], layer, heads[1])] = value
    assert found.keys() == expected.keys()
    scale = max(map(abs, expected.values()))
    assert max(abs(found[place] - expected[place]) for place in found) < 1e-4 * scale


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "olmo2", "glm4"])
def test_what_all_writers_say_to_the_output_is_the_whole_change(family):
    """Also through a norm between the heads and the residual, its scale held in either run."""
    given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
    subject = Subject(by_hand.build(family))
    base, donor = record(subject, given, ("z", "mlp_out")), record(subject, other, ("z", "mlp_out"))
    end = Reader("final", 3, -1)
    found = edge_attribution(subject, base, donor, measure=MEASURE, readers=[end], positions=base.final)
    state = base.resid.clone().requires_grad_()
    MEASURE(subject.unembed(subject.norm(state)).float(), torch.arange(3)).sum().backward()
    expected = ((donor.resid - base.resid) * state.grad).sum(-1)
    torch.testing.assert_close(found.values[0].sum(0), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("obstacle", ["", "whole forwards"])
def test_weights_ask_for_no_gradient_meanwhile(obstacle):
    """A graph with them would keep what every linear layer reads; afterwards they ask as before."""
    given, other = by_hand.inputs("llama", "left"), by_hand.inputs("llama", "left", seed=1)
    subject = Subject(by_hand.build("llama"))
    subject.model.lm_head.weight.requires_grad_(False)
    before = [weight.requires_grad for weight in subject.model.parameters()]
    base, donor = (replace(record(subject, one, SITES), obstacle=obstacle) for one in (given, other))
    wanted = []

    def measure(logits, rows):
        wanted.append(logits.requires_grad and any(weight.requires_grad for weight in subject.model.parameters()))
        return MEASURE(logits, rows)

    attribution_sweep(subject, base, donor, "z", positions=base.mask, measure=measure)
    edge_attribution(subject, base, donor, measure=measure)
    assert len(wanted) >= 2
    assert not any(wanted)
    assert [weight.requires_grad for weight in subject.model.parameters()] == before


def test_mistakes_are_one_line():
    given, other = by_hand.inputs("gemma2", "left"), by_hand.inputs("gemma2", "left", seed=1)
    subject = Subject(by_hand.build("gemma2"))
    mask = given["attention_mask"].bool()
    with torch.no_grad():
        subject.layers[0].self_attn.o_proj.bias = torch.nn.Parameter(torch.ones(32))
    with pytest.raises(UserError, match="norms its heads and a bias together"):
        edge_attribution(subject, given, other, measure=MEASURE)
    with pytest.raises(UserError, match="steps 0"):
        attribution_sweep(subject, given, other, "z", positions=mask, measure=MEASURE, steps=0)
    with pytest.raises(UserError, match="cannot attribute"):
        attribution_sweep(subject, given, other, "pattern", positions=mask, measure=MEASURE)
    with pytest.raises(UserError, match="'each'"):
        attribution_sweep(subject, given, other, "z", positions="all", measure=MEASURE)
