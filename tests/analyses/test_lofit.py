"""LoFiT: edits are hooked forwards, rows are their own, a planted head is found and its twin not, mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import DIRECTION, HEADS
from crosslens.analyses.common.selection import strongest
from crosslens.analyses.steered import lofit
from crosslens.analyses.steered._lofit_learned import (
    CONTROLS,
    EDITS,
    MEANS,
    OURS,
    PLAIN,
    SECOND,
    differences,
    directions,
    edits_of,
    neutral_losses,
    strengths_of,
)
from crosslens.analyses.steered._lofit_rows import under_edits
from crosslens.analyses.steered._lofit_tables import CHOSEN, LENGTH, MOVED, NEUTRAL, TWO_SEEDS
from crosslens.analyses.steered._lofit_training import (
    Edit,
    Prompts,
    answer_loss,
    editing,
    learned_offsets,
    learned_scales,
    scaling,
    shape_of,
    shifting,
)
from crosslens.data.errors import UserError
from crosslens.data.tasks import passages
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, tiny
from ..helpers.planted import copying_model
from ..probes.test_families import assert_close

OPTIONS = lofit.Options(top=3, steps=3, neutral=0)
CHOSEN_HEADS, OTHERS = [(0, 1), (1, 0), (2, 3)], [(0, 2), (1, 1), (2, 0)]


def edit_of(subject, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Edit(*(torch.randn(shape_of(subject), generator=generator) for _ in range(2)))


def learned(subject, seed=0):
    """Scales and offsets at random, as a fit would keep them."""
    scale, offset = edit_of(subject, seed)
    sets = {OURS: CHOSEN_HEADS, SECOND: OTHERS, MEANS: CHOSEN_HEADS}
    told = [(name, heads, offset[*torch.tensor(heads).T].tolist()) for name, heads in sets.items()]
    told += [(HEADS, OTHERS, (draw * offset[*torch.tensor(OTHERS).T]).tolist()) for draw in (1, 2)]
    own = offset[*torch.tensor(CHOSEN_HEADS).T]
    told += [(DIRECTION, CHOSEN_HEADS, directions(CHOSEN_HEADS, own, draw).tolist()) for draw in range(2)]
    norms = strengths_of(subject, scale).tolist()
    return lofit.Learned(scale.tolist(), (norms, norms), told, 8)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_an_edited_forward_is_a_hooked_one(padding):
    """The slow way: what W_O reads, changed head by head by a hook of our own."""
    subject = tiny.subject()
    batch, edit = subject.batch(contrasts.examples(4, tokenizer=None), padding=padding), edit_of(subject)
    with editing(subject, edit, range(subject.n_layers)):
        found = subject.last_logits(batch)
    assert_close(found, _hooked(subject, batch, edit), "logits")
    assert (found - subject.last_logits(batch)).abs().max() > 1e-3


@torch.no_grad()
def _hooked(subject, batch, edit):
    def change(layer):
        def hook(module, args):
            z = args[0].unflatten(-1, (subject.n_heads, subject.d_head))
            heads = [z[..., h, :] * (1 + edit.scale[layer, h]) + edit.offset[layer, h] for h in range(subject.n_heads)]
            return (torch.stack(heads, -2).flatten(-2),)

        return hook

    blocks = subject.model.model.layers
    handles = [block.self_attn.o_proj.register_forward_pre_hook(change(i)) for i, block in enumerate(blocks)]
    try:
        return subject.model(**subject.prepare(batch)).logits[torch.arange(len(batch.last)), batch.last]
    finally:
        for handle in handles:
            handle.remove()


def test_the_gradient_is_that_of_finite_differences():
    subject = tiny.subject()
    batch, edit = subject.batch(contrasts.examples(4, tokenizer=None)), scaling(edit_of(subject).scale)
    scale = edit.scale.clone().requires_grad_()
    layers = range(subject.n_layers)
    answer_loss(subject, batch, scaling(scale), layers).backward()
    for place in ((0, 1, 0), (2, 3, 5)):
        ends = []
        for step in (-1e-2, 1e-2):
            moved = edit.scale.clone()
            moved[place] += step
            ends.append(_loss(subject, batch, scaling(moved), layers))
        assert scale.grad is not None
        assert float(scale.grad[place]) == pytest.approx((ends[1] - ends[0]) / 2e-2, rel=0.05, abs=1e-4)


def _loss(*given):
    return answer_loss(*given).item()


def test_rows_are_edited_forwards_and_belong_to_their_example():
    subject = tiny.subject()
    examples, told = contrasts.examples(4, tokenizer=None), learned(subject)
    batch = subject.batch(examples, padding="left")
    whole = under_edits(subject, batch, told, OPTIONS)
    edits = edits_of(told)
    for name in EDITS:
        logits = _hooked(subject, batch, edits[name][0])
        own = logits.log_softmax(-1)[torch.arange(4), batch.answers]
        log_p, leads = (whole[f"{of}|{name}"] for of in ("log p", "lead"))
        if name == OURS:
            log_p, leads = log_p[:, 0], leads[:, 0]
        assert_close(log_p, own, name)
        assert_close(leads, logits.gather(1, batch.answers[:, None])[:, 0] - _foil(batch, logits), name)
    for i, example in enumerate(examples):
        alone = under_edits(subject, subject.batch([example], padding="right"), told, OPTIONS)
        for name, values in alone.items():
            assert_close(values[0], whole[name][i], name)


def _foil(batch, logits):
    return logits.gather(1, batch.wrong[:, None])[:, 0]


def test_offsets_are_swept_with_both_controls():
    """The slow way: a hooked forward for every strength and draw. At 1 it is the offset as it was learned."""
    subject, options = tiny.subject(), replace(OPTIONS, strengths=(1.0, 2.0))
    batch, told = subject.batch(contrasts.examples(4, tokenizer=None)), learned(subject)
    rows, edits = under_edits(subject, batch, told, options), edits_of(told)
    for name in (OURS, *CONTROLS):
        for draw, edit in enumerate(edits[name]):
            for i, strength in enumerate(options.strengths):
                logits = _hooked(subject, batch, Edit(edit.scale, strength * edit.offset))
                found = rows[f"log p|{name}"][:, i]
                own = logits.log_softmax(-1)[torch.arange(4), batch.answers]
                assert_close(found if name == OURS else found[:, draw], own, f"{name} × {strength}")
    assert rows[f"log p|{DIRECTION}"].shape == (4, 2, 2)


def test_an_offset_of_nothing_changes_nothing():
    subject = tiny.subject()
    batch, told = subject.batch(contrasts.examples(4, tokenizer=None)), learned(subject)
    none = [(name, heads, torch.zeros(len(heads), subject.d_head).tolist()) for name, heads, _ in told.offsets]
    rows = under_edits(subject, batch, told._replace(offsets=none), OPTIONS)
    for name in (OURS, *CONTROLS):
        plain = rows[f"log p|{PLAIN}"].reshape(4, *[1] * (rows[f"log p|{name}"].ndim - 1))
        assert_close(rows[f"log p|{name}"], plain.expand_as(rows[f"log p|{name}"]), name)


def test_random_directions_have_the_norms_of_the_offsets():
    offsets = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    one, two = (directions(CHOSEN_HEADS, offsets, draw) for draw in range(2))
    assert_close(one.norm(dim=-1), offsets.norm(dim=-1), "norms")
    assert (one - two).norm() > 0.1
    assert torch.equal(one, directions(CHOSEN_HEADS, offsets, 0)), "the same draw again"
    assert torch.equal(one[1:], directions(CHOSEN_HEADS[1:], offsets[1:], 0)), "a head's own, whatever else is chosen"


def test_a_task_without_wrong_answers_has_no_lead():
    subject = tiny.subject()
    batch = subject.batch([replace(example, wrong=()) for example in contrasts.examples(3, tokenizer=None)])
    rows = under_edits(subject, batch, learned(subject), OPTIONS)
    assert rows[f"lead|{PLAIN}"].isnan().all()
    assert rows[f"log p|{PLAIN}"].isfinite().all()
    assert len({values.data_ptr() for values in rows.values()}) == len(rows), "safetensors refuses what is shared"


def test_how_far_a_scale_moves_a_head_is_its_mean_over_positions():
    subject = tiny.subject()
    told, examples = learned(subject), contrasts.examples(3, tokenizer=None)
    how = How(replace(OPTIONS), told._replace(selected_on=[example.group for example in examples]))
    rows = observe(subject, subject.batch(examples, padding="left"), {"lofit": (lofit, how)})["lofit"]
    for i, example in enumerate(examples):
        z = _z(subject, subject.batch([example]))
        expected = metrics.edit_strength(torch.tensor(told.scale)[:, None] * z).mean(1)
        assert_close(rows["moved"][i], expected, "moved")


@torch.no_grad()
def _z(subject, batch):
    """[layer, p, h, d] of one prompt."""
    found = []
    handles = [
        block.self_attn.o_proj.register_forward_pre_hook(lambda module, args: found.append(args[0][0]))
        for block in subject.model.model.layers
    ]
    subject.model(**subject.prepare(batch))
    for handle in handles:
        handle.remove()
    return torch.stack(found).unflatten(-1, (subject.n_heads, subject.d_head))


def planted(with_head=True):
    """A model that reads all words alike, and whose head 1.0, if it is there, says what it reads; no other head writes
    anything. The answer is the second word, one of four, and the other words are others.
    """
    model = copying_model(planted=with_head).model
    with torch.no_grad():
        for layer, block in enumerate(model.transformer.h):
            weight = block.attn.c_proj.weight
            weight[len(weight) // 2 if layer else 0 :] = 0
            weight *= with_head
    subject = Subject(model, tiny.tokenizer(), name="planted copying")
    rng = np.random.default_rng(0)
    examples = []
    for i, example in enumerate(contrasts.examples(32, tokenizer=None)):
        words = [f"w{word}" for word in rng.permutation(np.arange(4, 12))[:5]]
        words[1] = f"w{i % 4}"
        segments = (example.segments[0]._replace(content=" ".join(words), marks={}),)
        examples.append(replace(example, segments=segments, answer=f" {words[1]}", wrong=(" w11",), corrupt=None))
    return subject, Prompts(examples, {"template": "raw", "bos": False})


def test_a_planted_head_is_found_and_its_twin_is_not():
    options = lofit.Options(steps=20, rate=0.05)
    gained = {}
    for there in (True, False):
        subject, prompts = planted(there)
        scale = learned_scales(subject, prompts, options, 0)
        batch = prompts.batch(subject, range(32))
        losses = [_loss(subject, batch, scaling(one), range(2)) for one in (torch.zeros_like(scale), scale)]
        gained[there] = losses[0] - losses[1]
        strengths = strengths_of(subject, scale)
        if there:
            assert strongest(strengths, 1) == [(1, 0)]
            assert float(strengths[1, 0]) > 2 * float(strengths.flatten().sort().values[-2])
            assert gained[True] > 0.05
    assert gained[False] < 0.1 * gained[True]


def test_offsets_of_the_planted_head_help_and_of_another_do_not():
    subject, prompts = planted()
    batch, shape = prompts.batch(subject, range(32)), shape_of(subject)
    plain = _loss(subject, batch, scaling(torch.zeros(shape)), [])
    gained = {}
    for heads in ([(1, 0)], [(1, 1)]):
        values = learned_offsets(subject, prompts, heads, lofit.Options(steps=20, rate=0.05))
        gained[heads[0]] = plain - _loss(subject, batch, shifting(shape, heads, values), [1])
    assert gained[1, 0] > 0.1
    assert gained[1, 1] < 0.2 * gained[1, 0]


def test_training_is_the_same_twice_and_leaves_the_model_alone():
    subject = tiny.subject()
    prompts = Prompts(contrasts.examples(12, tokenizer=None), {"template": "raw", "bos": True})
    before = {name: weight.clone() for name, weight in subject.model.named_parameters()}
    asking = [weight.requires_grad for weight in subject.model.parameters()]
    one, two = (learned_scales(subject, prompts, OPTIONS, 0) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, learned_scales(subject, prompts, OPTIONS, 1))
    assert all(torch.equal(before[name], weight) for name, weight in subject.model.named_parameters())
    assert [weight.requires_grad for weight in subject.model.parameters()] == asking


def test_a_difference_of_means_is_that_of_the_last_positions():
    subject = tiny.subject()
    examples = contrasts.examples(10, tokenizer=None)
    prompts = Prompts(examples, {"template": "raw", "bos": True, "padding": "left"})
    found = differences(subject, prompts, CHOSEN_HEADS, torch.tensor([1.0, 2.0, 3.0]))
    own, twins = (_last_z(subject, some) for some in (examples, [example.corrupt for example in examples]))
    whole = own - twins
    for i, (layer, head) in enumerate(CHOSEN_HEADS):
        assert_close(found[i], (i + 1) * whole[layer, head] / whole[layer, head].norm(), "direction")


def _last_z(subject, examples):
    """Its mean [layer, h, d] at the last positions."""
    one_by_one = (subject.batch([example], template="raw", bos=True) for example in examples)
    return torch.stack([_z(subject, batch)[:, -1] for batch in one_by_one]).mean(0)


def test_neutral_text_is_read_under_every_edit(monkeypatch):
    monkeypatch.setattr(
        passages,
        "examples",
        lambda n, seed, *, tokenizer, tokens: contrasts.examples(n, seed, tokenizer=tokenizer, size=12),
    )
    subject = tiny.subject()
    documents, losses = neutral_losses(subject, edits_of(learned(subject)), lofit.Options(neutral=4))
    assert len(documents) == 4
    assert set(losses) == {PLAIN, *CONTROLS, *EDITS}
    assert all(len(values) == 4 for values in losses.values())
    assert losses[PLAIN] != losses[OURS] != losses[SECOND]


def analyse(out, **settings):
    chosen = Settings(**{"limit": 40, "out": out} | settings)
    (directory,) = run(tiny.subject(), contrasts.task(contrasts.four_groups), {"lofit": (lofit, OPTIONS)}, chosen)
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run(tmp_path):
    found = analyse(tmp_path / "one")
    effects, gain, heads = found["effects"], found["gain"], found["heads"]
    assert set(effects["n"]) == {20}, "groups that it was learned from are not scored"
    lengths = heads[(heads["measure"] == LENGTH) & (heads["seed"] == 1)]
    assert lengths["chosen"].sum() == OPTIONS.top
    assert lengths.nlargest(OPTIONS.top, "value")["chosen"].all()
    assert heads[heads["measure"] == MOVED]["lower"].notna().all() or set(heads["n_groups"]) == {2}
    of = effects[(effects["measure"] == "log p of the answer") & (effects["control"] == "")].set_index("edit")["value"]
    than = gain[(gain["measure"] == "log p of the answer") & (gain["edit"] == OURS)].set_index("than")["value"]
    assert of[OURS] - of[PLAIN] == pytest.approx(than[PLAIN])
    swept = found["strengths"][found["strengths"]["measure"] == "log p of the answer"]
    assert {*swept["control"]} == {"", *CONTROLS}
    own = swept[swept["control"] == ""].set_index("strength")["value"]
    assert own[1.0] == pytest.approx(than[PLAIN])
    assert (own[0.0], {*own.index}) == (0, {0.0, 0.5, 1.0, 2.0})
    assert set(found["overlap"]["pair"]) == {TWO_SEEDS, "‖A‖ and ‖A ⊙ z‖"}
    numbers = found["claims"].set_index("name")["numbers"]
    assert "no neutral text was read" in numbers[NEUTRAL]
    assert HEADS in set(found["tested"]["than"])
    assert CHOSEN in numbers.index
    other = analyse(tmp_path / "two", size=5)
    pd.testing.assert_frame_equal(other["effects"], effects, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "--lofit.steps 0"),
        ({"rate": 0.0}, "rate above 0"),
        ({"top": 99}, "--lofit.top 99"),
        ({"draws": 0}, "--lofit.draws 0"),
        ({"l1": -1.0}, "--lofit.l1 -1"),
        ({"strengths": (0.5, 1.0)}, "the first has to be 1"),
        ({"strengths": ()}, "the first has to be 1"),
        ({"strengths": (1.0, 0.0)}, "numbers above 0"),
        ({"strengths": (1.0, 2.0, 2.0)}, "different numbers"),
    ],
)
def test_mistakes_are_one_line(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run(
            tiny.subject(), contrasts.task(), {"lofit": (lofit, replace(OPTIONS, **options))}, Settings(8, out=tmp_path)
        )


def test_a_task_without_answers_is_refused(tmp_path):
    def open_prompts(n=None, seed=0, *, tokenizer):
        return [replace(e, answer="", wrong=(), corrupt=None) for e in contrasts.examples(n, seed, tokenizer=tokenizer)]

    with pytest.raises(UserError, match="empty answer"):
        run(tiny.subject(), contrasts.task(open_prompts), {"lofit": (lofit, OPTIONS)}, Settings(8, out=tmp_path))
