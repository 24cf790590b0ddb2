"""Sweeps in half precision equal edited eager forwards in the same dtype, but for its roundings."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from crosslens import Subject, attribution_sweep, capture
from crosslens.probes.intervene.knockout import knockout_sweep
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import ablation_sweep, patch_sweep
from crosslens.probes.intervene.paths import path_sweep
from crosslens.probes.intervene.recording import record
from crosslens.probes.model.tolerance import block_limit, rows_limit

from ..helpers import by_hand

DTYPES = [torch.bfloat16, torch.float16]
FAMILIES = ["llama", "gpt2", "qwen3", "gemma2", "phi3", "olmo2", "cohere2", "granite"]
LAYERS = 3


def whole_logits(logits, rows):
    return logits


def opened(family, dtype, padding="left"):
    """The subject, its forward by hand, base and donor prompts; masks of all, of the last and of nearby positions."""
    given, other = (by_hand.inputs(family, padding, seed=seed) for seed in (0, 1))
    mask = given["attention_mask"].bool()
    last = torch.zeros_like(mask)
    last[:, -1] = True
    slow = partial(by_hand.logits, family, given, dtype=dtype)
    return Subject(by_hand.build(family).to(dtype)), slow, given, other, (mask, last, last.roll(-1, 1))


def within(found, expected, dtype):
    """Logits [..., b, vocab] apart by roundings of so many layers: allowed 3.5 eps, measured at most 2.4."""
    error = float((found - expected.float()).abs().max() / expected.float().abs().max())
    limit = rows_limit(dtype, LAYERS)
    assert error <= limit, f"{error:.2g}, allowed {limit:.2g}"


def at_last(logits):
    """Of prompts padded on the left."""
    return logits[:, -1]


cases = pytest.mark.parametrize(("family", "dtype"), [(family, dtype) for family in FAMILIES for dtype in DTYPES])


@cases
def test_knockouts(family, dtype):
    subject, slow, given, _, (_, last, near) = opened(family, dtype)
    sweep = knockout_sweep(subject, given, near, last, window=2, measure=whole_logits)
    assert not sweep.notes
    edges = last[:, :, None] & near[:, None]
    for layer in range(LAYERS):
        span = range(max(0, layer - 1), layer + 1)
        within(sweep.values[layer], at_last(slow(masks=dict.fromkeys(span, edges))), dtype)


@cases
def test_patched_heads_and_states(family, dtype):
    subject, slow, given, other, (_, last, near) = opened(family, dtype)
    base, donor = (record(subject, one, ("z",)) for one in (given, other))

    def put(tensor, values, where):
        return torch.where(where.reshape(*where.shape, *[1] * (tensor.ndim - 2)), values, tensor)

    heads = patch_sweep(subject, base, donor, "z", positions=last, measure=whole_logits)
    states = patch_sweep(subject, base, donor, "resid_pre", positions=near, measure=whole_logits)
    assert not heads.notes
    for layer in range(LAYERS):
        lent = donor.layers[layer]

        def change(z, lent=lent):
            return torch.cat([z[:, :, :1], put(z, lent.site("z"), last)[:, :, 1:2], z[:, :, 2:]], 2)

        within(heads.values[layer, 1], at_last(slow(z={layer: change})), dtype)
        within(
            states.values[layer], at_last(slow(states={layer: partial(put, values=lent.resid_pre, where=near)})), dtype
        )


@cases
def test_ablated_parts(family, dtype):
    subject, slow, given, _, (mask, *_) = opened(family, dtype)
    for site in ("attn_out", "mlp_out"):
        sweep = ablation_sweep(subject, given, site, positions=mask, measure=whole_logits)
        for layer in range(LAYERS):
            expected = at_last(slow(outputs={(layer, site): torch.zeros_like}))
            within(sweep.values[layer], expected, dtype)


@cases
def test_paths_to_the_output(family, dtype):
    """One head of the donor's, every other frozen by hand."""
    subject, slow, given, other, _ = opened(family, dtype)
    clean, lent = (capture(subject, one, ["z"]) for one in (given, other))
    sweep = path_sweep(subject, given, other, measure=whole_logits)
    for layer, head in ((0, 0), (1, 3), (2, 1)):

        def frozen(i, layer=layer, head=head):
            z = clean["z", i].clone()
            if i == layer:
                z[:, :, head] = lent["z", i][:, :, head]
            return lambda _: z

        within(sweep.values[layer, head], at_last(slow(z={i: frozen(i) for i in range(LAYERS)})), dtype)


@cases
def test_attribution(family, dtype):
    """The gradients of a float32 model with the same weights, whose estimates are those of eager forwards."""
    measure = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
    subject, _, given, other, (mask, *_) = opened(family, dtype)
    asked = {"positions": mask, "measure": measure}
    wide = Subject(by_hand.build(family).to(dtype).float())
    for site in ("z", "mlp_out"):
        found, expected = (attribution_sweep(s, given, other, site, **asked) for s in (subject, wide))
        error = float((found.effects - expected.effects).abs().max() / expected.effects.abs().max())
        assert error <= 2 * block_limit(dtype) * LAYERS**0.5, f"{site}: {error:.2g}"
