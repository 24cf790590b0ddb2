"""Proof that the instruments read what the model computes, on two small examples of random tokens.

Everything is compared with a second way to the same number: Hugging Face's own eager attention, the module's
output, the next layer's input, the model's logits. Of a subject in half precision the wiring is proved in float32, with
the limits of float32; then each layer in its own dtype is held to float32 on the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import SubjectError
from ..intervene.float32 import in_float32, is_half
from ..intervene.proofs import REPLAY, replay_error
from ..intervene.recording import record
from ..model import anatomy, vision_inputs
from ..model.attention import NAME, AttentionCall
from ..model.tolerance import TOLERANCE, block_error, block_limit
from ..model.vision_inputs import PER_TOKEN
from ..observe.tracing import Edit, Layer, first, tracing
from ..prompts.image_ablation import hide_image
from .inputs import image_inputs, padded_left, small_inputs
from .tokenizer import check_tokenizer

if TYPE_CHECKING:
    from ..model.subject import Subject

# The prompts of the check have about SHORT tokens; longer ones prove windows of up to LONGEST_WINDOW.
SHORT, LONGEST_WINDOW = 12, 512
# Where a proof is made on a prompt with an image.
IMAGE = ", with an image"


@dataclass
class Findings:
    """Collects one row per proof; `close` and `true` raise SubjectError on the first that fails."""

    subject: Subject
    rows: list[dict[str, Any]] = field(default_factory=list)
    side: str = ""
    added: Tensor = field(default_factory=lambda: torch.zeros(0))

    def close(self, check: str, where: str, found: Tensor, expected: Tensor, slack: float = 1.0) -> None:
        if found.shape != expected.shape:
            self.fail(check, where + self.side, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
        # Layers may lie on different devices.
        found, expected = found.float().cpu(), expected.float().cpu()
        scale = float(expected.abs().max()) or 1.0
        error = float((found - expected).abs().max()) / scale
        self.true(check, where, error <= slack * TOLERANCE, error, slack * TOLERANCE)

    def true(self, check: str, where: str, passed: bool, value: float, limit: float) -> None:
        self.note(check, where, passed, value, limit)
        if not passed:
            self.fail(check, where + self.side, f"{value:.3g}, allowed {limit:.3g}")

    def note(self, check: str, where: str, passed: bool, value: float, limit: float) -> None:
        """A proof that may fail without the subject being refused."""
        self.rows.append({"check": check, "where": where + self.side, "value": value, "limit": limit, "passed": passed})

    def fail(self, check: str, where: str, detail: str) -> None:
        raise SubjectError(f"{self.subject.family} ({self.subject.name}): {check} fails at {where}: {detail}")


@torch.no_grad()
def check(subject: Subject) -> pd.DataFrame:
    """One row per proof: check, where, value (largest relative difference), limit, passed.

    Raises SubjectError naming the first proof that fails and where.
    """
    findings, inputs = Findings(subject), small_inputs(subject)
    with in_float32(subject, head=True):
        check_text(findings, inputs)
        check_image(findings)
    check_precision(findings, inputs)
    check_tokenizer(findings)
    return pd.DataFrame(findings.rows)


def check_text(findings: Findings, inputs: dict[str, Any]) -> None:
    """The proofs on prompts without an image."""
    subject = findings.subject
    logits, keep = check_forward(findings, inputs)
    last_lens = subject.unembed(subject.norm(keep["resid"]))
    findings.close("the last lens equals the logits", "norm and unembed", last_lens, logits)
    check_eager(findings, inputs, logits, keep)
    check_padding(findings, inputs, logits)
    check_called(findings, inputs, logits)
    check_window(findings)
    check_edits(findings, inputs, logits, (0, subject.n_layers // 2, subject.n_layers - 1))
    check_replay(findings, inputs)


def check_image(findings: Findings) -> None:
    """The same proofs on a prompt with an image; patterns are not kept, an image may be a thousand tokens."""
    subject, inputs = findings.subject, image_inputs(findings.subject)
    if inputs is None:
        return
    findings.side = IMAGE
    findings.added = vision_inputs.image_positions(subject.model, inputs["input_ids"])
    logits, _ = check_forward(findings, inputs)
    check_eager(findings, inputs, logits, {})
    check_called(findings, inputs, logits)
    check_edits(findings, inputs, logits, (subject.n_layers // 2,))
    check_replay(findings, inputs)
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(0, -1)}
    shift = float((subject.forward(other, keep=0) - logits).abs().max())
    findings.true("another image, other logits", "model", shift > 0, shift, 0)
    findings.side = ""


def check_forward(findings: Findings, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward with the proofs that each layer allows: its logits, and what later proofs compare."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    keep: dict[str, Tensor] = {}
    seen: list[int] = []

    def on_layer(layer: Layer) -> None:
        where, place = f"layer {layer.index}", len(seen)
        findings.true("every layer is seen once, in order", where, layer.index == place, layer.index, place)
        seen.append(layer.index)
        there = real.to(layer.resid_post.device)
        check_attention(findings, layer, there, keep)
        if findings.side in ("", IMAGE):
            check_parts(findings, layer, there, keep)
        if findings.side == IMAGE:
            del keep[f"{layer.index}.pattern"]

    with _module_outputs(subject, keep), tracing(subject, on_layer):
        logits = subject.forward(inputs, keep=0)
    findings.true("every layer is seen once, in order", "decoder", len(seen) == subject.n_layers, len(seen), 0)
    last = (real * torch.arange(real.shape[1], device=real.device)).argmax(1)  # not by the function that is proved
    expected = logits[torch.arange(len(last), device=logits.device), last.to(logits.device)]
    findings.close("the last logits are the last token's", "model", subject.last_logits(inputs), expected, slack=10)
    return logits, keep


def check_attention(findings: Findings, layer: Layer, real: Tensor, keep: dict[str, Tensor]) -> None:
    """The proofs that need one layer's queries, keys, values and mask."""
    where, z, pattern = f"layer {layer.index}", layer.z, layer.pattern()
    heads = findings.subject.n_heads
    findings.close("z is what W_O reads", where, z.flatten(2), keep[f"{layer.index}.o_in"])
    sums = pattern.sum(-1)[real[:, None].expand(-1, pattern.shape[1], -1)]
    low = 0.0 if layer.attention.sinks is not None else 1.0
    off = float(torch.maximum(sums - 1, low - sums).max())
    findings.true("pattern rows sum to 1", where, off <= TOLERANCE, off, TOLERANCE)
    leak = float((pattern * ~real[:, None, None, :] * real[:, None, :, None]).abs().max())
    findings.true("padding is never read", where, leak == 0, leak, 0)
    findings.true("one pattern per head", where, pattern.shape[1] == heads, pattern.shape[1], heads)
    groups = pattern.shape[1] // layer.v.shape[2]
    mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, layer.v.float().repeat_interleave(groups, 2))
    findings.close("pattern times v is z", where, mixed[real], z[real].float())
    keep[f"{layer.index}.pattern"] = pattern


def check_parts(findings: Findings, layer: Layer, real: Tensor, keep: dict[str, Tensor]) -> None:
    """The proofs that follow one layer's output from the heads to the residual."""
    subject, where, z = findings.subject, f"layer {layer.index}", layer.z
    weight = subject.W_O(layer.index).to(z.device)
    shape = (subject.n_heads, weight.shape[1])
    findings.true("z has one row per head", where, z.shape[2:] == shape, z.shape[2], subject.n_heads)
    heads_out = torch.einsum("bphd,hdm->bpm", z.float(), weight.float()) + keep[f"{layer.index}.o_bias"].to(z.device)
    findings.close("heads through W_O sum to the attention output", where, heads_out, keep[f"{layer.index}.o_out"])
    parts = layer.resid_pre.float() + layer.attn_out.float() + layer.mlp_out.float()
    findings.close("parts sum to the residual", where, parts[real], layer.resid_post[real].float())
    if layer.index:
        check_between(findings, layer, keep["resid"])
    keep["resid"] = layer.resid_post


def check_between(findings: Findings, layer: Layer, written: Tensor) -> None:
    """A layer reads what the one before wrote; where the family adds image features between them, on other rows."""
    where, read = f"layer {layer.index}", layer.resid_pre
    if findings.side == IMAGE and layer.index <= vision_inputs.deepstack_layers(findings.subject.model):
        rows = ~findings.added.to(read.device)
        added = float((read - written)[~rows].abs().max())
        findings.true("features are added between layers on image rows", where, added > 0, added, 0)
        read, written = read[rows], written[rows]
    findings.close("a layer reads what the one before wrote", where, read, written)


def check_eager(findings: Findings, inputs: dict[str, Tensor], logits: Tensor, keep: dict[str, Tensor]) -> None:
    """Hugging Face's own eager attention gives the same logits and the same patterns."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    with _eager_attention(subject):
        eager = subject.model(**subject.prepare(inputs), use_cache=False, output_attentions=bool(keep))
    for index, reference in enumerate(eager.attentions or ()):
        rows = real[:, None].expand(-1, subject.n_heads, -1).cpu()
        found, expected = keep[f"{index}.pattern"].cpu()[rows], reference.float().cpu()[rows]
        # Two correct forwards drift apart over the layers: massive activations leave few digits for the others.
        findings.close("patterns equal eager attention's", f"layer {index}", found, expected, 1.0 + index)
    findings.close("logits equal eager attention's", "model", logits[real], eager.logits[real], slack=10)


@contextmanager
def _eager_attention(subject: Subject) -> Iterator[None]:
    subject.text_config._attn_implementation = "eager"
    try:
        yield
    finally:
        subject.text_config._attn_implementation = NAME


def check_called(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    """The model called as its users call it: eager, one prompt, unpadded, without what `prepare` adds."""
    for row, real in enumerate(inputs["attention_mask"].bool()):
        plain = {name: t[row : row + 1, real] if name in PER_TOKEN else t for name, t in inputs.items()}
        with _eager_attention(findings.subject):
            found = findings.subject.model(**plain, use_cache=False).logits
        findings.close("logits equal those of a plain call", f"prompt {row}", logits[row, real], found[0], slack=10)


def check_padding(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    """The same tokens padded on the left, or not at all, give the same logits, with every layer's proofs again."""
    real = inputs["attention_mask"].bool()
    findings.side = ", padded on the left"
    left = padded_left(inputs)
    found, _ = check_forward(findings, left)
    moved = left["attention_mask"].bool()
    findings.close("the padding side changes nothing", "model", found[moved], logits[real], slack=10)
    findings.side = ", without padding"
    found, _ = check_forward(findings, inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])})
    whole = real.all(1)
    findings.close("padding changes nothing", "model", found[whole], logits[whole], slack=10)
    findings.side = ""


def check_window(findings: Findings) -> None:
    """A prompt longer than the window of the layers that have one, where that window is short."""
    subject = findings.subject
    sizes = [getattr(subject.text_config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    window = max((size for size in sizes if size), default=0)
    if not SHORT < window <= LONGEST_WINDOW or subject.model.config.get_text_config() is not subject.model.config:
        return
    ids = small_inputs(subject)["input_ids"][:1].repeat(1, window // SHORT + 2)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    findings.side = ", longer than the window"
    logits, keep = check_forward(findings, inputs)
    check_eager(findings, inputs, logits, keep)
    findings.side = ""


def check_edits(findings: Findings, inputs: dict[str, Any], logits: Tensor, layers: Iterable[int]) -> None:
    """An edit in one of `layers` moves the logits and acts there; the identity edit, the same way, moves nothing."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    spread = float(logits[real].max() - logits[real].min())
    silent: list[int] = []

    def note(layer: Layer) -> None:
        if not bool(layer.z.any()):
            silent.append(layer.index)

    def moved(edit: Edit, index: int) -> float:
        silent.clear()
        with tracing(subject, note, {index: edit}):
            return float((subject.forward(inputs, keep=0) - logits)[real].abs().max()) / spread

    limit = 10 * TOLERANCE
    for index in sorted(set(layers)):
        where = f"layer {index}"
        still = moved(_scaled(1.0), index)
        findings.true("the identity edit changes nothing", where, still <= limit, still, limit)
        floor = max(10 * still, 2 * torch.finfo(torch.float32).eps)
        shift = moved(hide_image(findings.added) if findings.side == IMAGE else _without_first_key, index)
        findings.true("a mask edit moves the logits", where, shift > floor, shift, floor)
        shift = moved(_scaled(0.0), index)
        findings.true("an edit moves the logits", where, shift > floor, shift, floor)
        found = silent[0] if silent else -1
        findings.true("an edit acts in its own layer", where, silent == [index], found, index)


def check_replay(findings: Findings, inputs: dict[str, Any]) -> None:
    """Edited layers, replayed one by one, give the edited forward's logits; where not, sweeps run whole forwards."""
    base = record(findings.subject, inputs)
    where = f"layers, or whole forwards ({base.obstacle})" if base.obstacle else "all layers"
    error = float("nan") if base.obstacle else replay_error(base)
    findings.note("an edited replay equals the edited forward", where, error <= REPLAY, error, REPLAY)


def check_precision(findings: Findings, inputs: dict[str, Any]) -> None:
    """Each layer in half precision against float32 on the same input: what this dtype can give, or what is wrong in it.

    A layer on which Hugging Face's eager attention rounds as badly is the model's own, and raises its limit.
    """
    subject = findings.subject
    if not is_half(subject):
        return
    entering, own = _computed(subject, inputs)
    with in_float32(subject):
        _, wide = _computed(subject, inputs, entering)
    with _eager_attention(subject):
        _, eager = _computed(subject, inputs, entering)
    check, real = f"a layer in {subject.dtype} computes what it does in float32", inputs["attention_mask"].bool()
    for index, expected in enumerate(wide):
        error, usual = (max(_errors(parts[index], expected, real)) for parts in (own, eager))
        limit = max(block_limit(subject.dtype), 2 * usual)
        findings.note(check, f"layer {index}", error <= limit, error, limit)
    failed = [row for row in findings.rows if row["check"] == check and not row["passed"]]
    if failed:
        each = ", ".join(f"{row['where']}: {row['value']:.3g}" for row in failed)
        findings.fail(check, f"{len(failed)} of {subject.n_layers} layers", f"{each}; allowed {failed[0]['limit']:.3g}")


def _computed(
    subject: Subject, inputs: dict[str, Any], entering: Sequence[Tensor] = ()
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """What enters each layer, or is made to, and what its attention, its MLP and it itself write."""
    states: list[Tensor] = []
    parts: list[tuple[Tensor, ...]] = []

    def keep(layer: Layer) -> None:
        states.append(layer.resid_pre)
        parts.append((layer.attn_out, layer.mlp_out, layer.resid_post))

    forced = {(i, "resid_pre"): partial(_instead, state) for i, state in enumerate(entering)}
    with tracing(subject, keep, rewrites=forced):
        subject.forward(inputs, keep=1)
    return states, parts


def _instead(state: Tensor, tensor: Tensor) -> Tensor:
    return state.to(tensor)


def _errors(found: Sequence[Tensor], expected: Sequence[Tensor], real: Tensor) -> list[float]:
    pairs = zip(found, expected, strict=True)
    return [block_error(a[real.to(a.device)], b[real.to(b.device)]) for a, b in pairs]


def _scaled(factor: float) -> Edit:
    """All heads of a layer times `factor`, under its own mask."""

    def edit(call: AttentionCall) -> AttentionCall:
        scale = torch.full((1, call.query.shape[1], 1), factor, device=call.query.device)
        return call.edited(mask=call.allowed(), head_scale=scale)

    return edit


def _without_first_key(call: AttentionCall) -> AttentionCall:
    """Nobody but the token itself reads the first key that anybody reads."""
    allowed = call.allowed()
    own = torch.eye(*allowed.shape[2:], dtype=torch.bool, device=allowed.device)
    first_key = allowed.any(2, keepdim=True).int().cumsum(3) == 1
    return call.edited(mask=allowed & (own | ~first_key))


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
            # Read here: outside of the forward, offloaded weights are not there.
            bias = getattr(module, "bias", None)
            self.keep[f"{index}.o_bias"] = torch.zeros(1) if bias is None else bias.float()

        return hook
