"""Head divergence: equal to two plain forwards on every vision-language family; planted heads; tables."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from crosslens import Subject
from crosslens.analyses import head_divergence, metrics
from crosslens.probes import anatomy, blind
from crosslens.probes.trace import tracing

from .test_families import assert_close, positions
from .vision import COUNTS_IMAGES, END, IMAGE, PER_TOKEN, START, VISION, alone, build, inputs

WORDS = 2  # the last tokens of every prompt, at which heads are compared


@torch.no_grad()
def plain(family, given, hidden=None):
    """The inputs of every layer's o_proj in a plain eager forward, [layer, p, h, d], one prompt; `hidden`: key
    positions that later rows may not read."""
    model = build(family, implementation="eager")
    z = {}
    told = {} if family in COUNTS_IMAGES else {"position_ids": positions(given)}

    def keep(index):
        return lambda module, args: z.__setitem__(index, args[0][0])

    def mask(module, args, kwargs):
        if hidden is not None:
            old = kwargs["attention_mask"].clone()
            rows = ~hidden
            old[..., rows[:, None] & hidden[None]] = torch.finfo(old.dtype).min
            kwargs["attention_mask"] = old
        return args, kwargs

    with ExitStack() as stack:
        for i, layer in enumerate(anatomy.find_layers(anatomy.find_decoder(model), 3)):
            stack.callback(anatomy.output_projection(layer).register_forward_pre_hook(keep(i)).remove)
            stack.callback(anatomy.attention_of(layer).register_forward_pre_hook(mask, with_kwargs=True).remove)
        model(**given, **told, use_cache=False)
    return torch.stack([z[i].reshape(z[i].shape[0], 4, -1) for i in range(3)])


def without_image(family, given):
    """One prompt's inputs with the image taken out by hand, and its frame where the family has one."""
    ids = given["input_ids"][0]
    framed = family in ("gemma3", "glm4v", *COUNTS_IMAGES)
    block = (ids == IMAGE) | (framed & ((ids == START) | (ids == END)))
    return {k: v[:, ~block] for k, v in given.items() if k in PER_TOKEN}


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", VISION)
def test_vhd_equals_two_plain_forwards(family, padding):
    model = build(family)
    given, subject = inputs(model, padding), Subject(model)
    last = blind.real_positions(given).int().cumsum(1).argmax(1)
    wanted = last[:, None] - torch.arange(WORDS - 1, -1, -1)
    seen = []
    with tracing(subject, lambda layer: seen.append(head_divergence._at(layer.z, wanted))):
        subject.forward(given)
    seen = torch.stack(seen, 1)
    dropped, stayed = blind.drop_image(subject, given)
    hide = blind.hide_image(blind.image_columns(subject, given))
    found = {
        "dropped": head_divergence.compare(subject, seen, dropped, blind.moved(stayed, wanted)),
        "masked": head_divergence.compare(subject, seen, given, wanted, hide),
    }
    for i in range(3):
        one = alone(given, i)
        hidden = one["input_ids"][0] == IMAGE
        with_image = plain(family, one)[:, -WORDS:]
        for way, other in (
            ("dropped", plain(family, without_image(family, one))),
            ("masked", plain(family, one, hidden)),
        ):
            for kind in head_divergence.KINDS:
                expected = metrics.head_divergence(with_image, other[:, -WORDS:], kind=kind).mean(1)
                assert_close(found[way][kind][i], expected, f"{family} {way} {kind}")
            l2 = metrics.head_divergence(with_image, other[:, -WORDS:]).transpose(0, 1)
            assert_close(found[way]["t_vhd"][i], metrics.total_divergence(l2, 4), f"{family} {way} T-VHD")
            assert float(expected.max()) > 1e-3
