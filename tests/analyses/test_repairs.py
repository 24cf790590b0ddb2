"""Repairs equal their formulas on materialised eager maps, in prompts and in decoding; at zero they do nothing."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager

import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.repairs import repairs
from crosslens.data.errors import UserError
from crosslens.probes.model import anatomy
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.prompts import image_ablation
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import eager_mask

from ..helpers import slow_sinks, tiny
from ..helpers.vision import IMAGE, VISION, alone, build, inputs
from ..probes.test_families import assert_close

STEPS = 4
LENGTHS = (5, 3, 2, 4)
DIMS, TAU, HOW = [3, 9], 1.2, {"p": 0.6, "rho": 0.2, "mass": 0.05}


def prompts(model, batch, padding="left"):
    given = inputs(model, padding, lengths=LENGTHS[:batch])
    if model.config.model_type == "paligemma":  # the whole prompt is its prefix when it generates
        given["token_type_ids"] = torch.zeros_like(given["token_type_ids"])
    return given


def generated(model, given):
    """Logits of every step of a greedy generation, [steps, b, vocab], and its tokens."""
    config = GenerationConfig(
        max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    config.output_logits, config.return_dict_in_generate = True, True
    out = model.generate(**given, generation_config=config)
    return torch.stack(out.logits), out.sequences


@contextmanager
def by_hand(model, change):
    """Eager attention in which `change(layer, pattern, length)` gives the map that is used, length positions so far."""
    decoder = anatomy.find_decoder(model)
    layers = anatomy.find_layers(decoder, 3)
    index_of = {id(anatomy.attention_of(layer)): i for i, layer in enumerate(layers)}
    eager = sys.modules[type(anatomy.attention_of(layers[0])).__module__].eager_attention_forward
    states = {}

    def attention(module, query, key, value, attention_mask, **kwargs):
        z, pattern = eager(module, query, key, value, attention_mask, **kwargs)
        new = change(index_of[id(module)], pattern, states)
        if new is None:
            return z, pattern
        mixed = new.to(value.dtype) @ repeat_kv(value, query.shape[1] // key.shape[1])
        return mixed.transpose(1, 2).contiguous(), new

    def keep(i):
        return lambda m, a, k: states.__setitem__(i, a[0] if a else k["hidden_states"])

    AttentionInterface.register("by_hand", attention)
    AttentionMaskInterface.register("by_hand", eager_mask)
    decoder.config._attn_implementation = "by_hand"
    with ExitStack() as stack:
        for i, layer in enumerate(layers):
            stack.callback(layer.register_forward_pre_hook(keep(i), with_kwargs=True).remove)
        yield


class Var:
    """The reference: sinks from the residuals of the prompt, the metric on whole maps."""

    def __init__(self, given, to="image", **how):
        self.image, self.real = given["input_ids"] == IMAGE, given["attention_mask"].bool()
        self.takers = {"image": self.image, "text": ~self.image, "all": torch.ones_like(self.image)}[to]
        self.how = HOW | how
        self.sinks, self.so_far = {}, {}

    def __call__(self, layer, pattern, states):
        if layer != 1:
            return None
        queries, keys = pattern.shape[2:]
        prompt = self.image.shape[1]
        if layer not in self.sinks or queries > 1:
            self.sinks[layer] = (metrics.sink_values(states[layer], DIMS) >= TAU) & self.real
            self.so_far[layer] = prompt
        else:
            self.so_far[layer] += 1
        total = self.so_far[layer]
        image, sinks, real = (self.wide(x, total, fill) for x, fill in self.masks(layer))
        takers = self.wide(self.takers, total, False)
        behind = real & (image.flip(1).cumsum(1).flip(1) == 0)
        start = total - keys
        image, sinks, active = image[:, start:], sinks[:, start:], behind[:, total - queries :]
        heads = slow_sinks.centric(pattern, image=image, sinks=sinks, rho=self.how["rho"], mass=self.how["mass"])
        heads &= active[:, None] & (self.sinks[layer] & self.image).any(1)[:, None, None]
        self.used = heads
        at = {"image": image, "sinks": sinks, "takers": takers[:, start:]}
        return slow_sinks.redistributed(pattern, p=self.how["p"], heads=heads, **at)

    def masks(self, layer):
        return (self.image, False), (self.sinks[layer], False), (self.real, True)

    @staticmethod
    def wide(mask, total, fill):
        more = torch.full((len(mask), total - mask.shape[1]), fill)
        return torch.cat([mask, more], 1)


class Act:
    """The reference: column means over the prompt's whole maps, the metric on whole maps."""

    def __init__(self, given, threshold, beta):
        self.real, self.threshold, self.beta = given["attention_mask"].bool(), threshold, beta
        self.sinks, self.so_far = None, 0

    def __call__(self, layer, pattern, states):
        if layer != 1:
            return None
        queries, keys = pattern.shape[2:]
        if queries > 1:
            seen = (pattern > 0).any(1) & self.real[:, :, None] & self.real[:, None]
            self.sinks = metrics.hidden_sinks(pattern, self.real, threshold=self.threshold, visible=seen)
            self.sinks[:, 3] = False  # the last head is not chosen
            self.so_far = keys
        else:
            self.so_far += 1
        more = torch.zeros(*self.sinks.shape[:2], self.so_far - self.sinks.shape[2], dtype=torch.bool)
        sinks = torch.cat([self.sinks, more], 2)[:, :, self.so_far - keys :]
        return slow_sinks.calibrated(pattern, sinks, self.beta)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("family", VISION)
def test_var_equals_the_formula_on_materialised_maps(family, batch):
    given = prompts(build(family), batch)
    reference = Var(given)
    with by_hand(eager := build(family, implementation="eager"), reference):
        expected, tokens = generated(eager, given)
    subject = Subject(build(family))
    plain, _ = generated(subject.model, given)
    with repairs.var(subject, dimensions=DIMS, tau=TAU, layers=[1], **HOW) as found:
        logits, again = generated(subject.model, given)
    assert torch.equal(found.sinks[1], reference.sinks[1])
    assert torch.equal(again, tokens)
    assert_close(logits, expected, family)
    if bool(found.sinks[1].any() & reference.used.any()) and family not in WINDOWED:
        assert float((logits - plain).abs().max()) > 1e-4
    unchanged, _ = generated(subject.model, given)
    assert torch.equal(unchanged, plain)


@pytest.mark.parametrize("rule", [{"to": "text"}, {"to": "all"}, {"rho": 0.0, "mass": 0.0}, {"rho": 0.8, "mass": 0.0}])
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_other_rules_of_var_equal_the_formula_in_prompts_and_decoding(family, rule):
    given = prompts(build(family), 4)
    reference = Var(given, **rule)
    with by_hand(eager := build(family, implementation="eager"), reference):
        expected, tokens = generated(eager, given)
    subject = Subject(build(family))
    with repairs.var(subject, dimensions=DIMS, tau=TAU, layers=[1], **(HOW | rule)):
        logits, again = generated(subject.model, given)
    assert torch.equal(again, tokens)
    assert_close(logits, expected, family)
    with repairs.var(subject, dimensions=DIMS, tau=TAU, layers=[1], **HOW):
        as_it_is = subject.last_logits(given)
    every_head_was_chosen = family == "gemma3" and rule.get("rho") == 0.0
    assert every_head_was_chosen or float((logits[0] - as_it_is).abs().max()) > 1e-5


WINDOWED = ("llava_next", "mistral3")  # a window of 4 hides the image from most rows


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("family", VISION)
def test_act_equals_the_formula_on_materialised_maps(family, batch):
    given = prompts(build(family), batch)
    with by_hand(eager := build(family, implementation="eager"), Act(given, 0.12, 0.4)):
        expected, tokens = generated(eager, given)
    subject = Subject(build(family))
    plain, _ = generated(subject.model, given)
    heads = [(1, head) for head in range(3)]
    with repairs.act(subject, beta=0.4, threshold=0.12, heads=heads) as found:
        logits, again = generated(subject.model, given)
    assert torch.equal(again, tokens)
    assert_close(logits, expected, family)
    if found.sinks[1].any():
        assert float((logits - plain).abs().max()) > 1e-5


@torch.no_grad()
def z_at_last(model, given, scales):
    """o_proj inputs at the last real position of a plain forward, scaled there by `scales`: [layer, b, h, d]."""
    z, last = {}, image_ablation.real_positions(given).int().cumsum(1).argmax(1)
    rows = torch.arange(len(last))

    def hook(i):
        def scaled(module, args):
            x = args[0].clone()
            z[i] = x[rows, last].reshape(len(last), 4, -1)
            if i in scales:
                x[rows, last] = (z[i] * scales[i][..., None]).flatten(1)
            return (x,)

        return scaled

    with ExitStack() as stack:
        for i, layer in enumerate(anatomy.find_layers(anatomy.find_decoder(model), 3)):
            stack.callback(anatomy.output_projection(layer).register_forward_pre_hook(hook(i)).remove)
        subject = Subject(model)
        logits = subject.last_logits(given)
    return torch.stack([z[i] for i in range(3)]), logits


@pytest.mark.parametrize("image", ["dropped", "masked"])
@pytest.mark.parametrize("family", VISION)
def test_vhr_chooses_layer_by_layer_as_two_plain_forwards_would(family, image):
    """The slow way: both branches again for every layer, with what has been chosen so far."""
    model = build(family)
    given = prompts(model, 4)
    other, _ = image_ablation.drop_image(Subject(model), given)
    subject, scales = Subject(model), {}
    with repairs.vhr(subject, layers=range(3), image=image) as made:
        logits, _ = generated(subject.model, given)
    for layer in range(3):
        seeing, _ = z_at_last(model, given, scales)
        unseeing = z_at_last(model, other, scales)[0] if image == "dropped" else hidden(model, given, scales)
        vhd = metrics.head_divergence(seeing[layer], unseeing[layer])
        assert_close(made.divergence[layer], vhd, f"{family} {layer}")
        best = metrics.reinforced_heads(vhd, unseeing[layer].norm(dim=-1))
        sure = (vhd - vhd.median(1, keepdim=True).values).abs() > 1e-5 * seeing.abs().max()
        assert torch.equal(made.heads[layer] & sure, best & sure), (family, layer)
        scales[layer] = torch.where(made.heads[layer], 2.0, 1.0)
    _, expected = z_at_last(model, given, scales)
    assert_close(logits[0], expected, family)


def hidden(model, given, scales):
    subject = Subject(model)
    edit = image_ablation.hide_image(image_ablation.image_columns(subject, given))
    with tracing(subject, edits=dict.fromkeys(range(3), edit)):
        return z_at_last(model, given, scales)[0]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_vhr_is_kept_while_decoding(family):
    """Every later step equals a step whose heads are scaled by hand."""
    model = build(family)
    given = prompts(model, 4)
    subject = Subject(model)
    with repairs.vhr(subject, layers=range(3)) as made:
        logits, tokens = generated(model, given)
    last = given["input_ids"].shape[1] - 1

    def hook(i):
        scale = torch.where(made.heads[i], 2.0, 1.0)

        def scaled(module, args):
            x = args[0].reshape(*args[0].shape[:2], 4, -1).clone()
            start = last if x.shape[1] > 1 else 0
            x[:, start:] *= scale[:, None, :, None]
            return (x.flatten(2),)

        return scaled

    with ExitStack() as stack:
        for i, layer in enumerate(subject.layers):
            stack.callback(anatomy.output_projection(layer).register_forward_pre_hook(hook(i)).remove)
        expected, again = generated(model, given)
    assert torch.equal(tokens, again)
    assert_close(logits, expected, family)


NOTHING = {
    "var": lambda s: repairs.var(s, dimensions=DIMS, tau=TAU, p=0.0, rho=0.0, mass=0.0, layers=range(3)),
    "act": lambda s: repairs.act(s, beta=1.0, threshold=0.0, heads=[(i, h) for i in range(3) for h in range(4)]),
    "vhr": lambda s: repairs.vhr(s, alpha=1.0, layers=range(3)),
}


@pytest.mark.parametrize("repair", NOTHING)
@pytest.mark.parametrize("family", VISION)
def test_the_identity_goes_through_the_edit_and_changes_nothing(family, repair):
    subject = Subject(build(family))
    given = prompts(subject.model, 4)
    plain, tokens = generated(subject.model, given)
    with NOTHING[repair](subject) as found:
        logits, again = generated(subject.model, given)
    assert torch.equal(tokens, again)
    assert_close(logits, plain, family)
    chosen = found.heads if repair == "vhr" else found.sinks
    assert len(chosen) == 3
    short = repair == "act" and family in WINDOWED  # columns that fewer than 8 queries see are no sinks
    assert short or any(bool(x.any()) for x in chosen.values())


REAL = {
    "var": lambda s, **k: repairs.var(s, dimensions=DIMS, tau=TAU, p=0.6, rho=0.1, mass=0.05, layers=range(3), **k),
    "act": lambda s, **k: repairs.act(s, threshold=0.12, heads=[(i, h) for i in range(3) for h in range(4)], **k),
    "vhr": lambda s, **k: repairs.vhr(s, layers=range(3), **k),
}
CONTROLS = [("var", {"columns": "random"}), ("act", {"columns": "random"})]
CONTROLS += [("vhr", {"heads": name}) for name in ("complement", "random", "spread")]


@pytest.mark.parametrize(("repair", "control"), [(name, {}) for name in REAL] + CONTROLS)
def test_batch_and_padding_change_nothing(repair, control):
    """Left- and right-padded batches equal every prompt alone."""
    subject = Subject(build("llava"))
    for padding in ("left", "right"):
        given = prompts(subject.model, 4, padding)
        with REAL[repair](subject, **control):
            together = subject.last_logits(given)
            apart = [subject.last_logits(alone(given, i))[0] for i in range(4)]
        assert_close(together, torch.stack(apart), f"{repair} {padding}")
        assert float((together - subject.last_logits(given)).abs().max()) > 1e-4


def test_controls_match_what_they_control_for():
    subject = Subject(build("llava"))
    given = prompts(subject.model, 4)
    counts = {}
    for heads in ("reinforced", "complement", "random"):
        with repairs.vhr(subject, layers=[0], heads=heads) as made:
            subject.last_logits(given)
        counts[heads] = made.heads[0]
    for heads in ("complement", "random"):
        assert torch.equal(counts[heads].sum(1), counts["reinforced"].sum(1))
    assert not bool((counts["complement"] & counts["reinforced"]).any())
    norms = {}
    for heads in ("reinforced", "spread"):
        with repairs.vhr(subject, layers=[1], heads=heads):
            norms[heads] = capture(subject, given, ["blocks.1.hook_attn_out"])["blocks.1.hook_attn_out"].norm(dim=-1)
    assert_close(norms["spread"], norms["reinforced"], "‖attention output‖")
    with repairs.var(subject, dimensions=DIMS, tau=TAU, columns="random", layers=[1]) as found:
        subject.last_logits(given)
    givers = found.givers[1]
    others = given["attention_mask"].sum(1) - found.sinks[1].sum(1)
    assert torch.equal(givers.sum(1), torch.minimum(found.sinks[1].sum(1), others))
    assert not bool((givers & found.sinks[1]).any())


def test_random_controls_differ_by_key_and_not_by_batch():
    """Two prompts that are alike draw other columns and heads; each draws the same alone."""
    subject = Subject(build("llava"))
    given = prompts(subject.model, 4)
    twice = {k: torch.cat([v[:1], v[:1]]) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    one = {k: v[:1] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    for name, what in (("var", "givers"), ("vhr", "heads")):
        control = {"var": {"columns": "random"}, "vhr": {"heads": "random"}}[name]
        with REAL[name](subject, seed=["a 0", "b 0"], **control) as made:
            subject.last_logits(twice)
            both = torch.cat(list(getattr(made, what).values()), 1)
        with REAL[name](subject, seed=["b 0"], **control) as made:
            subject.last_logits(one)
            alone = torch.cat(list(getattr(made, what).values()), 1)
        assert torch.equal(both[1], alone[0]), name
        assert not torch.equal(both[0], both[1]), name


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_act_needs_no_image(family):
    """On a text model one head is calibrated as on its eager map."""
    text = {"input_ids": torch.tensor([[3, 4, 5, 6, 7, 8, 9, 3, 4, 5], [0, 0, 7, 7, 8, 9, 3, 9, 4, 6]])}
    text["attention_mask"] = (text["input_ids"] > 0).long()
    subject = tiny.subject(family)
    plain = subject.last_logits(text)
    with repairs.act(subject, heads=[(1, 0)], threshold=0.05) as found:
        logits = subject.last_logits(text)
        pattern = capture(subject, text, ["pattern"])["blocks.1.attn.hook_pattern"]
    before = capture(subject, text, ["pattern"])["blocks.1.attn.hook_pattern"]
    seen = metrics.hidden_sinks(before, text["attention_mask"].bool(), threshold=0.05)
    assert bool(seen[:, 0].any())
    assert torch.equal(found.sinks[1][:, 0], seen[:, 0])
    assert not bool(found.sinks[1][:, 1:].any())
    real = text["attention_mask"].bool()[:, None, :, None]
    expected = slow_sinks.calibrated(before, found.sinks[1], 0.4)
    assert_close(pattern * real, expected * real, family)
    assert float((logits - plain).abs().max()) > 1e-6
    with repairs.act(subject, heads=[(1, 0)], threshold=0.05):
        together, _ = generated(subject.model, text)
        alone, _ = generated(subject.model, {k: v[1:, 2:] for k, v in text.items()})
    assert_close(together[:, 1], alone[:, 0], family)


@pytest.mark.parametrize("rule", ["leave", "move"])
def test_var_without_a_visual_sink_leaves_a_layer_unless_it_is_told_to_move(rule):
    """τ between the largest φ of the images and that of the texts: every sink is a text token."""
    subject = Subject(build("llava"))
    given = prompts(subject.model, 4)
    resid = capture(subject, given, ["resid_pre"])["blocks.1.hook_resid_pre"]
    phi, image = metrics.sink_values(resid, DIMS), given["input_ids"] == IMAGE
    real = given["attention_mask"].bool()
    tau = float(phi[image].max()) + 1e-4
    with_sinks = ((phi >= tau) & real).any(1)
    assert bool(with_sinks.any())
    plain = subject.last_logits(given)
    how = {**HOW, "rho": 0.0, "mass": 0.0, "without_visual_sinks": rule}
    with repairs.var(subject, dimensions=DIMS, tau=tau, layers=[1], **how) as found:
        moved = subject.last_logits(given)
    assert not bool(found.visual[1].any())
    assert torch.equal(found.sinks[1], (phi >= tau) & real)
    changed = (moved - plain).abs().amax(1) > 1e-6
    assert not bool(changed.any()) if rule == "leave" else bool(changed.any())


def test_mistakes_are_one_clear_line():
    subject = Subject(build("llava"))
    given = prompts(subject.model, 1)
    text = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with repairs.vhr(subject), pytest.raises(UserError, match="has no image"):
        subject.model(**text)
    plain = tiny.subject()
    with (
        repairs.var(plain, dimensions=[1], tau=1.0, layers=[1]),
        pytest.raises(UserError, match="no image token"),
    ):
        plain.model(**text)
    with pytest.raises(UserError, match="massive dimensions"), repairs.var(subject, dimensions=[], tau=1.0):
        pass
    with (
        pytest.raises(UserError, match="to = 'sinks' is none of image, text, all"),
        repairs.var(subject, dimensions=[1], tau=1.0, to="sinks"),
    ):
        pass
    with pytest.raises(UserError, match="p = 2"), repairs.var(subject, dimensions=[1], tau=1.0, p=2):
        pass
    with pytest.raises(UserError, match="beta"), repairs.act(subject, beta=-1):
        pass
    with pytest.raises(UserError, match="pairs within 3 × 4"), repairs.act(subject, heads=[(7, 0)]):
        pass
    with pytest.raises(UserError, match="one repair at a time"), repairs.vhr(subject), repairs.act(subject):
        pass
    state = subject.model(**given, use_cache=True).past_key_values
    with repairs.vhr(subject), pytest.raises(UserError, match="before the prompt is read"):
        subject.model(input_ids=torch.tensor([[5]]), past_key_values=state)
    embedded = subject.model.get_input_embeddings()(torch.tensor([[3, 4]]))
    with repairs.vhr(subject), pytest.raises(UserError, match="needs input_ids"):
        subject.model(inputs_embeds=embedded)
