"""Families as none of the table is, planted into tiny models: what proofs and sweeps make of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import SubjectError
from crosslens.probes.intervene import proofs
from crosslens.probes.intervene.intervening import full_forward
from crosslens.probes.intervene.interventions import Knockout
from crosslens.probes.intervene.knockout import knockout_sweep
from crosslens.probes.intervene.recording import record
from crosslens.probes.model import vision_inputs

from ..helpers import vision, vision_subjects
from ..helpers.families import build, prompts

PLAIN = "logits equal those of a plain call"


def counting_from(subject, start):
    """The family counts positions from `start` by itself, as kosmos-2.5 does; told positions are taken as they are."""
    inner = subject.model.get_decoder()
    forward = inner.forward

    def counts(*args, position_ids=None, attention_mask=None, **kwargs):
        if position_ids is None:
            position_ids = start + attention_mask.long().cumsum(-1) - 1
        return forward(*args, position_ids=position_ids, attention_mask=attention_mask, **kwargs)

    inner.forward = counts


def with_a_mixer_beside_attention(subject):
    """Every attention also adds a running sum over earlier rows, which no pattern shows, as Falcon H1's Mamba does."""
    for layer in subject.layers:
        layer.self_attn.forward = _mixing(layer.self_attn.forward)


def _mixing(forward):
    def mixes(hidden_states, attention_mask=None, **kwargs):
        out, pattern = forward(hidden_states, attention_mask=attention_mask, **kwargs)
        states = hidden_states
        if attention_mask is not None:
            own = attention_mask[:, 0].diagonal(dim1=1, dim2=2)
            states = hidden_states * (own if own.dtype == torch.bool else own == 0)[..., None]
        return out + 0.5 * states.cumsum(1) @ _MIXING, pattern

    return mixes


_MIXING = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]


def test_positions_that_start_elsewhere_are_noticed():
    subject = Subject(build("gpt2"))
    counting_from(subject, 0)
    assert subject.check()["passed"].all()
    counting_from(subject, 2)
    with pytest.raises(SubjectError, match=f"gpt2 .gpt2.: {PLAIN} fails at prompt 0"):
        subject.check()


def test_positions_that_start_elsewhere_behind_an_image_are_noticed(monkeypatch):
    """A family that shifts its positions where there is an image alone: text proofs pass."""
    subject = Subject(*vision_subjects.build("llava"))
    prepare = Subject.prepare

    def shifted(self, inputs):
        arguments = prepare(self, inputs)
        if "pixel_values" in arguments:
            arguments["position_ids"] = 2 * arguments["position_ids"]
        return arguments

    monkeypatch.setattr(Subject, "prepare", shifted)
    with pytest.raises(SubjectError, match=f"{PLAIN} fails at prompt 0, with an image"):
        subject.check()


@torch.no_grad()
def _last_row_sweep(subject, given):
    mask = given["attention_mask"].bool()
    last, first = torch.zeros_like(mask), torch.zeros_like(mask)
    last[:, -1], first[:, 0] = True, True
    found = knockout_sweep(subject, given, first, last, window=1, measure=lambda logits, _: logits[:, :5])
    base = record(subject, given)
    expected = [full_forward(base, {i: (Knockout(last, first),)}) for i in range(3)]
    logits = torch.stack([subject.unembed(subject.norm(resid))[:, :5] for resid in expected])
    return found, float((found.values - logits).abs().max() / (logits - found.clean).abs().max())


def test_a_mixer_beside_attention_is_run_whole(monkeypatch):
    subject, given = Subject(build("llama")), prompts("none")
    with_a_mixer_beside_attention(subject)
    frame = subject.check()
    rows = frame[frame["check"] == "an edited replay equals the edited forward"]
    assert len(rows) == 1
    assert not rows["passed"].any()
    found, off = _last_row_sweep(subject, given)
    assert "whole forwards" in found.notes[0]
    assert off < 1e-4


def test_edits_of_every_row_alone_would_not_see_a_mixer(monkeypatch):
    """The replay of every row has all that a mixer reads: without the proofs on some rows its sweeps would be wrong."""
    trials = proofs._trials
    monkeypatch.setattr(proofs, "_trials", lambda base: itertools.islice(trials(base), 1))
    monkeypatch.setattr("crosslens.probes.intervene.knockout.verify_edit", lambda *args: ())
    subject = Subject(build("llama"))
    with_a_mixer_beside_attention(subject)
    found, off = _last_row_sweep(subject, prompts("none"))
    assert not found.notes
    assert off > 0.01


def test_logits_of_a_family_that_gives_all():
    """A forward that knows no `logits_to_keep` gives all logits, and those asked for are taken."""
    subject, plain = Subject(build("llama")), Subject(build("llama"))
    forward = subject.model.forward

    def gives_all(input_ids, attention_mask=None, position_ids=None, use_cache=None, output_attentions=None):
        return forward(input_ids, attention_mask, position_ids, output_attentions=output_attentions, use_cache=False)

    subject.model.forward = gives_all
    given = prompts("left")
    for keep in (0, 1, 3, torch.tensor([2, 5])):
        expected = plain.forward(given, keep=keep)
        torch.testing.assert_close(subject.forward(given, keep=keep), expected, rtol=1e-5, atol=1e-5)
    assert subject.check()["passed"].all()


def test_a_logit_scale_of_none_is_one():
    subject, given = Subject(build("llama")), prompts("right")
    expected = subject.last_logits(given)
    subject.model.logit_scale = None
    other = Subject(subject.model)
    last = capture(other, given, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"]
    rows = torch.arange(3), given["attention_mask"].sum(1) - 1
    torch.testing.assert_close(other.unembed(other.norm(last[rows])), expected, rtol=1e-5, atol=1e-5)


def test_features_of_another_form_are_not_counted():
    class Features:
        pooler_output = None

    subject, given = Subject(vision.build("llava")), vision.inputs(vision.build("llava"), "right")
    inner = subject.model.model
    features = inner.get_image_features
    try:
        inner.get_image_features = lambda *args, **kwargs: Features()
        arguments = subject.prepare(given)
        with vision_inputs.counted(subject.model, arguments):
            assert inner.get_image_features().pooler_output is None
    finally:
        inner.get_image_features = features


def test_an_unknown_argument_of_an_attention_names_family_and_layer():
    subject = Subject(build("llama"))
    attention = subject.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs, sinks=torch.zeros(1))
    with pytest.raises(SubjectError, match="llama: layer 1: LlamaAttention passes sinks to its attention"):
        subject.check()
    with pytest.raises(SubjectError, match="llama: layer 1"):
        capture(subject, prompts("right"), ["z"])


@pytest.mark.parametrize("what", ["check", "capture"])
def test_what_breaks_names_family_and_layer(what):
    subject = Subject(build("llama"))
    subject.layers[1].mlp.forward = lambda states: states.no_such_thing
    with pytest.raises(SubjectError, match=r"llama .llama.: .*no_such_thing. \(in layer 1\)$") as error:
        subject.check() if what == "check" else capture(subject, prompts("right"), ["z"])
    assert isinstance(error.value.__cause__, AttributeError)
