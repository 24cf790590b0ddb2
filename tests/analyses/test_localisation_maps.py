"""Maps of words, of gradients and of hidden blocks, each the slow way: whole patterns, autograd, one forward each."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import GENERAL_PROMPT
from crosslens.analyses.common.stretches import stretches
from crosslens.analyses.localisation import _looks, crop_and_ask, localisation
from crosslens.analyses.localisation._attention_maps import FUSION, TAG, fused, maps_of, seen_of
from crosslens.analyses.localisation._looks import seen, steps_of
from crosslens.analyses.localisation._masks import filled, mask_scores
from crosslens.analyses.localisation._places import places
from crosslens.analyses.localisation._words import asked_of, asking
from crosslens.cli.look import Look
from crosslens.data.example import Example, Segment
from crosslens.looked import look
from crosslens.probes.intervene.answer_slopes import answer_slopes
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.answers import with_answers
from PIL import Image

from ..helpers import vision_subjects

OPTIONS = localisation.Options(gradients=True, occlusion=3, window=2)
BOX = {"asked_object": [(8, 0, 16, 8)]}


@pytest.fixture(scope="module")
def opened() -> Any:
    return Subject(*vision_subjects.build("llava"), name="llava")


def example(name: str = "a", words: str = " w4 w5 w6 w7", seed: int = 0) -> Example:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    question = Segment("question", words, {"asked_word": [(4, 6), (7, 9)]})
    segments = (Segment("image", Image.fromarray(pixels)), Segment("text", " w3"), question, Segment("text", " w8"))
    return Example(name, name, segments, " w7", (" w8",), boxes=BOX)


@pytest.fixture(scope="module")
def batch(opened) -> Any:
    return opened.batch([example(), example("b", " w6 w5 w4 w6 w9 w3", 1)], padding="left")


@pytest.fixture(scope="module")
def found(opened, batch) -> Any:
    return seen(opened, batch, OPTIONS)


def patterns(opened, batch, row: int) -> torch.Tensor:
    """[layer, h, q, cells] of one example."""
    place = places(batch, "asked_object")[row]
    assert place is not None
    kept = capture(opened, batch, ["pattern"])
    return torch.stack([kept["pattern", i][row][:, :, place.positions] for i in range(opened.n_layers)])


def test_gaze_and_tag_are_those_of_whole_patterns(opened, batch, found):
    for row in range(2):
        whole, run = patterns(opened, batch, row), stretches(batch, "asked_word")[row]
        assert run is not None
        assert run.words.tolist() == [1, 2]
        rows = whole[:, :, run.positions]
        mine = found["gaze"][row]
        torch.testing.assert_close(mine[:, 0].mean(0), metrics.gaze_shift(rows, run.words).shift)
        torch.testing.assert_close(mine[:, 1].mean(0), metrics.gaze_shift(-rows, run.words).shift)
        place = places(batch, "asked_object")[row]
        assert place is not None
        own = seen_of(found, batch, row, place)
        assert own is not None
        expected = metrics.grounded_map(rows[:, :, run.words + 1], 10).map
        torch.testing.assert_close(maps_of(own, None, (), place, OPTIONS)[TAG][0], expected)


def test_words_of_a_question_are_followed_but_not_the_one_behind_the_image(opened):
    bare = replace(example(), segments=(example().segments[0], Segment("question", " w4 w5 w6")))
    (run,) = stretches(opened.batch([bare]), "asked_word")
    assert run is not None
    assert (len(run.positions), run.words.tolist()) == (3, [0, 1])  # w4 is read before anything else of the text
    (none,) = stretches(opened.batch([replace(bare, segments=(bare.segments[0], Segment("text", " w4")))]), "x")
    assert none is None


def test_another_question_keeps_its_marked_words(opened):
    text, spans = asked_of(example("b", " w6 w5 w4 w6"), "asked_word")
    changed = asking(example(), text, spans, "asked_word")
    assert changed is not None
    (run,) = stretches(opened.batch([changed]), "asked_word")
    assert run is not None
    assert run.words.tolist() == [1, 2]


def test_weighted_attention_is_what_autograd_says_of_a_whole_pattern(opened, batch, found):
    """The law of grad-att: A · relu(∂ log p/∂A), mean over heads, from a pattern that is held and differentiated."""
    kept = capture(opened, batch, ["pattern", "v"])
    steps = steps_of(batch)[:, 0]
    for index in range(opened.n_layers):
        pattern = kept["pattern", index].clone().requires_grad_()
        v = kept["v", index].repeat_interleave(opened.n_heads // opened.n_kv_heads, 2)

        def mixed(_: torch.Tensor, pattern=pattern, v=v) -> torch.Tensor:
            return torch.einsum("bhqk,bkhd->bqhd", pattern, v)

        with tracing(opened, rewrites={(index, "attn_z"): mixed}):
            logits = opened.forward(batch, keep=0, gradient=True)
        said = logits[torch.arange(2), steps].log_softmax(-1).amax(-1).sum()
        (slope,) = torch.autograd.grad(said, [pattern])
        for row, place in enumerate(places(batch, "asked_object")):
            assert place is not None
            mine = (pattern * slope.clamp_min(0))[row, :, steps[row], place.positions].mean(0)
            assert mine.max() > 1e-6  # something to agree about
            torch.testing.assert_close(found["grad"][row, index], mine.detach(), rtol=1e-4, atol=1e-7)


def test_pixels_and_blocks_are_those_of_one_forward_each(opened, batch, found):
    for row, one in enumerate(batch.examples):
        alone = opened.batch([one])
        pixels = alone.inputs["pixel_values"].clone().requires_grad_()
        logits = opened.forward(alone.inputs | {"pixel_values": pixels}, gradient=True)[0, -1]
        best = int(logits.argmax())
        (slope,) = torch.autograd.grad(logits.log_softmax(-1)[best], [pixels])
        torch.testing.assert_close(found["pixels"][row], slope[0], rtol=1e-3, atol=1e-6)
        blank = pixels.detach().clone()
        blank[..., 8:16, :8] = 0  # the second row of blocks, the first column
        after = opened.forward(alone.inputs | {"pixel_values": blank})[0, -1].log_softmax(-1)[best]
        drop = (logits.log_softmax(-1)[best].detach() - after).clamp_min(0)
        torch.testing.assert_close(
            found["occlusion"][row, 0].reshape(6, 6)[2:4, :2], drop.expand(2, 2), rtol=1e-3, atol=1e-5
        )


def test_slopes_leave_the_model_as_it_was(opened, batch):
    before = [p.requires_grad for p in opened.model.parameters()]
    slopes = answer_slopes(opened, batch, batch.last)
    assert slopes.pixels is None
    assert [p.requires_grad for p in opened.model.parameters()] == before
    assert all(p.grad is None for p in opened.model.parameters())


def test_batching_and_padding_change_nothing(opened, found):
    for row, one in enumerate([example(), example("b", " w6 w5 w4 w6 w9 w3", 1)]):
        alone = seen(opened, opened.batch([one]), OPTIONS)
        for name in ("rows", "gaze", "tag", "grad", "pixels", "occlusion"):
            torch.testing.assert_close(alone[name][0], found[name][row], rtol=1e-3, atol=1e-5)


def test_backward_passes_of_a_few_examples_give_the_same(opened, batch, found, monkeypatch):
    monkeypatch.setattr(_looks, "AT_ONCE", 1)
    apart = seen(opened, batch, OPTIONS)
    assert apart.keys() == found.keys()
    for name, values in found.items():
        torch.testing.assert_close(apart[name], values, rtol=1e-3, atol=1e-5, equal_nan=True)


def test_an_answers_tokens_are_fused_as_carve_does(opened):
    (said,) = with_answers([example()], {"a": " w7 w9 w4"})
    other = asking(said, "w9 w9")
    assert other is not None
    own, general = (opened.batch([one]) for one in (said, other))
    (place,) = places(own, "asked_object")
    (beside,) = places(general, "asked_object")
    assert place is not None
    assert beside is not None
    steps = [patterns(opened, b, 0).mean(1)[:, steps_of(b)[0]] for b in (own, general)]
    assert steps[0].shape[1] == 3
    contrast = (steps[0] / (steps[1] + 1e-8)).transpose(0, 1)
    plain = replace(OPTIONS, gradients=False, occlusion=0)
    both = [seen_of(seen(opened, b, plain), b, 0, p) for b, p in ((own, place), (general, beside))]
    assert both[0] is not None
    maps = maps_of(both[0], both[1], (), place, plain)
    torch.testing.assert_close(maps[FUSION][0], metrics.fused_contrast(contrast[:, :2]), rtol=1e-3, atol=1e-5)
    # Of an answer of one token it is the contrast.
    alone = fused(steps[0][:, :1], steps[1][:, :1], 2)
    torch.testing.assert_close(alone[0], contrast[0, :2].sum(0), rtol=1e-3, atol=1e-5)


def test_masks_are_held_to_the_box(opened, batch):
    place = places(batch, "asked_object")[0]
    assert place is not None
    cells = filled(place.box, place.shape)
    hit = mask_scores(TAG, cells.float().flatten()[None], place, [(0.9, 0.1)], "a")
    assert hit["mask TAG|"].tolist() == [[1.0, 1.0]]
    assert float(hit["mask TAG|another example's box"].max()) < 0.5
    corner = torch.zeros(place.shape)
    corner[-1, -1] = 1
    assert mask_scores(TAG, corner.flatten()[None], place, (), "a")["mask TAG|"].tolist() == [[0.0, 0.0]]
    assert mask_scores("CARVE", torch.full((1, 36), torch.nan), place, (), "a")["mask CARVE|"].isnan().all()


def test_the_general_prompt_is_one_text():
    said = [analysis.Options().general for analysis in (localisation, crop_and_ask)]
    assert {*said, Look.__dataclass_fields__["general"].default} == {GENERAL_PROMPT}
    assert signature(look).parameters["general"].default == GENERAL_PROMPT
