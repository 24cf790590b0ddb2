"""Every site of every vision-language family equals Hugging Face's eager attention, with images and any padding."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import UserError
from crosslens.probes.model import anatomy, vision_inputs

from ..helpers.vision import COUNTS_IMAGES, IMAGE, PER_TOKEN, VISION, alone, build, inputs
from .test_families import assert_close, positions

SITES = ["z", "pattern", "resid_pre", "resid_post", "attn_out", "mlp_out"]


@torch.no_grad()
def eager_run(family, given):
    """An eager forward with plain hooks on the language model: z, and what every layer reads."""
    model = build(family, implementation="eager")
    z, states = {}, {}
    told = {} if family in COUNTS_IMAGES else {"position_ids": positions(given)}
    with ExitStack() as stack:
        for i, layer in enumerate(anatomy.find_layers(anatomy.find_decoder(model), 3)):
            projection = anatomy.output_projection(layer)
            stack.callback(projection.register_forward_pre_hook(_keep(z, i)).remove)
            stack.callback(layer.register_forward_pre_hook(_keep(states, i), with_kwargs=True).remove)
        result = model(**given, **told, use_cache=False, output_attentions=True, output_hidden_states=True)
    return result, z, states


def _keep(kept, index):
    def hook(module, args, kwargs=None):
        kept[index] = args[0] if args else kwargs["hidden_states"]

    return hook


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family", VISION)
def test_capture_equals_eager(family, padding):
    model = build(family)
    given = inputs(model, padding)
    real = given["attention_mask"].bool()
    expected, z, states = eager_run(family, given)
    subject = Subject(model)
    found = capture(subject, given, SITES)
    rows = real[:, None].expand(-1, subject.n_heads, -1)
    for i in range(3):
        name = f"blocks.{i}."
        assert_close(found[name + "attn.hook_z"].flatten(2)[real], z[i].reshape(*real.shape, -1)[real], name + "z")
        assert_close(found[name + "attn.hook_pattern"][rows], expected.attentions[i][rows], name + "pattern")
        assert_close(found[name + "hook_resid_pre"][real], states[i][real], name + "resid_pre")
        parts = sum(found[name + site] for site in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out"))
        assert_close(parts[real], found[name + "hook_resid_post"][real], name + "resid_post")
    last = subject.unembed(subject.norm(found["blocks.2.hook_resid_post"]))
    assert_close(last[real], expected.logits[real], "lens of the last state")


@pytest.mark.parametrize("family", VISION)
def test_chosen_rows_equal_whole_maps(family):
    model = build(family)
    given = inputs(model, "left")
    subject = Subject(model)
    (whole,) = capture(subject, given, ["blocks.1.attn.hook_pattern"]).values()
    last = whole.shape[3] - 1
    queries = torch.tensor([[last, 5], [last - 1, 6], [last - 2, 7]])
    (rows,) = capture(subject, given, ["blocks.1.attn.hook_pattern"], queries=queries).values()
    picked = whole.gather(2, queries[:, None, :, None].expand(-1, 4, -1, last + 1))
    torch.testing.assert_close(rows, picked, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", VISION)
def test_padding_changes_nothing(family):
    """Every example alone, with its own image, equals the same example in a padded batch."""
    model = build(family)
    subject = Subject(model)
    for padding in ("left", "right"):
        batch = inputs(model, padding)
        together = subject.last_logits(batch)
        for i in range(3):
            assert_close(together[i], subject.last_logits(alone(batch, i))[0], f"{padding} {i}")


@pytest.mark.parametrize("family", VISION)
def test_the_image_is_read(family):
    """Other pixels, other logits; without an image the model is a language model."""
    model = build(family)
    subject, given = Subject(model), inputs(model, "right")
    moved = subject.last_logits(given | {"pixel_values": given["pixel_values"].flip(-1)}) - subject.last_logits(given)
    assert (moved.abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("family", VISION)
def test_check_passes(family):
    frame = Subject(build(family)).check()
    assert frame["passed"].all()


@pytest.mark.parametrize("family", VISION)
def test_missing_pixels_and_wrong_counts_are_one_clear_line(family):
    model = build(family)
    subject, given = Subject(model), inputs(model, "none")
    ids = given["input_ids"]
    with pytest.raises(UserError, match="pixel_values is missing"):
        subject.forward({k: v for k, v in given.items() if k in PER_TOKEN})
    shown = (ids == IMAGE).nonzero()
    with pytest.raises(UserError, match="placeholders"):
        subject.forward(given | {"input_ids": ids.masked_fill(ids == IMAGE, 5)})
    moved = ids.clone()
    moved[0, shown[shown[:, 0] == 0][-1, 1]] = 5
    moved[1, -1] = IMAGE
    with pytest.raises(UserError, match="placeholders"):
        subject.forward(given | {"input_ids": moved})


@pytest.mark.parametrize("family", VISION)
def test_inputs_that_run_silently_are_added_or_asked_for(family):
    model = build(family)
    subject, given = Subject(model), inputs(model, "left")
    expected = subject.last_logits(given)
    for name in ("token_type_ids", "mm_token_type_ids", "image_sizes", "image_grid_thw"):
        if name not in given:
            continue
        less = {k: v for k, v in given.items() if k != name}
        if name.endswith("_ids") and family != "paligemma":
            assert_close(subject.last_logits(less), expected, name)
        else:
            with pytest.raises(UserError, match=name):
                subject.last_logits(less)


def test_deepstack_is_told():
    """Qwen3-VL adds image features between layers: on image rows a layer does not read what the one before wrote."""
    model = build("qwen3_vl")
    subject, given = Subject(model), inputs(model, "right")
    found = capture(subject, given, ["resid_pre", "resid_post"])
    image = given["input_ids"] == IMAGE
    for layer in (1, 2):
        moved = found[f"blocks.{layer}.hook_resid_pre"] - found[f"blocks.{layer - 1}.hook_resid_post"]
        assert moved[image].abs().max() > 0.1
        assert moved[~image].abs().max() == 0
    assert [vision_inputs.reads_features(model, layer) for layer in range(4)] == [True, True, True, False]
    assert not vision_inputs.reads_features(build("qwen2_vl"), 1)
