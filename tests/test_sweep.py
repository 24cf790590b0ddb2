"""Sweeps equal one eager forward per edit, on every family, with either padding."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, capture
from crosslens.probes.measures import logit_difference
from crosslens.probes.replay import record
from crosslens.probes.sweep import ablation_sweep, causal_trace, knockout_sweep, patch_sweep

from . import by_hand, vision
from .by_hand import FAMILIES

TOLERANCE = 1e-4


def whole_logits(logits, rows):
    return logits


def close(found, expected):
    """Within the tolerance of the range of the expected logits, example by example."""
    span = (expected.amax(-1) - expected.amin(-1)).clamp(min=1e-9)
    error = float(((found - expected).abs().amax(-1) / span).max())
    assert error <= TOLERANCE, f"{error:.2g}"


def flows(given):
    """Two flows as (source, target): words to the last position; image and words to words and to the image's end."""
    mask = given["attention_mask"].bool()
    place, n = mask.long().cumsum(1) - 1, mask.sum(1, keepdim=True)
    image = given["input_ids"] == vision.IMAGE if "pixel_values" in given else (place == 1) & mask
    end = image & (place == place.masked_fill(~image, 0).amax(1, keepdim=True))
    last = (place == n - 1) & mask
    near = (place >= n - 3) & (place < n - 1) & mask  # inside every sliding window
    return [(near, last), ((image & ~end) | near, (place >= n - 2) & mask | end)]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_window_of_every_flow(family, padding):
    given = by_hand.inputs(family, padding)
    subject = Subject(by_hand.build(family))
    for source, target in flows(given):
        sweep = knockout_sweep(subject, given, source, target, window=2, measure=whole_logits)
        assert not sweep.notes
        assert sweep.width.tolist() == [1, 2, 2]
        edges = target[:, :, None] & source[:, None]
        for layer in range(3):
            span = range(max(0, layer - 1), min(3, layer + 1))
            expected = by_hand.logits(family, given, masks={i: edges for i in span})
            close(sweep.values[layer], by_hand.at_last(expected, given))
        close(sweep.clean, by_hand.at_last(by_hand.logits(family, given), given))


@pytest.mark.parametrize("family", FAMILIES)
def test_resampled_edges(family):
    given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
    subject = Subject(by_hand.build(family))
    donor = capture(subject, other, ["rot_k", "v"])
    source, target = flows(given)[0]
    sweep = knockout_sweep(subject, given, source, target, window=1, measure=whole_logits, replace=other)
    edges = target[:, :, None] & source[:, None]
    for layer in range(3):
        lent = tuple(donor[f"blocks.{layer}.attn.hook_{site}"].transpose(1, 2) for site in ("rot_k", "v"))
        expected = by_hand.logits(family, given, masks={layer: edges}, lent={layer: lent})
        close(sweep.values[layer], by_hand.at_last(expected, given))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_patched_head_at_the_last_position(family, padding):
    given, other = by_hand.inputs(family, padding), by_hand.inputs(family, padding, seed=1)
    subject = Subject(by_hand.build(family))
    donor = capture(subject, other, ["z"])
    mask = given["attention_mask"].bool()
    last = torch.zeros_like(mask).scatter(1, (mask * torch.arange(mask.shape[1])).argmax(1)[:, None], True)
    sweep = patch_sweep(subject, given, other, "z", positions=last, measure=whole_logits)
    close(sweep.donor, by_hand.at_last(by_hand.logits(family, other), other))
    for layer, head in ((0, 0), (1, 3), (2, 1)):

        def change(z, layer=layer, head=head):
            z = z.clone()
            z[:, :, head][last] = donor[f"blocks.{layer}.attn.hook_z"][:, :, head][last]
            return z

        close(sweep.values[layer, head], by_hand.at_last(by_hand.logits(family, given, z={layer: change}), given))


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_a_patch_grid(family, site):
    given, other = by_hand.inputs(family, "right"), by_hand.inputs(family, "right", seed=1)
    subject = Subject(by_hand.build(family))
    donor = record(subject, other, [site])
    sweep = patch_sweep(subject, given, donor, site, positions="each", measure=whole_logits)
    mask = given["attention_mask"].bool()
    assert torch.equal(sweep.values.isnan().any(-1).any(0).T, ~mask)
    for layer in range(3):
        values = donor.layers[layer].site(site)
        for position in (0, 2, mask.shape[1] - 1):

            def change(found, values=values, position=position):
                shaped = found.reshape(values.shape).clone()
                shaped[:, position] = values[:, position]
                return shaped.reshape(found.shape)

            where = {"states": {layer: change}} if site == "resid_pre" else {"outputs": {(layer, site): change}}
            expected = by_hand.at_last(by_hand.logits(family, given, **where), given)
            there = mask[:, position]
            close(sweep.values[layer, position][there], expected[there])


@pytest.mark.parametrize("site", ["z", "attn_out", "mlp_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ablations(family, site):
    given = by_hand.inputs(family, "left")
    subject = Subject(by_hand.build(family))
    everywhere = given["attention_mask"].bool()
    sweep = ablation_sweep(subject, given, site, positions=everywhere, measure=whole_logits)

    def change(found):
        out = found.clone()
        if site != "z":
            return torch.zeros_like(out).reshape(found.shape)
        out[:, :, 2] = 0
        return out

    where = {"z": {1: change}} if site == "z" else {"outputs": {(1, site): change}}
    expected = by_hand.at_last(by_hand.logits(family, given, **where), given)
    close(sweep.values[1, 2] if site == "z" else sweep.values[1], expected)
