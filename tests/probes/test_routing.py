"""What routers are seen to choose is what the MLP adds; without an expert it is the sum of the others, rescaled."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import SubjectError, UserError
from crosslens.probes.model import anatomy
from crosslens.probes.observe.routing import Routed, n_experts, routers, routing, without
from crosslens.probes.observe.tracing import tracing

from ..helpers.families import ROUTED, build, prompts

FAMILIES = ["mixtral", "qwen3_moe", "gpt_oss", *ROUTED, "deepseek_v32"]
FAMILIES += ["granitemoehybrid", "qwen3_next", "jamba", "kimi_linear", "nemotron_h", "laguna"]


def run(subject, padding="left", **asked):
    """The routers' choices and what each MLP reads and writes, by layer, and the last residual."""
    routed: dict[int, Routed] = {}
    read: dict[int, torch.Tensor] = {}
    written: dict[int, torch.Tensor] = {}
    handles = []
    for i in routers(subject):
        mlp = anatomy.mlp_of(subject.layers[i])
        handles.append(mlp.experts.register_forward_hook(lambda m, a, out, i=i: written.update({i: out.clone()})))
        handles.append(mlp.experts.register_forward_pre_hook(lambda m, a, i=i: read.update({i: a[0].clone()})))
    last = []
    keep = lambda layer: last.append(layer.resid_post) if layer.index == subject.n_layers - 1 else None  # noqa: E731
    with torch.no_grad(), routing(subject, lambda i, one: routed.update({i: one}), **asked), tracing(subject, keep):
        subject.forward(prompts(padding))
    for handle in handles:
        handle.remove()
    return routed, read, written, last[0]


def by_hand(subject, layer, read, routed):
    """Σ over experts: each one alone, asked with weight 1, times the weights of the tokens that chose it."""
    experts = anatomy.mlp_of(subject.layers[layer]).experts
    flat = read.reshape(-1, read.shape[-1])
    whole = torch.zeros_like(flat)
    for expert in range(routed.logits.shape[-1]):
        index = torch.full((len(flat), 1), expert)
        with torch.no_grad():
            alone = experts(flat, index, torch.ones(len(flat), 1))
        whole = whole + alone * (routed.weights * (routed.chosen == expert)).sum(-1, keepdim=True)
    return whole


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_experts_write_is_made_of_what_was_chosen(family):
    subject = Subject(build(family))
    clean, read, written, state = run(subject)
    some = {layer: {0} for layer in clean}
    edited, read_edited, written_edited, changed = run(subject, removed=some)
    assert not torch.equal(state, changed)
    for layer in clean:
        for routed, given, out in (
            (clean[layer], read[layer], written[layer]),
            (edited[layer], read_edited[layer], written_edited[layer]),
        ):
            expected = by_hand(subject, layer, given, routed)
            torch.testing.assert_close(out.reshape(expected.shape), expected, rtol=1e-3, atol=1e-4)
        gone = (edited[layer].chosen == 0) & (edited[layer].weights != 0)
        assert not gone.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_taken_out_changes_nothing_and_watching_neither(family):
    subject = Subject(build(family))
    states = []
    with torch.no_grad(), tracing(subject, lambda layer: states.append(layer.resid_post)):
        subject.forward(prompts("left"))
    assert torch.equal(states[-1], run(subject)[3])
    assert torch.equal(states[-1], run(subject, removed=dict.fromkeys(routers(subject), ()))[3])
    with torch.no_grad(), tracing(subject, lambda layer: states.append(layer.resid_post)):
        subject.forward(prompts("left"))
    assert torch.equal(states[0], states[subject.n_layers])


def test_weights_of_the_others_keep_their_sum():
    routed = Routed(
        torch.zeros(3, 4),
        torch.tensor([[0.6, 0.2], [0.5, 0.3], [0.4, 0.4]]),
        torch.tensor([[0, 1], [2, 3], [3, 0]]),
    )
    left = without(routed, {0}).weights
    torch.testing.assert_close(left, torch.tensor([[0.0, 0.8], [0.5, 0.3], [0.8, 0.0]]))
    assert without(routed, {0, 1}).weights[0].tolist() == [0.0, 0.0]  # no other was chosen
    assert torch.equal(without(routed, {0}).chosen, routed.chosen)


def test_a_token_that_chose_none_of_them_is_as_it_was():
    subject = Subject(build("mixtral"))
    first = min(routers(subject))
    clean, _, written, _ = run(subject)
    _, _, edited, _ = run(subject, removed={first: {1}})
    chose = (clean[first].chosen == 1).any(-1)
    before, after = (out[first].reshape(len(chose), -1) for out in (written, edited))
    assert chose.any()
    assert not chose.all()
    assert torch.equal(before[~chose], after[~chose])
    assert not torch.isclose(before[chose], after[chose]).all(-1).any()


def test_models_without_experts_and_experts_that_do_not_exist_are_one_line():
    with pytest.raises(SubjectError, match="llama has no experts to read: its MLP is no mixture of experts"):
        routers(Subject(build("llama")))
    with pytest.raises(SubjectError, match="does not say which experts it chose"):
        routers(Subject(build("llama4_text")))
    subject = Subject(build("deepseek_v3"), name="tiny")
    assert [*routers(subject)] == [1, 2]
    assert {n_experts(one) for one in routers(subject).values()} == {4}
    for wrong, said in (({0: {1}}, "layer 0 of tiny has no router"), ({1: {9}}, "no expert 9 in layer 1")):
        with pytest.raises(UserError, match=said), routing(subject, removed=wrong):
            pass
