"""Cosines equal those of materialised maps, an own pattern put back changes nothing, equal layers are found."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, metrics
from crosslens.analyses.attention import _swapped, layer_similarity
from crosslens.analyses.attention._first_tokens import even_maps, sink_twin
from crosslens.analyses.attention._likeness import FROM, THRESHOLDS, likeness
from crosslens.analyses.attention._swapped import BELOW, swapped
from crosslens.analyses.common import controls
from crosslens.analyses.common.controls import SHUFFLED_PROMPT, UNIFORM
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How

from ..helpers import tiny
from ..helpers.families import build

TEXTS = ["w1 w2 w3 w4 w5 w6 w7 w1 w3 w5 w2", "w4 w2 w7 w1 w6 w6"]
EXAMPLES = [Example(f"text {i}", "a", (Segment("text", text),)) for i, text in enumerate(TEXTS)]
FAMILIES = ["llama", "gemma2", "gpt2", "mistral", "gpt_oss"]


def subject_of(name: str) -> Subject:
    return Subject(build(name), tiny.tokenizer())


def maps_of(subject, batch):
    """Each example's maps of all layers, [layer, h, n, n]."""
    kept = []
    with torch.no_grad(), tracing(subject, lambda layer: kept.append(layer.pattern())):
        subject.forward(batch)
    return [torch.stack([one[i][:, real][..., real] for one in kept]) for i, real in enumerate(batch.mask)]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_cosines_rollout_and_reach_are_those_of_whole_maps(name, padding):
    subject = subject_of(name)
    batch = subject.batch(EXAMPLES, padding=padding)
    rows = likeness(subject, batch, 32)
    for i, maps in enumerate(maps_of(subject, batch)):
        means, n = maps.mean(1), maps.shape[-1]
        for kind, own in (("attention", means), ("sink twin", sink_twin(means))):
            for a in range(len(own)):
                for b in range(len(own)):
                    cosine = metrics.map_cosine(own[a, FROM:], own[b, FROM:])
                    torch.testing.assert_close(rows[f"alike|{kind}"][i, a, b], cosine, rtol=1e-4, atol=1e-5)
        even = metrics.map_cosine(means[:, FROM:], even_maps(n)[FROM:].expand_as(means[:, FROM:]))
        torch.testing.assert_close(rows["floor|attention"][i], even[:, None] * even, rtol=1e-4, atol=1e-5)
        rolled = metrics.attention_rollout(iter(maps))[-1]
        torch.testing.assert_close(rows["rolled"][i, -1, 0], rolled[0], rtol=1e-4, atol=1e-6)
        for t, threshold in enumerate(THRESHOLDS):
            edges = torch.stack([metrics.attention_edges(one, threshold) for one in maps])
            covered = metrics.reachable_positions(edges).float().mean(-1)
            torch.testing.assert_close(rows["reached"][i, t], covered)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(padding):
    subject, how = subject_of("llama"), How(layer_similarity.Options(length=8, positions=5))
    together = layer_similarity.measure(subject, subject.batch(EXAMPLES, padding=padding), {}, how)
    for i, example in enumerate(EXAMPLES):
        alone = layer_similarity.measure(subject, subject.batch([example]), {}, how)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value[0], rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


@pytest.mark.parametrize("within", [32, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_layers_own_pattern_in_its_place_changes_nothing(name, within, monkeypatch):
    """The shuffled prompt stands for another one: without shuffling it is the same."""
    monkeypatch.setattr(_swapped, "shuffled_tokens", lambda batch: batch)
    subject = subject_of(name)
    rows = swapped(subject, subject.batch(EXAMPLES), 5, within)
    assert rows[f"cost|{SHUFFLED_PROMPT}"].abs().max() < 1e-5
    assert rows[f"cost|{BELOW}"][:, 1:].abs().nan_to_num().max() > 1e-4
    assert rows[f"cost|{BELOW}"][:, 0].isnan().all()


def test_equal_layers_are_alike_and_their_patterns_can_be_swapped():
    """The twin whose second layer has queries of its own is not."""
    for same in (True, False):
        model = build("llama")
        first, second = model.model.layers[:2]
        for part in (first.self_attn.o_proj, first.mlp.down_proj):
            part.weight.data.zero_()  # the second layer reads what the first one does
        second.input_layernorm.load_state_dict(first.input_layernorm.state_dict())
        for name in ("q_proj", "k_proj"):
            getattr(second.self_attn, name).weight.data.copy_(getattr(first.self_attn, name).weight.data)
        if not same:
            second.self_attn.q_proj.weight.data.normal_(0, 1.0)
        subject = Subject(model, tiny.tokenizer())
        batch = subject.batch(EXAMPLES)
        alike = likeness(subject, batch, 32)["alike|sink twin"][:, 0, 1]
        cost = swapped(subject, batch, 5, 32)[f"cost|{BELOW}"][:, 1]
        assert bool((alike > 0.9999).all()) is same
        assert bool((cost.abs() < 1e-5).all()) is same


def test_uniform_attention_is_all_floor():
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    subject = Subject(model, tiny.tokenizer())
    batch = subject.batch(EXAMPLES)
    rows = likeness(subject, batch, 32)
    torch.testing.assert_close(rows["alike|attention"], torch.ones_like(rows["alike|attention"]))
    torch.testing.assert_close(rows["floor|sink twin"], torch.ones_like(rows["floor|sink twin"]))
    torch.testing.assert_close(rows["rolled"], rows["rolled, uniform"], equal_nan=True)
    costs = swapped(subject, batch, 5, 32)
    assert costs[f"cost|{UNIFORM}"].abs().max() < 1e-5


def test_random_edges_are_as_many_and_lie_before():
    edges = torch.rand(3, 7, 7).tril(-1) > 0.6
    drawn = controls.random_edges(edges, "a")
    assert torch.equal(drawn.sum(-1), edges.sum(-1))
    assert not drawn.triu().any()
    assert torch.equal(drawn, controls.random_edges(edges, "a"))


def test_a_short_prompt_is_refused_in_one_line():
    subject, how = subject_of("llama"), How(layer_similarity.Options())
    with pytest.raises(UserError, match="fewer than four tokens"):
        layer_similarity.measure(subject, subject.batch(["w1 w2"], bos=False), {}, how)
