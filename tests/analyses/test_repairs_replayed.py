"""Repairs by replay: stacked variants of one recording equal every repair, control and draw in a forward of its own."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.analyses.repairs import _answers, repairs
from crosslens.analyses.repairs._act import act_variant
from crosslens.analyses.repairs._branches import branches_of
from crosslens.analyses.repairs._replayed import differences
from crosslens.analyses.repairs._var import var_variant
from crosslens.analyses.repairs._variants import variants
from crosslens.analyses.repairs._vhr import vhr_variant
from crosslens.data.errors import UserError
from crosslens.probes.intervene.intervening import full_forward, intervening
from crosslens.probes.intervene.interventions import EditAttention, Knockout
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.positions import affected_positions
from crosslens.probes.intervene.recording import record
from crosslens.probes.intervene.replay import replay
from crosslens.probes.intervene.sweep import intervention_sweep, variant_sweep
from crosslens.probes.observe.decode_tracking import behind_image
from crosslens.probes.prompts.image_ablation import image_columns

from ..helpers import tiny
from ..helpers.vision import build, inputs
from ..probes.test_families import assert_close
from .test_repairs import DIMS, TAU
from .test_repairs_run import OPTIONS, questions, seeing

FAMILIES = ["llava", "gemma3", "qwen3_vl", "paligemma", "mistral3"]
ALL = [(layer, head) for layer in range(3) for head in range(4)]
EVERY = {"layers": range(3)}
SINKS = {"dimensions": DIMS, "tau": TAU, "rho": 0.1, "mass": 0.05}
ASKED = {
    "vhr": [
        *({**EVERY, **how} for how in ({}, {"alpha": 0.5}, {"filter": False}, {"blind_too": False})),
        *({**EVERY, "heads": heads} for heads in ("complement", "spread")),
        *({**EVERY, "heads": "random", "seed": seed} for seed in (0, 1)),
    ],
    "vhr everywhere": [{"layers": [0, 2], "positions": "all", **how} for how in ({}, {"heads": "spread"})],
    "var": [
        *(
            {**SINKS, **EVERY, **how}
            for how in ({}, {"p": 0.9}, {"to": "text"}, {"to": "all", "rho": 0.0, "mass": 0.0})
        ),
        {**SINKS, "layers": [1, 2], "rho": 0.0, "mass": 0.0, "without_visual_sinks": "move"},
        *({**SINKS, **EVERY, "columns": "random", "seed": seed} for seed in (0, 1)),
    ],
    "act": [
        *({"heads": ALL, "threshold": 0.12, **how} for how in ({}, {"beta": 0.1}, {"per_token": 1.5})),
        *({"heads": ALL[4:6], "threshold": 0.05, "columns": "random", "seed": seed} for seed in (0, 1)),
    ],
}
MADE = {"vhr": vhr_variant, "var": var_variant, "act": act_variant}


def measured(repair):
    """The three prompts' two words; behind them, where there are two branches, those of the same without images."""
    copies = 2 if repair == "vhr" else 1
    return logit_difference(torch.tensor([3, 4, 5] * copies), torch.tensor([6, 7, 8] * copies))


# A window of 4 hides the image from the last row: what head reinforcement chooses by is rounding in such layers.
HIDDEN = [("mistral3", "vhr"), ("mistral3", "vhr everywhere"), ("gemma3", "vhr")]
PAIRS = [(family, repair) for family in FAMILIES for repair in ASKED if (family, repair) not in HIDDEN]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("family", "repair"), PAIRS)
def test_stacked_variants_equal_the_repair_in_a_whole_forward(family, repair, padding):
    subject, name = Subject(build(family)), repair.split()[0]
    given = inputs(subject.model, padding, lengths=(9, 7, 8))
    prepared = subject.prepare(given)
    base = record(subject, branches_of(subject, prepared, "dropped").inputs if name == "vhr" else prepared)
    made = [MADE[name](base, **how) for how in ASKED[repair]]
    behind = behind_image(image_columns(subject, base.inputs), base.mask) if name == "var" else base.mask
    positions = base.final if repair == "vhr" else behind
    measure = measured(name)
    values = variant_sweep(base, [edits for edits, _ in made], positions, measure=measure).values[:, :3]
    plain = measure(subject.last_logits(given).repeat(len(base.mask) // 3, 1), torch.arange(len(base.mask)))[:3]
    moved = []
    for how, value, (edits, found) in zip(ASKED[repair], values, made, strict=True):
        with getattr(repairs, name)(subject, **how) as expected:
            logits = subject.last_logits(given)
        alone = measure(logits.repeat(len(base.mask) // 3, 1), torch.arange(len(base.mask)))[:3]
        assert_close(value, alone, f"{family} {repair} {how}")
        moved.append(float((alone - plain).abs().max()))
        for what, layers in vars(expected).items():
            for layer, tensor in layers.items():
                assert_close(getattr(found, what)[layer].float(), tensor.float(), f"{what} {layer} of {how}")
        slow = full_forward(base, edits)
        slow = measure(subject.unembed(subject.norm(slow)).float(), torch.arange(len(base.mask)))[:3]
        assert_close(slow, alone, f"the same interventions in a whole forward: {family} {repair} {how}")
    # A window of 4 hides the image from most rows; where all see all, no column is a hidden sink.
    assert family in ("mistral3", "paligemma") or max(moved) > 1e-4


def test_only_the_rows_that_a_repair_reaches_are_computed():
    subject = Subject(build("llava"))
    given = subject.prepare(inputs(subject.model, "left", lengths=(9, 7, 8)))
    base = record(subject, given)
    behind = behind_image(image_columns(subject, given), base.mask)
    assert affected_positions(base, behind).index.shape[1] == int(behind.sum(1).max()) < base.mask.shape[1]
    both = record(subject, branches_of(subject, given, "dropped").inputs)
    (edit,) = vhr_variant(both, layers=[1])[0][1]
    assert affected_positions(both, edit.positions).index.shape[1] == 1


@pytest.mark.parametrize("image", ["dropped", "masked"])
def test_answers_by_replay_are_those_under_the_open_repair(image):
    subject = seeing()
    batch = subject.batch(questions(5, tokenizer=None))
    options = repairs.Options(**{**OPTIONS, "image": image, "timed": 0})
    asked = variants(options, repairs.Learned(True, OPTIONS["dimensions"], OPTIONS["tau"], [[1, 0], [1, 2]]))
    found = {v.key: said for v, said, _ in _answers.answered(subject, batch, asked, options)}
    assert set(found) == {v.key for v in asked}
    for variant in asked:
        expected, _ = _answers.answered_under(subject, batch, variant, options)
        torch.testing.assert_close(found[variant.key], expected, equal_nan=True)


def test_no_head_to_calibrate_leaves_the_plain_answers():
    subject = seeing()
    batch = subject.batch(questions(3, tokenizer=None))
    asked = variants(repairs.Options(**OPTIONS), repairs.Learned(False, heads=[]))
    found = {v.key: gap for v, gap, _ in differences(subject, batch, asked)}
    for gap in found.values():
        assert torch.equal(gap, found["none|0|"].expand_as(gap))


# ---------------------------------------------------------------- the intervention by itself


def halving(mask):
    """Two heads speak half as loud at some positions, a third is scaled by what it reads at each row."""

    def function(call, rows):
        z = call.output()
        scale = torch.ones(z.shape[:3]).transpose(1, 2)
        scale[:, :2] = 0.5
        scale[:, 2] = z[:, :, 2].norm(dim=-1).cos()
        return call.edited(head_scale=torch.where(rows.take(mask)[:, None], scale, 1.0))

    return EditAttention(mask, function)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_oss", "qwen3_next"])
def test_an_edit_of_the_attention_beside_others(family):
    """Some variants edit the attention, others remove edges or do nothing in that layer, in one stack."""
    subject = tiny.subject(family)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [0, 0, 7, 9, 8, 3]])
    given = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    base = record(subject, given)
    layer = subject.decoder.attending[0]
    late = base.mask & (torch.arange(6) > 2)
    first = torch.zeros_like(base.mask).scatter(1, base.mask.int().argmax(1, keepdim=True), True)
    edit, cut = halving(late), Knockout(late, first)
    stacked = [{layer: (edit,)}, {layer: (cut,)}, {layer: (edit, halving(late))}]
    values = replay(base, affected_positions(base, late), stacked)
    for value, variant in zip(values, stacked, strict=True):
        assert_close(value, full_forward(base, variant), family)
    assert float((values[0] - base.resid).abs().max()) > 1e-4
    sweep = intervention_sweep(subject, base, edit, measure=logit_difference(ids[:, 2], ids[:, 4]), layers=[layer])
    with intervening(subject, {layer: (edit,)}, given):
        logits = subject.last_logits(given)
    expected = logit_difference(ids[:, 2], ids[:, 4])(logits, torch.arange(2))
    assert_close(sweep.values[0], expected, family)
    with pytest.raises(UserError, match="removes edges and edits the attention"):
        replay(base, affected_positions(base, late), [{layer: (edit, cut)}])
