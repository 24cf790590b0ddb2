"""Interventions: swept they equal one eager forward per edit, in generation the same without a cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis
import pytest
import torch
from crosslens import (
    Subject,
    intervening,
    intervention_sweep,
    interventions,
    knockout_sweep,
    record,
    variant_sweep,
)
from crosslens.data.errors import InterventionError, UserError
from crosslens.probes.intervene.intervening import full_forward
from crosslens.probes.intervene.interventions import Add, Apply, Clamp, Knockout, Patch, PatchQKV, ProjectOut, Scale
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.positions import affected_positions
from crosslens.probes.intervene.replay import replay
from crosslens.probes.sites import SITES, WRITABLE
from hypothesis import strategies as st

from ..helpers import by_hand, families, tiny
from ..helpers.by_hand import FAMILIES
from ..helpers.sites_by_hand import ByHand
from .test_sweep import close, whole_logits

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
TANH = torch.tanh
KINDS = ["patch", "scale", "add", "project out", "clamp", "units", "apply"]


def direction(size, seed=0):
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def made(kind, site, positions, size):
    """An intervention of a kind, and the same as a plain function of the whole tensor [b, p, ...]."""
    d = direction(size)
    unit = d / d.norm()
    return {
        "patch": (Patch(site, positions, d), lambda x: d.expand_as(x)),
        "scale": (Scale(site, positions, -0.5), lambda x: -0.5 * x),
        "add": (Add(site, positions, d), lambda x: x + d),
        "project out": (ProjectOut(site, positions, d), lambda x: x - (x @ unit)[..., None] * unit),
        "clamp": (Clamp(site, positions, -0.1, 0.2), lambda x: x.clamp(-0.1, 0.2)),
        "units": (Clamp(site, positions, 0.7, 0.7, units=(1, 4)), lambda x: set_units(x, (1, 4), 0.7)),
        "apply": (Apply(site, positions, TANH), torch.tanh),
    }[kind]


def set_units(x, units, value):
    x = x.clone()
    x[..., list(units)] = value
    return x


def at(mask, function, heads=None):
    """The function at these positions (and heads) alone."""

    def change(tensor):
        whole = tensor.reshape(*mask.shape, *tensor.shape[2:]) if tensor.ndim > 2 else tensor.reshape(*mask.shape, -1)
        new = function(whole)
        if heads is not None:
            new = whole.index_copy(2, torch.tensor(heads), new[:, :, list(heads)])
        where = mask.reshape(*mask.shape, *[1] * (whole.ndim - 2))
        return torch.where(where, new, whole).reshape(tensor.shape)

    return change


def places(given):
    """Every second real position, the last one among them."""
    mask = given["attention_mask"].bool()
    return mask & ((mask.sum(1, keepdim=True) - mask.long().cumsum(1)) % 2 == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_swept_over_layers(family, kind):
    """Each layer's cell is one eager forward with the function in a plain hook."""
    given = by_hand.inputs(family, "left" if KINDS.index(kind) % 2 else "right")
    subject, where = Subject(by_hand.build(family)), places(given)
    intervention, function = made(kind, "resid_pre", where, subject.d_model)
    sweep = intervention_sweep(subject, given, intervention, measure=whole_logits)
    assert sweep.axes == ("layer", "example")
    assert not sweep.notes
    for layer in range(3):
        expected = by_hand.logits(family, given, states={layer: at(where, function)})
        close(sweep.values[layer], by_hand.at_last(expected, given))


BY_HAND = {"attn_z": "attn_z", "z": "z", "resid_pre": "states"}


def has(stack, site):
    try:
        stack.require(1, SITES[site])
    except UserError:
        return False
    return True


@pytest.mark.parametrize("site", WRITABLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_swept_or_refused_by_name(family, site):
    """Projecting a direction out depends on the tensor; by hand in a layer of Hugging Face's own."""
    given, subject = by_hand.inputs(family, "right"), Subject(by_hand.build(family))
    where = places(given)
    if not has(subject.decoder, site):
        with pytest.raises(UserError, match=f"{family}.* {site}") as caught:
            intervention_sweep(subject, given, Scale(site, where, 0.0), measure=whole_logits)
        assert "\n" not in str(caught.value)
        return
    size = record(subject, given, [site]).layers[1].site(site).shape[-1]
    intervention, function = made("project out", site, where, size)
    sweep = intervention_sweep(subject, given, intervention, measure=whole_logits, layers=[1])
    if site in ("attn_z", "z", "attn_out", "mlp_out", "resid_pre"):
        how = {name: {argument: {1: at(where, function)}} for name, argument in BY_HAND.items()}
        expected = by_hand.logits(family, given, **how.get(site, {"outputs": {(1, site): at(where, function)}}))
    else:
        expected = ByHand(family, "decoder").changed(given, 1, site, at(where, function))
    close(sweep.values[0], by_hand.at_last(expected, given))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_oss", "llava"])
def test_swept_over_heads_and_positions(family):
    given, subject = by_hand.inputs(family, "left"), Subject(by_hand.build(family))
    mask, d = given["attention_mask"].bool(), direction(subject.d_head)
    sweep = intervention_sweep(
        subject, given, Add("z", None, d), measure=whole_logits, over=("layer", "head", "position"), layers=[0, 2]
    )
    assert sweep.axes == ("layer", "head", "position", "example")
    assert sweep.values.shape[:4] == (2, 4, mask.shape[1], len(mask))
    assert torch.equal(sweep.values[..., 0].isnan(), ~mask.T.expand(2, 4, -1, -1))
    for place, layer in enumerate((0, 2)):
        for head, position in ((0, -1), (3, -3), (2, -2)):
            here = torch.zeros_like(mask)
            here[:, position] = mask[:, position]
            expected = by_hand.logits(family, given, z={layer: at(here, lambda z: z + d, (head,))})
            close(sweep.values[place, head, position], by_hand.at_last(expected, given))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "gemma3", "qwen2_vl"])
def test_two_at_once_act_on_what_the_earlier_left(family):
    """In one layer and in a later one: later values are those of the changed run, not of the clean one."""
    given, subject = by_hand.inputs(family, "right"), Subject(by_hand.build(family))
    base, where = record(subject, given), places(given)
    first, project = made("add", "resid_pre", where, subject.d_model)
    then, clamp = made("clamp", "mlp_out", where, subject.d_model)
    last, tanh = made("apply", "z", where, subject.d_head)
    variant = {0: (first, then), 2: (last, ProjectOut("resid_pre", where, direction(subject.d_model, 1)))}
    sweep = variant_sweep(base, [variant], where, measure=whole_logits)
    unit = direction(subject.d_model, 1) / direction(subject.d_model, 1).norm()
    expected = by_hand.logits(
        family,
        given,
        states={0: at(where, project), 2: at(where, lambda x: x - (x @ unit)[..., None] * unit)},
        outputs={(0, "mlp_out"): at(where, clamp)},
        z={2: at(where, tanh)},
    )
    close(sweep.values[0], by_hand.at_last(expected, given))
    with intervening(subject, variant, given):
        close(subject.last_logits(given), by_hand.at_last(expected, given))


def every_kind(subject, given):
    """One of each, in every way that they are meant to be used."""
    base, other = record(subject, given, ["z"]), record(subject, by_hand.inputs("llama", "left", seed=1))
    where, last = places(given), base.final
    size = {"z": subject.d_head}
    acting = [made(kind, site, where, size.get(site, 32))[0] for kind in KINDS for site in ("resid_pre", "z")]
    heads = [replace(one, heads=(1,)) for one in acting if one.site == "z"]
    qkv = [PatchQKV(part, 2, where, direction((1, 1, 8)).expand(*where.shape, 8)) for part in ("q", "k", "v")]
    edges = [Knockout(last, last.roll(-2, 1)), Knockout(last, last.roll(-2, 1), other.layers[1])]
    return base, [*acting, *heads, *qkv, *edges]


def test_identities_change_nothing_and_edits_do():
    given = by_hand.inputs("llama", "left")
    subject = Subject(by_hand.build("llama"))
    base, changes = every_kind(subject, given)
    where = affected_positions(base, base.mask)
    for change in changes:
        name = f"{change.describe()} {change}"
        assert "\n" not in change.describe()
        same, acting = {1: (change.identity(base, 1),)}, {1: (change,)}
        for found in (replay(base, where, [same])[0], full_forward(base, same)):
            torch.testing.assert_close(found, base.resid, rtol=1e-5, atol=1e-5, msg=name)
        found, expected = replay(base, where, [acting])[0], full_forward(base, acting)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=name)
        assert float((found - base.resid).abs().max()) > 1e-3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("site", ["resid_pre", "z", "mlp_out"])
def test_dead_edits_are_refused(site, dtype):
    given = by_hand.inputs("llama", "left")
    subject = Subject(by_hand.build("llama").to(dtype))
    size = {"z": subject.d_head}.get(site, subject.d_model)
    dead = [
        Add(site, None, torch.zeros(size)),
        ProjectOut(site, None, torch.zeros(size)),
        Scale(site, None, 1.0),
        Clamp(site, None),
        Apply(site, None, torch.clone),
    ]
    for change in dead:
        with pytest.raises(UserError, match=f"{site}: it leaves everything as it is") as caught:
            intervention_sweep(subject, given, change, measure=MEASURE)
        assert "\n" not in str(caught.value)
    bare = record(subject, given)  # without the site, only the proof can tell
    if site != "resid_pre":
        with pytest.raises(InterventionError, match="moves nothing"):
            intervention_sweep(subject, bare, dead[0], measure=MEASURE)


def test_an_identity_that_acts_is_noticed():
    """An intervention of one's own whose identity is none."""

    @dataclass(frozen=True, eq=False)
    class Shift:
        positions: torch.Tensor
        site: str = "resid_pre"

        def apply(self, tensor, where):
            return tensor + 1

        def identity(self, base, layer):
            return self

        def describe(self):
            return "shifting"

    given = by_hand.inputs("llama", "left")
    subject = Subject(by_hand.build("llama"))
    with pytest.raises(InterventionError, match=r"llama.*shifting in layer 2: the identity edit moves"):
        intervention_sweep(subject, given, Shift(given["attention_mask"].bool()), measure=MEASURE)


def test_an_intervention_of_ones_own_needs_no_other_place():
    """A dataclass with the Protocol's four members is swept, proved and generated with."""

    @dataclass(frozen=True, eq=False)
    class Flip:
        site: str
        positions: torch.Tensor
        sign: float = -1.0

        def apply(self, tensor, where):
            chosen = where.take(self.positions)[..., None]
            return torch.where(chosen, tensor * self.sign, tensor)

        def identity(self, base, layer):
            return replace(self, sign=1.0)

        def describe(self):
            return "flipping signs"

    given, where = by_hand.inputs("gpt2", "left"), places(by_hand.inputs("gpt2", "left"))
    subject = Subject(by_hand.build("gpt2"))
    own = intervention_sweep(subject, given, Flip("mlp_out", where), measure=MEASURE, over=("layer", "position"))
    shipped = intervention_sweep(
        subject, given, Scale("mlp_out", where, -1.0), measure=MEASURE, over=("layer", "position")
    )
    assert torch.equal(own.values.nan_to_num(), shipped.values.nan_to_num())
    with pytest.raises(UserError, match="flipping signs: it cannot be swept over heads"):
        intervention_sweep(subject, given, Flip("z", where), measure=MEASURE, over=("layer", "head"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_swept_in_half_precision(kind, dtype):
    """Proved and not refused; effects are those of float32 but for roundings, which are a share of the logits."""
    given, sweeps = by_hand.inputs("llama", "right"), []
    for model in (by_hand.build("llama"), by_hand.build("llama").to(dtype)):
        subject = Subject(model)
        change, _ = made(kind, "z", places(given), subject.d_head)
        sweeps.append(intervention_sweep(subject, given, change, measure=MEASURE, over=("layer", "head")))
    wide, narrow = sweeps
    largest = float(wide.values.abs().max())
    assert float((wide.effects - narrow.effects).abs().max()) <= 8 * torch.finfo(dtype).eps * largest


def test_layers_may_have_interventions_of_their_own():
    """A function from a layer to its intervention; by hand in variants."""
    given, subject = by_hand.inputs("gemma2", "left"), Subject(by_hand.build("gemma2"))
    base, where = record(subject, given), places(given)

    def make(layer):
        return Add("resid_mid", where, direction(32, layer))

    sweep = intervention_sweep(subject, base, make, measure=MEASURE, layers=[2, 0])
    for place, layer in enumerate((2, 0)):
        alone = variant_sweep(base, [{layer: (make(layer),)}], where, measure=MEASURE)
        torch.testing.assert_close(sweep.values[place], alone.values[0])
    edges = intervention_sweep(subject, base, Knockout(base.final, base.final.roll(-1, 1)), measure=MEASURE)
    windows = knockout_sweep(subject, base, base.final.roll(-1, 1), base.final, window=1, measure=MEASURE)
    assert torch.equal(edges.values, windows.values)


# --- generation


def uncached(subject, given, variant_of, steps):
    """The logits of each new token, every time from the whole text so far, with interventions where they belong."""
    ids, mask, logits = given["input_ids"], given["attention_mask"], []
    for _ in range(steps):
        inputs = {"input_ids": ids, "attention_mask": mask}
        with intervening(subject, variant_of(ids.shape[1]), inputs):
            logits.append(subject.last_logits(inputs))
        ids = torch.cat([ids, logits[-1].argmax(-1, keepdim=True)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return torch.stack(logits)


@pytest.mark.parametrize("generated", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral", "mixtral", "phi3", "gpt_oss"])
def test_generation_equals_recomputing(family, generated):
    """With the cache and without; generated tokens count as positions where it is asked, windows included."""
    given, steps = families.prompts("left"), 5
    subject = Subject(by_hand.build(family))
    where, d = places(given), direction(32)
    late = given["attention_mask"].bool() & (torch.arange(9) > 6)

    def over(mask, behind, n):
        return torch.nn.functional.pad(mask, (0, n - mask.shape[1]), value=behind)

    def variant_of(n):
        acts, source = over(where, generated, n), over(late.roll(-1, 1) & late, False, n)
        return {
            0: (Add("resid_pre", acts, d), Knockout(acts, source)),
            1: (ProjectOut("mlp_out", acts, d), Scale("z", acts, 0.3, heads=(1,))),
            2: (PatchQKV("q", 1, acts, torch.ones(1, 1, 8)), PatchQKV("v", 2, acts, -torch.ones(1, 1, 8))),
        }

    expected = uncached(subject, given, variant_of, steps)
    with intervening(subject, variant_of(9), given, generated=generated):
        out = subject.model.generate(
            **given, max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True,
            eos_token_id=None,
        )  # fmt: skip
    torch.testing.assert_close(torch.stack(out.logits), expected, rtol=1e-3, atol=1e-3)
    plain = subject.model.generate(
        **given, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    assert float((plain.logits[0] - expected[0]).abs().max()) > 1e-2


def test_what_cannot_be_generated_with():
    given = families.prompts("left")
    subject = Subject(by_hand.build("llama"))
    mask = given["attention_mask"].bool()
    patch = {1: (Patch("resid_pre", mask, torch.ones(3, 9, 32)),)}
    with intervening(subject, patch, given):
        subject.model.generate(**given, max_new_tokens=3, do_sample=False)
        with pytest.raises(UserError, match="give the batch that is run"):
            subject.last_logits(families.prompts("left", lengths=(7, 5)))
        with pytest.raises(UserError, match="give the batch that is run"):
            subject.model.generate(**given, max_new_tokens=3, num_beams=2)
    with intervening(subject, patch, given, generated=True), pytest.raises(UserError, match="values at 9 positions"):
        subject.model.generate(**given, max_new_tokens=3, do_sample=False)
    assert not subject.active_edits
    assert not subject.model._forward_pre_hooks


# --- errors, names


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Add("q", m, torch.ones(32)), "cannot add to 'q'"),
        (lambda m: Scale("resid_pre", m, 0.0, heads=(1,)), "heads of 'resid_pre', which has none"),
        (lambda m: Clamp("z", m, 2.0, 1.0), "low ≤ high"),
        (lambda m: Scale("z", m, 0.0, heads=(4,)), "no head 4: there are 0…3"),
        (lambda m: Clamp("z", m, 0.0, 0.0, units=(8,)), "no unit 8: there are 0…7"),
        (lambda m: Apply("z", m, lambda z: z.sum(-1)), "it made"),
        (lambda m: Add("z", m & False, torch.ones(8)), "example 0 of the batch has no position"),
    ],
)
def test_one_clear_line(make, message):
    given = by_hand.inputs("llama", "left")
    subject = Subject(by_hand.build("llama"))
    with pytest.raises(UserError, match=message) as caught:
        intervention_sweep(subject, given, make(given["attention_mask"].bool()), measure=MEASURE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"over": ("head",)}, "over"),
        ({"over": "layer"}, "over"),
        ({"over": ("layer", "head")}, "heads of 'resid_pre'"),
        ({"layers": []}, "at least one"),
        ({"layers": [7]}, "no layer 7 to change: llama has 0…2"),
    ],
)
def test_axes_that_cannot_be_swept(asked, message):
    given, subject = by_hand.inputs("llama", "left"), Subject(by_hand.build("llama"))
    with pytest.raises(UserError, match=message):
        intervention_sweep(subject, given, Scale("resid_pre", None, 0.5), measure=MEASURE, **asked)


def test_sweeps_and_recordings_print_one_line():
    given, subject = by_hand.inputs("llama", "left"), Subject(by_hand.build("llama"), name="tiny")
    base = record(subject, given, ["z"])
    sweep = intervention_sweep(subject, base, Scale("z", None, 0.0), measure=MEASURE, over=("layer", "head"))
    assert repr(base) == "Recording(tiny: 3 layers, 3 examples × 8 positions, resid_pre, z, float32, cpu)"
    assert repr(sweep) == "Sweep(3 layers × 4 heads × 3 examples, float32)"
    assert interventions.Scale is Scale


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(data=st.data())
def test_random_interventions(data):
    """Random kinds, sites, positions, layers and families: the replay is the whole forward."""
    family = data.draw(st.sampled_from(["llama", "gpt2", "gemma2", "gpt_oss", "gemma3", "paligemma"]))
    given = by_hand.inputs(family, data.draw(st.sampled_from(["left", "right"])), seed=data.draw(st.integers(0, 3)))
    subject = Subject(by_hand.build(family))
    base, mask = record(subject, given), given["attention_mask"].bool()
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    variant = {}
    for layer in data.draw(st.sets(st.integers(0, 2), min_size=1)):
        site = data.draw(st.sampled_from(["resid_pre", "z", "attn_out", "mlp_out", "resid_post"]))
        where = (torch.rand(mask.shape, generator=seed) < 0.5) & mask
        kind = data.draw(st.sampled_from(KINDS))
        variant[layer] = (made(kind, site, where, subject.d_head if site == "z" else subject.d_model)[0],)
    everywhere = affected_positions(base, mask)
    with torch.no_grad():
        found, expected = map(subject.norm, (replay(base, everywhere, [variant])[0], full_forward(base, variant)))
    assert float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max()) < 1e-3


@pytest.mark.parametrize("kind", [Patch, Scale, Add, ProjectOut])
def test_what_has_another_shape_is_told_in_one_line(kind):
    subject = tiny.subject()
    batch = subject.batch(["one two three", "four five six"])

    def run(positions, value):
        with intervening(subject, {0: [kind("resid_post", positions, value)]}, batch):
            subject.forward(batch)

    with pytest.raises(UserError, match=r"resid_post: a tensor \[7\] does not fit the site's \[2, "):
        run(None, torch.ones(7))
    others = torch.ones(5, batch.mask.shape[1], dtype=torch.bool)
    with pytest.raises(UserError, match=r"resid_post: its positions are \[5, .* the batch is \[2, "):
        run(others, torch.ones(1))
