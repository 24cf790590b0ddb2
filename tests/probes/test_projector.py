"""A projector's neurons, read or rewritten, equal plain hooks on Hugging Face's models; one that is no MLP is none."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import UserError
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.sites import SiteError

from ..helpers import families, vision, vision_subjects

LLAVA = ("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2")
MERGER = ("model.visual.merger.mlp.0", "model.visual.merger.mlp.2")
# The linear layers into and out of the neurons, written down by hand.
LINEAR = dict.fromkeys(("llava", "llava_next", "llava_onevision", "internvl", "mistral3"), LLAVA)
LINEAR |= {"qwen2_vl": MERGER, "qwen2_5_vl": MERGER}
LINEAR |= {"qwen3_vl": ("model.visual.merger.linear_fc1", "model.visual.merger.linear_fc2")}
SITES = ("mlp_pre", "mlp_post", "mlp_out")


@pytest.mark.parametrize("family", LINEAR)
def test_neurons_are_what_stands_between_the_linear_layers(family):
    model = vision.build(family)
    given, seen = vision.inputs(model, "left"), {}
    up, down = (model.get_submodule(name) for name in LINEAR[family])
    handles = [
        up.register_forward_hook(lambda module, args, output: seen.update(mlp_pre=output)),
        down.register_forward_hook(lambda module, args, output: seen.update(mlp_post=args[0], mlp_out=output)),
    ]
    with torch.no_grad():
        model(**given)
    for handle in handles:
        handle.remove()
    subject = Subject(model)
    found = capture(subject, given, [f"projector.{site}" for site in SITES])
    for site in SITES:
        expected = seen[site]
        assert torch.equal(found[f"projector.{site}", 0], expected if expected.ndim == 3 else expected[None]), site
    weight = subject.projector.W_down(0)
    torch.testing.assert_close(weight, down.weight.T)
    assert "neurons" in repr(subject.projector)


@pytest.mark.parametrize("family", LINEAR)
def test_a_rewrite_is_the_forward_with_the_neuron_at_zero(family):
    model = vision.build(family)
    given, down = vision.inputs(model, "left"), model.get_submodule(LINEAR[family][1])

    def zero(tensor):
        changed = tensor.clone()
        changed[..., 1] = 0.0
        return changed

    subject = Subject(model)
    with tracing(subject, rewrites={(0, "mlp_post"): zero}, stack="projector"):
        found = subject.forward(given, keep=0)
    handle = down.register_forward_pre_hook(lambda module, args: (zero(args[0]),))
    expected = subject.forward(given, keep=0)
    handle.remove()
    assert torch.equal(found, expected)
    assert not torch.equal(found, subject.forward(given, keep=0))


@pytest.mark.parametrize("family", [*sorted(set(vision.VISION) - {*LINEAR}), "llama"])
def test_projectors_of_other_kinds_are_none(family):
    model = families.build(family) if family == "llama" else vision.build(family)
    subject = Subject(model)
    assert subject.projector is None
    with pytest.raises(UserError, match="no stack 'projector': there is no projector of two linear layers"):
        subject.stack("projector")


@pytest.mark.parametrize("site", ["projector.resid_pre", "projector.z", "projector.blocks.0.attn.hook_pattern"])
def test_a_projector_has_neurons_and_nothing_else(site):
    model = vision.build("llava")
    with pytest.raises(SiteError, match=r"a projector has no .*: one of mlp_pre, mlp_post, mlp_out"):
        capture(Subject(model), vision.inputs(model, "none"), [site])


def test_a_projector_does_not_run_without_an_image():
    model = vision.build("llava")
    words = {name: vision.inputs(model, "none")[name][:, :2] for name in ("input_ids", "attention_mask")}
    with pytest.raises(UserError, match="no image, so its projector did not run"):
        capture(Subject(model), words, ["projector.mlp_post"])


def test_a_check_proves_the_projector(tmp_path):
    proofs = vision_subjects.save("llava", tmp_path).check()
    own = proofs[proofs["where"].str.endswith(", in the projector")]
    assert own["passed"].all()
    assert {"the activation of mlp_pre is mlp_post", "a rewrite moves the logits"} <= {*own["check"]}


def test_a_projector_that_does_something_else_is_none(tmp_path, monkeypatch):
    subject = vision_subjects.save("llava", tmp_path)
    kind = type(subject.model.model.multi_modal_projector)
    monkeypatch.setattr(kind, "forward", lambda self, x: self.linear_2(2 * self.act(self.linear_1(x))))
    proofs = subject.check()
    assert not proofs["passed"].all()
    assert subject.projector is None
    with pytest.raises(UserError, match=r"no stack 'projector': .*the activation of mlp_pre is mlp_post fails"):
        subject.stack("projector")
