"""Every site of the table, read or rewritten, equals plain hooks on Hugging Face's eager decoders and vision towers."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, capture
from crosslens.probes import sites
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.sites import SITES, SiteError

from ..helpers import by_hand
from ..helpers.sites_by_hand import FUSED_HEADS, ByHand, families_of, modules
from .test_families import assert_close

STACKS = [(family, stack) for stack in ("decoder", "vision") for family in families_of(stack)]
PREFIX = {"decoder": "", "vision": "vision."}
CALLS = {"rot_q": 0, "rot_k": 1, "v": 2}
LAYER = 0


def lacking(family: str, stack: str) -> set[str]:
    """The sites that a stack does not have, as the modules written down by hand say."""
    own = modules(family, stack)
    lacks = {site for site in ("mlp_pre", "mlp_pre_linear", "mlp_post") if site not in own}
    fused = family in FUSED_HEADS and not (stack == "decoder" and family not in ("gpt2", "gpt_neox", "phi3"))
    return lacks | ({"q", "k"} if fused else set()) | (set() if "mid" in own else {"resid_mid"})


def real_rows(given, stack):
    return given["attention_mask"].bool() if stack == "decoder" else slice(None)


def joined(calls, index):
    """One of (query, key, value, z, pattern) of a layer's calls: one after the other, patterns as blocks."""
    parts = [call[index] for call in calls]
    if index < 3:
        return torch.cat([part.transpose(1, 2) for part in parts], 1)
    if index == 3 or len(parts) == 1:
        return torch.cat(parts, 1)
    blocks = [torch.block_diag(*(part[0, head] for part in parts)) for head in range(parts[0].shape[1])]
    return torch.stack(blocks)[None]


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_every_site_equals_plain_hooks(family, stack):
    given = by_hand.inputs(family, "left")
    real, subject = real_rows(given, stack), Subject(by_hand.build(family))
    names = [name for name in SITES if name not in lacking(family, stack)]
    cache = capture(subject, given, [PREFIX[stack] + name for name in names])
    expected = ByHand(family, stack).read(given)
    n_layers = subject.stack(stack).n_layers
    assert len(cache) == len(names) * n_layers
    for name in names:
        for i in range(n_layers):
            found, where = cache[PREFIX[stack] + name, i], f"{family} {stack} {name} {i}"
            assert len(found.shape) == len(SITES[name].axes)
            calls = expected[i, "calls"]
            if name == "pattern":
                pattern = joined(calls, 4).float()
                rows = real[:, None].expand(-1, pattern.shape[1], -1) if stack == "decoder" else real
                assert_close(found[rows], pattern[rows], where)
            elif name in CALLS:
                assert_close(found[real], joined(calls, CALLS[name])[real], where)
            elif name in ("attn_out", "mlp_out"):
                before, behind = ("resid_pre", "resid_mid") if name == "attn_out" else ("resid_mid", "resid_post")
                if "resid_mid" in names:
                    added = (expected[i, place].reshape(found.shape) for place in (behind, before))
                    assert_close(found[real], next(added)[real] - next(added)[real], where)
            else:
                assert_close(found[real], expected[i, name].reshape(found.shape)[real], where)


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_a_rewrite_equals_the_same_edit_by_hand(family, stack):
    given = by_hand.inputs(family, "left")
    real, subject, plain = given["attention_mask"].bool(), Subject(by_hand.build(family)), ByHand(family, stack)
    with tracing(subject, stack=stack):
        before = subject.forward(given, keep=0)
    for name in sites.WRITABLE:
        if name in lacking(family, stack):
            continue

        def change(tensor):
            tensor = tensor.flatten(2) if tensor.ndim == 4 else tensor
            along = torch.linspace(0.5, 1.5, tensor.shape[2])
            return tensor * along + 0.1 * along

        def shaped(tensor):
            return change(tensor).reshape(tensor.shape)

        expected = plain.changed(given, LAYER, name, change)
        with tracing(subject, rewrites={(LAYER, name): shaped}, stack=stack):
            found = subject.forward(given, keep=0)
        assert_close(found[real], expected[real], f"{family} {stack} {name}", slack=3)
        assert float((found - before)[real].abs().max()) > 1e-3, f"{name} moves the logits"
        same = {(LAYER, name): lambda tensor: tensor.clone()}
        with tracing(subject, rewrites=same, stack=stack):
            assert torch.equal(subject.forward(given, keep=0)[real], before[real]), f"{name} as it was"


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_sites_that_a_family_lacks_are_refused_by_name(family, stack):
    given, subject = by_hand.inputs(family, "none"), Subject(by_hand.build(family))
    for name in lacking(family, stack):
        with pytest.raises(SiteError, match=name):
            capture(subject, given, [PREFIX[stack] + name])
        if SITES[name].writable:
            with pytest.raises(SiteError, match=name), tracing(subject, rewrites={(0, name): abs}, stack=stack):
                pytest.fail("the block was opened")
