"""Proof that rewrites act where their site says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..model.tolerance import through_limit
from ..observe.tracing import Layer, tracing
from ..sites import PARTS, SITES, WRITABLE
from .findings import Findings

if TYPE_CHECKING:
    from ..model.subject import Subject

# What a module reads, and what stands between modules.
MOVED = ("mlp_post", "resid_mid")


def check_rewrites(findings: Findings, inputs: dict[str, Any], logits: Tensor, index: int) -> None:
    """In layer `index`: all sites rewritten as they are move nothing, those that act otherwise than by what a module
    returns move the logits, and what a layer is made to write is what the next one is made to read.
    """
    subject, real, where = findings.subject, inputs["attention_mask"].bool(), f"layer {index}"
    names, limit = writable(subject, index), through_limit(subject.n_layers)
    spread = float(logits[real].max() - logits[real].min())

    def rewritten(*places: tuple[int, str], factor: float = 1.5) -> Tensor:
        with tracing(subject, rewrites=dict.fromkeys(places, partial(_scaled, factor))):
            return subject.forward(inputs, keep=0)[real]

    still = float((rewritten(*((index, name) for name in names), factor=1.0) - logits[real]).abs().max()) / spread
    findings.true("rewrites of nothing change nothing", where, still <= limit, still, limit)
    floor = max(10 * still, 2 * torch.finfo(torch.float32).eps)
    for name in [name for name in MOVED if name in names]:
        shift = float((rewritten((index, name)) - logits[real]).abs().max()) / spread
        findings.true("a rewrite moves the logits", f"{where} {name}", shift > floor, shift, floor)
    if index + 1 < subject.n_layers:
        written, read = rewritten((index, "resid_post")), rewritten((index + 1, "resid_pre"))
        shift = float((written - logits[real]).abs().max()) / spread
        findings.true("a rewrite moves the logits", f"{where} resid_post", shift > floor, shift, floor)
        findings.through("a rewritten resid_post is the next resid_pre", where, written, read)


def check_added(findings: Findings, inputs: dict[str, Any]) -> None:
    """What is added to the parts of all layers at once is in the residual of each, as its parts without it are."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    stack, rewritten = subject.decoder, {}

    def add(place: tuple[int, str], tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape[-1], generator=torch.Generator().manual_seed(0))
        rewritten[place] = tensor + noise.to(tensor) * tensor.float().square().mean().sqrt().to(tensor)
        return rewritten[place]

    def note(layer: Layer) -> None:
        where, here = f"layer {layer.index}", real.to(layer.resid_post.device)
        for name in PARTS:
            if (layer.index, name) in rewritten:
                added = rewritten[layer.index, name]
                findings.close("what is added to a part stays there", f"{where} {name}", layer.written(name), added)
        found, expected = layer.sum_of_parts()[here], layer.resid_post[here].float()
        findings.close("what is added to a part is in the residual", where, found, expected)

    places = [(i, name) for i in range(stack.n_layers) for name in PARTS if stack.has(i, SITES[name])]
    with tracing(subject, note, rewrites={place: partial(add, place) for place in places}):
        subject.forward(inputs)


def _scaled(factor: float, tensor: Tensor) -> Tensor:
    """Times `factor` at its last number and 2 - factor at its first: a norm takes back what is the same for all."""
    return tensor * torch.linspace(2 - factor, factor, tensor.shape[-1]).to(tensor)


def writable(subject: Subject, index: int) -> list[str]:
    """The sites of a layer that rewrites may change."""
    return [name for name in WRITABLE if subject.decoder.has(index, SITES[name])]
