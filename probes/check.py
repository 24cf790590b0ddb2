"""Proof that the instruments read what the model computes, on two small examples of random tokens.

Everything is compared with a second way to the same number: Hugging Face's own eager attention, the module's
output, the next layer's input, the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from . import anatomy
from .anatomy import SubjectError
from .attention import NAME, AttentionCall
from .trace import Layer, first, tracing

if TYPE_CHECKING:
    from .subject import Subject

# Largest difference allowed, as a share of the tensor's largest value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@dataclass
class Findings:
    """Collects one row per proof; `close` and `true` raise SubjectError on the first that fails."""

    subject: Subject
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.subject.dtype]

    def close(self, check: str, where: str, found: Tensor, expected: Tensor, slack: float = 1.0) -> None:
        if found.shape != expected.shape:
            self._fail(check, where, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
        scale = float(expected.abs().max()) or 1.0
        error = float((found.float() - expected.float()).abs().max()) / scale
        self.true(check, where, error <= slack * self.tolerance, error, slack * self.tolerance)

    def true(self, check: str, where: str, passed: bool, value: float, limit: float) -> None:
        self.rows.append({"check": check, "where": where, "value": value, "limit": limit, "passed": passed})
        if not passed:
            self._fail(check, where, f"{value:.3g}, allowed {limit:.3g}")

    def _fail(self, check: str, where: str, detail: str) -> None:
        raise SubjectError(f"{self.subject.family} ({self.subject.name}): {check} fails at {where}: {detail}")


@torch.no_grad()
def check(subject: Subject) -> pd.DataFrame:
    """One row per proof: check, where, value (largest relative difference), limit, passed.

    Raises SubjectError naming the first proof that fails and where.
    """
    findings, inputs = Findings(subject), small_inputs(subject)
    real = inputs["attention_mask"].bool()
    seen: list[int] = []

    def on_layer(layer: Layer) -> None:
        seen.append(layer.index)
        check_layer(findings, layer, real, keep)

    keep: dict[str, Tensor] = {}
    with _module_outputs(subject, keep), tracing(subject, on_layer):
        logits = subject.forward(inputs, keep=0)
    findings.true("every layer is seen once", "decoder", seen == list(range(subject.n_layers)), len(seen), 0)
    findings.close(
        "the last lens equals the logits",
        "norm and unembed",
        subject.unembed(subject.norm(keep["resid"])),
        logits,
    )
    check_eager(findings, inputs, logits, keep)
    check_edits(findings, inputs, logits)
    return pd.DataFrame(findings.rows)


def small_inputs(subject: Subject) -> dict[str, Tensor]:
    """Two prompts of random tokens, the second three tokens shorter and padded on the right."""
    vocabulary = subject.model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    return {"input_ids": ids.to(subject.device), "attention_mask": mask.to(subject.device)}


def check_layer(findings: Findings, layer: Layer, real: Tensor, keep: dict[str, Tensor]) -> None:
    """The proofs that need one layer's tensors only."""
    subject, where = findings.subject, f"layer {layer.index}"
    z, pattern = layer.z, layer.pattern()
    heads, d_head = subject.n_heads, subject.W_O(layer.index).shape[1]
    findings.close("z is what W_O reads", where, z.flatten(2), keep[f"{layer.index}.o_in"])
    findings.true("z has one row per head", where, z.shape[2:] == (heads, d_head), z.shape[2], heads)
    sums = pattern.sum(-1)[real[:, None].expand(-1, heads, -1)]
    low = 0.0 if layer.attention.sinks is not None else 1.0
    off = float(torch.maximum(sums - 1, low - sums).max())
    findings.true("pattern rows sum to 1", where, off <= findings.tolerance, off, findings.tolerance)
    leak = float((pattern * ~real[:, None, None, :] * real[:, None, :, None]).abs().max())
    findings.true("padding is never read", where, leak == 0, leak, 0)
    groups = pattern.shape[1] // layer.v.shape[2]
    mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, layer.v.float().repeat_interleave(groups, 2))
    findings.close("pattern times v is z", where, mixed[real], z[real].float())
    heads_out = torch.einsum("bphd,hdm->bpm", z.float(), subject.W_O(layer.index).float())
    bias = getattr(anatomy.output_projection(subject.layers[layer.index]), "bias", None)
    heads_out = heads_out if bias is None else heads_out + bias.float()
    findings.close("heads through W_O sum to the attention output", where, heads_out, keep[f"{layer.index}.o_out"])
    parts = layer.resid_pre.float() + layer.attn_out.float() + layer.mlp_out.float()
    findings.close("parts sum to the residual", where, parts[real], layer.resid_post[real].float())
    if layer.index:
        findings.close("a layer reads what the one before wrote", where, layer.resid_pre, keep["resid"])
    keep["resid"] = layer.resid_post
    keep[f"{layer.index}.pattern"] = pattern


def check_eager(findings: Findings, inputs: dict[str, Tensor], logits: Tensor, keep: dict[str, Tensor]) -> None:
    """Hugging Face's own eager attention gives the same logits and the same patterns."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    subject.text_config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            eager = subject.model(**subject.prepare(inputs), use_cache=False, output_attentions=True)
    finally:
        subject.text_config._attn_implementation = NAME
    findings.close("logits equal eager attention's", "model", logits[real], eager.logits[real], slack=10)
    for index, reference in enumerate(eager.attentions or ()):
        rows = real[:, None].expand(-1, subject.n_heads, -1)
        found = keep[f"{index}.pattern"]
        findings.close("patterns equal eager attention's", f"layer {index}", found[rows], reference.float()[rows])


def check_edits(findings: Findings, inputs: dict[str, Tensor], logits: Tensor) -> None:
    """An edit in any layer moves the logits; the identity edit, through the same path, does not."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    spread = float(logits[real].max() - logits[real].min())

    def moved(edit: Callable[[AttentionCall], AttentionCall], index: int) -> float:
        with tracing(subject, edits={index: edit}):
            return float((subject.forward(inputs, keep=0) - logits)[real].abs().max()) / spread

    def identity(call: AttentionCall) -> AttentionCall:
        return call.edited(mask=call.allowed(), head_scale=torch.ones(1, call.query.shape[1], 1, device=real.device))

    def silence(call: AttentionCall) -> AttentionCall:
        return call.edited(head_scale=torch.zeros(1, call.query.shape[1], 1, device=real.device))

    limit = 10 * findings.tolerance
    for index in sorted({0, subject.n_layers // 2, subject.n_layers - 1}):
        still, shift = moved(identity, index), moved(silence, index)
        findings.true("the identity edit changes nothing", f"layer {index}", still <= limit, still, limit)
        floor = max(10 * still, 10 * torch.finfo(subject.dtype).eps)
        findings.true("an edit moves the logits", f"layer {index}", shift > floor, shift, floor)


class _module_outputs:
    """Keeps what each output projection reads and writes, by plain hooks of its own."""

    def __init__(self, subject: Subject, keep: dict[str, Tensor]) -> None:
        self.subject, self.keep, self.handles = subject, keep, []

    def __enter__(self) -> None:
        for index, layer in enumerate(self.subject.layers):
            self.handles.append(anatomy.output_projection(layer).register_forward_hook(self._hook(index)))

    def __exit__(self, *exc: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, index: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            self.keep[f"{index}.o_in"] = args[0].reshape(*args[0].shape[:2], -1)
            self.keep[f"{index}.o_out"] = first(output).float()

        return hook
