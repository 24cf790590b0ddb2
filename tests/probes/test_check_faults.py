"""Planted faults: each way to read a model wrongly makes `check` raise, and the message names proof and place.

A fault is planted into crosslens, never into the model: what Hugging Face computes stays the truth.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import SubjectError
from crosslens.probes.check import layer_checks, subject_checks
from crosslens.probes.model import anatomy, attention, head
from crosslens.probes.model import subject as subject_module
from crosslens.probes.model.attention import AttentionCall
from crosslens.probes.observe import tracing as trace
from crosslens.probes.observe.tracing import Layer
from torch import nn
from transformers import AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ..helpers import vision_subjects
from ..helpers.families import build

HEADS = "heads through W_O sum to the attention output"
MIXED = "pattern times v is attn_z"
EAGER = "patterns equal eager attention's"
PARTS = "parts sum to the residual"
LENS = "the last lens equals the logits"


DTYPES = [torch.float32, torch.bfloat16]


def caught(family: str, proof: str, place: str, fault=lambda subject: None, dtypes=DTYPES) -> None:
    """`proof` fails at `place`, in half precision too. (Without the fault it passes: tests/probes/test_families.py.)"""
    for dtype in dtypes:
        subject = Subject(build(family).to(dtype))
        fault(subject)
        with pytest.raises(SubjectError) as error:
            subject.check()
        assert str(error.value).startswith(f"{subject.family} ({subject.name}): {proof} fails at {place}: ")


def once_opened(monkeypatch, name, wrong):
    """A fault of `anatomy` behind the opening, which would else find the parts by the layer's own sums."""

    def fault(subject):
        monkeypatch.undo()
        subject = Subject(subject.model)
        monkeypatch.setattr(anatomy, name, wrong)

    return fault


def replace_call(monkeypatch, **changes):
    """Every attention call is made with other arguments than the model passed."""

    def init(self, *args, _init=AttentionCall.__init__, **kwargs):
        _init(self, *args, **(kwargs | changes))

    monkeypatch.setattr(AttentionCall, "__init__", init)


@pytest.fixture
def mask_function():
    """Registers another mask function for the time of a test."""
    yield partial(AttentionMaskInterface.register, attention.NAME)
    AttentionMaskInterface.register(attention.NAME, sdpa_mask)


# --- heads


def test_heads_split_the_wrong_way(monkeypatch):
    def split(layer, n_heads):
        weight = anatomy.output_projection(layer).weight.T
        return weight.reshape(-1, n_heads, weight.shape[1]).transpose(0, 1)

    monkeypatch.setattr(anatomy, "output_weight", split)
    caught("llama", HEADS, "layer 0")


def test_z_split_the_wrong_way(monkeypatch):
    def split(self):
        return self.attn_z.unflatten(2, (2, 2)).transpose(2, 3).flatten(2, 3)

    monkeypatch.setattr(Layer, "z", property(split))
    caught("llama", "z is what W_O reads", "layer 0")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_kv_heads_are_dealt_out_in_turn(monkeypatch, family):
    def wrong(left, right):
        return left @ right.repeat(1, left.shape[1] // right.shape[1], 1, 1)

    monkeypatch.setattr(attention, "grouped_matmul", wrong)
    caught(family, MIXED, "layer 0")


def test_kv_heads_are_not_expanded(monkeypatch):
    monkeypatch.setattr(attention, "grouped_matmul", lambda left, right: left @ right[:, :1])
    caught("qwen2", MIXED, "layer 0")


def test_output_weight_is_transposed(monkeypatch):
    def transposed(layer, n_heads):
        weight = anatomy.output_projection(layer).weight
        return weight.reshape(n_heads, -1, weight.shape[1])

    monkeypatch.setattr(anatomy, "output_weight", transposed)
    caught("llama", HEADS, "layer 0")


def test_output_weight_of_a_conv1d_is_transposed(monkeypatch):
    monkeypatch.setattr(anatomy, "output_weight", lambda layer, n: layer.attn.c_proj.weight.T.reshape(n, -1, 32))
    caught("gpt2", HEADS, "layer 0")


# --- patterns


def test_pattern_before_the_softmax(monkeypatch):
    def scores(self, query, key, allowed, bias):
        found = attention.grouped_matmul(query * self.scale, key.transpose(2, 3))
        return found.masked_fill(~allowed, 0.0)

    monkeypatch.setattr(AttentionCall, "_softmax", scores)
    caught("llama", "pattern rows sum to 1", "layer 0")


def test_padding_mask_is_dropped(mask_function):
    mask_function(lambda *args, **kwargs: None)
    caught("llama", "padding is never read", "layer 0, padded on the left")


def test_causal_mask_is_dropped(mask_function):
    def everything(*args, **kwargs):
        mask = sdpa_mask(*args, **kwargs)
        return None if mask is None else mask.any(2, keepdim=True).expand_as(mask)

    mask_function(everything)
    caught("llama", EAGER, "layer 0")


def test_causal_mask_is_dropped_where_the_model_gives_none(monkeypatch):
    def allowed(self, _allowed=AttentionCall._allowed):
        return _allowed(self.edited(causal=False))

    monkeypatch.setattr(AttentionCall, "_allowed", allowed)
    caught("llama", MIXED, "layer 0, without padding")


def everything_allowed(call, examples=slice(None)):
    return torch.ones(1, 1, call.query.shape[2], call.key.shape[2], dtype=torch.bool)


def test_pattern_ignores_the_mask(monkeypatch):
    monkeypatch.setattr(AttentionCall, "_allowed", everything_allowed)
    caught("llama", "padding is never read", "layer 0")


def without_windows(*args, **kwargs):
    """The mask of a layer without a window."""
    return sdpa_mask(*args, **(kwargs | {"mask_function": causal_mask_function, "local_size": None}))


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "llama4_text"])
def test_window_is_ignored(mask_function, family):
    mask_function(without_windows)
    caught(family, EAGER, "layer 0")


def test_window_longer_than_the_prompts_is_ignored(mask_function, monkeypatch):
    from ..helpers import families

    monkeypatch.setitem(families.TEXT, "mistral", families.TEXT["mistral"] | {"sliding_window": 20})
    assert Subject(build("mistral")).check()["where"].str.contains("longer than the window").any()
    mask_function(without_windows)
    caught("mistral", EAGER, "layer 0, longer than the window")


def test_soft_cap_is_ignored(monkeypatch):
    replace_call(monkeypatch, softcap=None)
    caught("gemma2", EAGER, "layer 0")


def test_sink_logits_are_ignored(monkeypatch):
    replace_call(monkeypatch, sinks=None)
    caught("gpt_oss", EAGER, "layer 0")


def test_scale_is_ignored(monkeypatch):
    replace_call(monkeypatch, scale=8**-0.5)
    caught("granite", EAGER, "layer 0")


# --- residuals and logits


def test_layers_are_off_by_one():
    def shift(subject):
        layers = subject.layers[1:] + subject.layers[:1]
        subject.decoder = replace(subject.decoder, layers=layers)

    caught("llama", "every layer is seen once, in order", "layer 2", shift)


def test_residual_is_off_by_one(monkeypatch):
    late = property(lambda self: self.resid_post, lambda self, value: None)
    monkeypatch.setattr(Layer, "resid_pre", late, raising=False)
    caught("llama", PARTS, "layer 0")


def test_patterns_are_off_by_one(monkeypatch):
    """Every layer gets the call of the layer before it."""
    last = []

    def previous(self):
        last.append(self.calls[0])
        return last[max(0, len(last) - 2)]

    monkeypatch.setattr(Layer, "attention", property(previous))
    monkeypatch.setattr(Layer, "v", property(lambda self: self.calls[0].value.transpose(1, 2)))
    caught("llama", MIXED, "layer 1", lambda subject: last.clear())


@pytest.mark.parametrize("family", ["olmo2", "gemma2"])
def test_post_norm_is_left_out(monkeypatch, family):
    caught(family, PARTS, "layer 0", once_opened(monkeypatch, "_sandwich_norm", lambda layer: None))


def test_residual_multiplier_is_ignored(monkeypatch):
    caught("granite", PARTS, "layer 0", once_opened(monkeypatch, "multiplier", lambda layer: 1.0))


def test_final_norm_is_missing():
    caught("llama", LENS, "norm and unembed", lambda subject: setattr(subject, "norm", nn.Identity()))


@pytest.mark.parametrize("family", ["granite", "cohere2"])
def test_logit_scale_is_ignored(monkeypatch, family):
    monkeypatch.setattr(head, "logit_scale", lambda model: 1.0)
    caught(family, LENS, "norm and unembed")


def test_final_soft_cap_is_ignored(monkeypatch):
    monkeypatch.setattr(head, "_logit_cap", lambda model: None)
    caught("gemma2", LENS, "norm and unembed")


# --- padding


def test_padding_is_counted_in_positions(monkeypatch):
    monkeypatch.setattr(Subject, "_needs_positions", lambda *given: False)
    caught("gpt2", "the padding side changes nothing", "model, padded on the left")


def test_positions_are_prepared_wrongly(monkeypatch):
    """Eager attention, prepared the same way, is wrong the same way."""

    def prepare(self, inputs, _prepare=Subject.prepare):
        arguments = _prepare(self, inputs)
        return arguments | {"position_ids": 2 * arguments["position_ids"]}

    monkeypatch.setattr(Subject, "prepare", prepare)
    caught("llama", "logits equal those of a plain call", "prompt 0")


def test_padding_is_read_as_the_last_token(monkeypatch):
    def end(input_ids, mask):
        return torch.full((len(input_ids),), input_ids.shape[1] - 1)

    monkeypatch.setattr(subject_module, "last_positions", end)
    caught("llama", "the last logits are the last token's", "model")


def test_padding_mask_never_reaches_the_model(monkeypatch):
    def forget(self, inputs, _prepare=Subject.prepare):
        return {name: value for name, value in _prepare(self, inputs).items() if name != "attention_mask"}

    monkeypatch.setattr(Subject, "prepare", forget)
    caught("llama", "the last logits are the last token's", "model")


# --- edits


def test_edit_never_fires(monkeypatch):
    def tracing(subject, on_layer=None, edits=None, **more):
        return trace.tracing(subject, on_layer)

    monkeypatch.setattr(subject_checks, "tracing", tracing)
    caught("llama", "a mask edit moves the logits", "layer 0")


def test_edit_of_the_heads_is_ignored(monkeypatch):
    replace_call(monkeypatch, head_scale=None)
    caught("llama", "an edit moves the logits", "layer 0")


def test_edit_of_the_mask_is_ignored(monkeypatch):
    def edited(self, _edited=AttentionCall.edited, **changes):
        return _edited(self, **{name: value for name, value in changes.items() if name != "mask"})

    monkeypatch.setattr(AttentionCall, "edited", edited)
    caught("llama", "a mask edit moves the logits", "layer 0")


def test_edit_fires_in_the_next_layer(monkeypatch):
    def tracing(subject, on_layer=None, edits=None, **more):
        return trace.tracing(subject, on_layer, edits and {(at + 1) % 3: edit for at, edit in edits.items()})

    monkeypatch.setattr(subject_checks, "tracing", tracing)
    caught("llama", "an edit acts in its own layer", "layer 0")


def test_edit_in_the_last_layer_is_lost(monkeypatch):
    def tracing(subject, on_layer=None, edits=None, **more):
        return trace.tracing(subject, on_layer, edits and {at: edit for at, edit in edits.items() if at < 2})

    monkeypatch.setattr(subject_checks, "tracing", tracing)
    caught("llama", "a mask edit moves the logits", "layer 2")


def test_identity_edit_forgets_the_mask(monkeypatch):
    def edited(self, _edited=AttentionCall.edited, **changes):
        return _edited(self, **(changes | {"mask": everything_allowed(self)}))

    monkeypatch.setattr(AttentionCall, "edited", edited)
    caught("llama", "the identity edit changes nothing", "layer 0")


# --- sites and rewrites


def noted(family, proof, fault):
    """A note of `check` that holds, and does not with a fault."""
    for planted in (False, True):
        subject = Subject(build(family))
        if planted:
            fault()
        frame = subject.check()
        rows = frame[frame["check"] == proof]
        assert len(rows) == 3
        assert rows["passed"].any() != planted


def test_neurons_are_those_behind_the_wrong_module(monkeypatch):
    def fault():
        monkeypatch.setattr(anatomy, "gate_projection", anatomy.up_projection)

    noted("llama", "the activation of mlp_pre is mlp_post", fault)


def test_norm_behind_the_neurons_is_left_out(monkeypatch):
    def fault():
        monkeypatch.setattr(layer_checks, "_through", lambda layer, output: output)

    noted("gemma2", "neurons through W_down are the MLP's output", fault)


def test_neurons_are_shifted(monkeypatch):
    def shifted(self, name, _written=Layer.written):
        return _written(self, name).roll(1, -1) if name == "mlp_post" else _written(self, name)

    monkeypatch.setattr(Layer, "written", shifted)
    caught("llama", "mlp_post is what W_down reads", "layer 0")


def test_queries_are_split_the_wrong_way(monkeypatch):
    def wrong(self, row, _of_module=Layer._of_module):
        tensor = _of_module(self, row)
        return tensor.flatten(2).unflatten(2, (-1, 4)).transpose(2, 3) if row.name == "q" else tensor

    monkeypatch.setattr(Layer, "_of_module", wrong)
    caught("llama", "the projections' outputs are q and k", "layer 0 q")


def test_rewrites_never_act(monkeypatch):
    monkeypatch.setattr(trace._Hooks, "_rewritten", lambda self, layer, name, tensor: tensor)
    caught("llama", "a rewrite moves the logits", "layer 1 mlp_post")


def test_rewrites_of_resid_mid_pass_the_skip_connection_by(monkeypatch):
    monkeypatch.setattr(trace._Hooks, "_through_mid", lambda self, layer, written: written)
    caught("llama", "a rewrite moves the logits", "layer 1 resid_mid")


def test_rewrites_of_resid_post_are_lost(monkeypatch):
    def lost(self, layer, name, tensor, _rewritten=trace._Hooks._rewritten):
        return tensor if name == "resid_post" else _rewritten(self, layer, name, tensor)

    monkeypatch.setattr(trace._Hooks, "_rewritten", lost)
    caught("llama", "a rewrite moves the logits", "layer 1 resid_post")


# --- the vision tower


def tower_caught(family, proof, place):
    """The decoder can be read all the same; the tower is refused to whoever asks for it."""
    subject = Subject(*vision_subjects.build(family))
    frame = subject.check()
    told = f": {proof} fails at {place}, in the vision tower: "
    assert frame.loc[~frame["passed"].astype(bool), "check"].str.contains(told, regex=False).any()
    with pytest.raises(SubjectError) as error:
        subject.stack("vision")
    assert told in str(error.value)


def test_gain_of_a_tower_is_ignored(monkeypatch):
    monkeypatch.setattr(anatomy, "gain", lambda layer, part: anatomy.multiplier(layer))
    tower_caught("internvl", PARTS, "layer 0")


def test_tower_attends_forwards_alone(monkeypatch):
    def causal(self, *args, _init=AttentionCall.__init__, **kwargs):
        _init(self, *args, **(kwargs | {"causal": True}))

    monkeypatch.setattr(AttentionCall, "__init__", causal)
    tower_caught("llava", "logits equal those of the tower by itself", "model")


def test_edits_of_a_tower_never_act(monkeypatch):
    def attend(self, index, call, _attend=trace._Hooks._attend):
        return call.output() if self.stack.name == "vision" and self.blocks[0].edits else _attend(self, index, call)

    monkeypatch.setattr(trace._Hooks, "_attend", attend)
    tower_caught("qwen2_vl", "an edit moves the logits", "layer 0")
