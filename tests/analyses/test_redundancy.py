"""Modules left out equal whole forwards with the module's output put to 0; one that writes nothing is found."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from crosslens import metrics
from crosslens.analyses.common.places import without_first
from crosslens.analyses.redundancy import redundancy
from crosslens.analyses.redundancy._importance import INSIDE, KINDS, SHARES, counted
from crosslens.analyses.redundancy._redundancy_ranks import transfer
from crosslens.analyses.redundancy._skips import SITES_OF, Skips, curves, scored, singles
from crosslens.data.example import Example, Segment
from crosslens.probes.model import anatomy
from crosslens.probes.observe.tracing import rewrite_output, tracing
from crosslens.probes.runs.results import How, observe

from ..helpers import planted_hybrid, tiny, vision_subjects
from ..helpers.counting import layer_rows
from .claims import rows_of as planted_rows

OPTIONS = redundancy.Options(draws=2, positions=8)
IMPORTANCE = [[0.3, 0.1, 0.2]] * len(KINDS)
HOW = How(OPTIONS, redundancy.Learned(IMPORTANCE))
FAMILIES = ["llama", "gemma2", "gpt_neox", "phi", "granite"]  # pre- and post-norm, parallel, with multipliers


def texts(answers=True):
    made = tiny.examples(4, tokenizer=None)
    return made if answers else [Example(e.id, e.group, e.segments) for e in made]


def rows_of(subject, examples, **form):
    batch = subject.batch(examples, **form)
    kept = observe(subject, batch, {"redundancy": (redundancy, HOW)})["redundancy"]
    return redundancy.measure(subject, batch, kept, HOW)


def by_hand(subject, batch, places):
    """Loss of the scored tokens, from whole forwards in which modules write nothing."""
    with ExitStack() as stack:
        for layer, site in places:
            rewrite_output(stack, subject.layers[layer], site, torch.zeros_like)
        with torch.no_grad():
            logits = subject.model(**subject.prepare(batch)).logits.float()
    asked = scored(batch, OPTIONS.positions)
    found = []
    for row, at, targets in zip(logits.log_softmax(-1), asked.places, asked.targets, strict=True):
        found.append(torch.stack([-row[p, t] for p, t in zip(at, targets, strict=True) if t >= 0]).mean())
    return torch.stack(found)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_module_left_out_is_the_forward_without_it(family, padding):
    subject = tiny.subject(family)
    batch = subject.batch(texts(answers=False), padding=padding)
    skips = Skips(subject, batch, OPTIONS.positions)
    for kind in KINDS:
        left_out = singles(skips, kind)[0][..., 0]
        for layer in range(subject.n_layers):
            sites = [(layer, site) for site in SITES_OF[kind] if site != "beside_out"]
            torch.testing.assert_close(left_out[:, layer], by_hand(subject, batch, sites), rtol=1e-4, atol=1e-5)
    nothing = skips.read([{}])[0][0, :, 0]
    torch.testing.assert_close(nothing, by_hand(subject, batch, []), rtol=1e-5, atol=1e-6)


def test_a_family_that_cannot_be_replayed_is_read_from_whole_forwards(monkeypatch):
    subject = tiny.subject()
    batch = subject.batch(texts(answers=False), padding="left")
    replayed = singles(Skips(subject, batch, 8), "MLP")
    monkeypatch.setattr("crosslens.probes.intervene.readout.obstacle_of", lambda base: "not these")
    for one, other in zip(replayed, singles(Skips(subject, batch, 8), "MLP"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_all_sizes_deepest_first_are_half_of_the_layers_forwards():
    """Each is forked at its first layer: k layers of size k; beside them the clean run and a layer's proof."""
    subject = tiny.subject()
    batch, layers = subject.batch(texts()), subject.n_layers
    for _ in range(2):  # the first proves the model
        skips = Skips(subject, batch, 8)
        with layer_rows(subject) as counts:
            skips.read([skips.variant("block", range(first, layers)) for first in range(layers)])
    one = layers * int(batch.mask.sum(1).max()) * len(batch.examples)
    assert sum(counts) <= one * ((layers + 1) / 2 + 1 + 3 / layers)


def test_several_left_out_in_their_orders():
    subject = tiny.subject()
    batch = subject.batch(texts())
    found = curves(Skips(subject, batch, 8), "attention", {0: 0.3, 1: 0.1, 2: 0.2}, 2)[..., 0]
    count = counted(1 / 2, 3)
    for order, first in enumerate(([2, 1, 0], [1, 2, 0])):
        expected = by_hand(subject, batch, [(layer, "attn_out") for layer in first[:count]])
        torch.testing.assert_close(found[:, order, -1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("answers", [True, False])
def test_rows_belong_to_their_example(answers):
    subject, examples = tiny.subject(), texts(answers)
    for padding in ("left", "right"):
        together = rows_of(subject, examples, padding=padding)
        for i, one in enumerate(examples):
            for name, values in rows_of(subject, [one]).items():
                torch.testing.assert_close(
                    together[name][i], values[0], rtol=1e-3, atol=1e-4, equal_nan=True, msg=f"{name} {padding}"
                )


def silenced(layer):
    """A subject of which one layer writes nothing."""
    subject = tiny.subject()
    if layer is not None:
        block = subject.layers[layer]
        for part in (anatomy.attention_of(block).o_proj, anatomy.down_projection(block)):
            torch.nn.init.zeros_(part.weight)
    return subject


def test_a_layer_that_writes_nothing_is_found_and_no_other():
    rows, plain = rows_of(silenced(1), texts()), rows_of(silenced(None), texts())
    for k, kind in enumerate(KINDS):
        cost = rows[f"skip|{kind}"][..., 0] - rows["clean"][:, None, 0]
        assert rows["turned"][:, 1, k, 0].abs().max() < 1e-6
        assert cost[:, 1].abs().max() < 1e-6
        assert cost[:, [0, 2]].abs().min() > 1e-6
        assert plain["turned"][:, 1, k, 0].min() > 1e-3
        assert (plain[f"skip|{kind}"][:, 1, 0] - plain["clean"][:, 0]).abs().max() > 1e-3


def test_importance_and_energies_are_the_slow_sums():
    subject, examples = tiny.subject(), texts()
    batch = subject.batch(examples)
    kept, rows = [], rows_of(subject, examples)
    with torch.no_grad(), tracing(subject, kept.append):
        subject.forward(batch)
    real = without_first(batch)
    for layer in kept:
        i = layer.index
        for example in range(len(examples)):
            x, f = (t[example, real[example]] for t in (layer.resid_mid, layer.mlp_out))
            cosines = torch.cosine_similarity(x, x + f, dim=-1)
            torch.testing.assert_close(rows["turned"][example, i, 2, 0], 1 - cosines.mean(), rtol=1e-3, atol=1e-6)
            squares = layer.z[example, real[example]].square().sum(0).flatten().sort(descending=True).values
            for share, held in zip(SHARES, rows["energy"][example, i, INSIDE.index("z")], strict=True):
                expected = squares[: counted(share, len(squares))].sum() / squares.sum()
                torch.testing.assert_close(held, expected, rtol=1e-4, atol=1e-6)


def test_transfer_entropy_is_the_metric():
    rng = np.random.default_rng(0)
    clean, masked = rng.normal(size=(40, 8)) + 3, rng.normal(size=(40, 2, 8)) * [[[1.0], [2.0]]]
    rows = planted_rows({"features": clean, "features|skip": masked}, 20)
    found = transfer(rows, "skip")
    for layer in range(2):
        expected = metrics.transfer_entropy(torch.from_numpy(clean), torch.from_numpy(masked[:, layer]))
        assert found.value[layer] == pytest.approx(float(expected), rel=1e-9)


def test_a_text_is_read_at_its_next_tokens_and_a_question_at_its_end():
    subject = tiny.subject()
    spoken = Example("s", "s", (Segment("text", "w1 w2 w3"), Segment("answer", " w4 w5")), answer=" w4")
    batch = subject.batch([*texts(answers=False)[:1], *texts()[:1], spoken])
    found, ids = scored(batch, 3), batch.inputs["input_ids"]
    count = (found.targets >= 0).sum(1).tolist()
    assert count == [3, 1, 2]
    for i in (0, 2):
        for at, target in zip(found.places[i], found.targets[i], strict=True):
            assert target < 0 or ids[i, at + 1] == target
    assert int(found.places[1, 0]) == int(batch.last[1])


def test_layers_without_attention_have_no_number_of_it():
    subject = planted_hybrid.subject()
    rows = rows_of(subject, planted_hybrid.examples(2))
    without = [layer for layer in range(subject.n_layers) if layer not in subject.decoder.attending]
    for values in (rows["skip|attention"][..., 0], rows["turned"][:, :, KINDS.index("attention"), 0]):
        assert values[:, without].isnan().all()
        assert values[:, list(subject.decoder.attending)].isfinite().all()
    assert rows["skip|block"].isfinite().all()


def test_the_blind_rows_are_those_of_the_prompt_without_its_image(tmp_path):
    subject = vision_subjects.save("llava", tmp_path)
    question = Segment("question", " w5 w6 w3")
    text = Segment("text", "w1 w2")
    seen = Example("a", "a", (text, Segment("image", vision_subjects.picture(1)), question), answer=" w4")
    blind = Example("b", "b", (text, question), answer=" w4")
    rows, expected = rows_of(subject, [seen, blind]), rows_of(subject, [blind])
    torch.testing.assert_close(rows["blind|block"][0], expected["skip|block"][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rows["blind clean"][0], expected["clean"][0], rtol=1e-4, atol=1e-5)
    assert rows["blind|block"][1].isnan().all()
    assert "blind|block" not in expected
