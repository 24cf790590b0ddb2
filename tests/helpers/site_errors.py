"""How far the sites of a stack, read and rewritten, are from plain hooks on Hugging Face's eager model."""

from __future__ import annotations

from typing import Any

import torch
from crosslens import Subject, capture
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.sites import SITES, WRITABLE, SiteError

from . import by_hand
from .sites_by_hand import ByHand

LAYER = 0
CALLS = {"rot_q": 0, "rot_k": 1, "v": 2, "attn_z": 3}


def lacking(subject: Subject, stack: str) -> list[str]:
    """The sites that a layer of the stack refuses."""
    layers = subject.stack(stack)

    def refused(name):
        try:
            for index in range(layers.n_layers):
                layers.require(index, SITES[name])
        except SiteError:
            return True
        return False

    return [name for name in SITES if refused(name)]


def read_errors(family: str, stack: str, given: dict[str, Any]) -> dict[str, float]:
    """Site -> largest error of any layer, as a share of the largest value, at real positions."""
    subject, expected = Subject(by_hand.build(family)), ByHand(family, stack).read(given)
    layers, lacks = subject.stack(stack), lacking(subject, stack)
    names = [name for name in SITES if name not in lacks]
    cache = capture(subject, given, [layers.prefix + name for name in names])
    assert len(cache) == len(names) * layers.n_layers
    real = given["attention_mask"].bool() if stack == "decoder" else None
    return {
        name: max(
            error_of(cache[layers.prefix + name, i], told(expected, i, name, lacks), name, real)
            for i in range(layers.n_layers)
        )
        for name in names
    }


def told(expected, index: int, name: str, lacks: list[str]) -> torch.Tensor:
    """What the plain hooks say of a site."""
    if name == "pattern":
        return joined(expected[index, "calls"], 4).float()
    if name in CALLS:
        return joined(expected[index, "calls"], CALLS[name])
    if name in ("attn_out", "mlp_out") and "resid_mid" not in lacks:
        before, behind = ("resid_pre", "resid_mid") if name == "attn_out" else ("resid_mid", "resid_post")
        shape = expected[index, "resid_pre"].shape
        return expected[index, behind].reshape(shape) - expected[index, before].reshape(shape)
    return expected[index, name]


def joined(calls, part: int) -> torch.Tensor:
    """One of (query, key, value, z, pattern) of a layer's calls, one after the other; patterns as blocks."""
    parts = [call[part] for call in calls]
    if part < 3:
        return torch.cat([one.transpose(1, 2) for one in parts], 1)
    if part == 3:
        return torch.cat(parts, 1)
    if len(parts) == 1:
        return parts[0]
    blocks = [torch.block_diag(*(one[0, head] for one in parts)) for head in range(parts[0].shape[1])]
    return torch.stack(blocks)[None]


def error_of(found, expected, name: str, real: torch.Tensor | None) -> float:
    assert len(found.shape) == len(SITES[name].axes)
    expected = expected.reshape(found.shape)
    if real is not None:
        rows = real[:, None].expand(-1, found.shape[1], -1) if name == "pattern" else real
        found, expected = found[rows], expected[rows]
    return float((found - expected).abs().max() / expected.abs().max())


def rewrite_errors(family: str, stack: str, given: dict[str, Any]) -> dict[str, tuple[float, float, bool]]:
    """Site -> how far the logits of a rewrite are from the same edit made by hand, how far it moved them, and whether a
    rewrite of nothing left every bit of them.
    """
    subject, plain = Subject(by_hand.build(family)), ByHand(family, stack)
    real, lacks = given["attention_mask"].bool(), lacking(subject, stack)

    def logits(**rewrites):
        with tracing(subject, rewrites={(LAYER, name): change for name, change in rewrites.items()}, stack=stack):
            return subject.forward(given, keep=0)[real]

    before, errors = logits(), {}
    for name in WRITABLE:
        if name not in lacks:
            expected = plain.changed(given, LAYER, name, _flat_change)[real]
            found = logits(**{name: _change})
            still = torch.equal(logits(**{name: torch.clone}), before)
            errors[name] = _share(found - expected, expected), _share(found - before, expected), still
    return errors


def _share(difference, whole) -> float:
    return float(difference.abs().max() / whole.abs().max())


def _change(tensor):
    return _flat_change(tensor.flatten(2)).reshape(tensor.shape)


def _flat_change(tensor):
    """Another factor and addend for each number of a row [b, p, d]."""
    along = torch.linspace(0.5, 1.5, tensor.shape[2])
    return tensor * along + 0.1 * along
