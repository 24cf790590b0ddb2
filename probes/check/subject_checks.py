"""Proof that the instruments read what the model computes, on two small examples of random tokens.

Everything is compared with a second way to the same number: Hugging Face's own eager attention, the module's
output, the next layer's input, the model's logits. Of a subject in half precision the wiring is proved in float32, with
the limits of float32; then each layer in its own dtype is held to float32 on the same input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import SubjectError, UserError
from ..intervene.float32 import in_float32, is_half
from ..intervene.proofs import replay_error
from ..intervene.recording import record
from ..model import hybrid, vision_inputs
from ..model.attention import NAME, AttentionCall
from ..model.tolerance import TOLERANCE, block_error, block_limit, through_limit
from ..model.vision_inputs import PER_TOKEN
from ..observe.tracing import Edit, Layer, tracing
from ..prompts.image_ablation import hide_image
from ..sites import PARTS, SITES
from .findings import IMAGE, Findings
from .inputs import image_inputs, padded_left, small_inputs
from .layer_checks import check_attention, check_modules, check_parts, module_outputs
from .projector_checks import check_projector
from .rewrite_checks import check_added, check_rewrites
from .tokenizer import check_tokenizer
from .tower_checks import check_tower

if TYPE_CHECKING:
    from ..model.subject import Subject

# The prompts of the check have about SHORT tokens; longer ones prove windows of up to LONGEST_WINDOW.
SHORT, LONGEST_WINDOW = 12, 512


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
    attending = subject.decoder.attending
    check_edits(findings, inputs, logits, (attending[0], attending[len(attending) // 2], attending[-1]))
    check_rewrites(findings, inputs, logits, subject.n_layers // 2)
    check_added(findings, inputs)
    check_replay(findings, inputs)


def check_image(findings: Findings) -> None:
    """The same proofs on a prompt with an image; patterns are not kept, an image may be a thousand tokens."""
    subject = findings.subject
    try:
        inputs = image_inputs(subject)
    except (UserError, SubjectError) as error:  # whoever asks for a prompt with a picture is told the same
        findings.note(f"a picture can be put into a prompt ({error})", "processor", False, 0, 0)
        return
    if inputs is None:
        return
    findings.side = IMAGE
    findings.added = vision_inputs.image_positions(subject.model, inputs["input_ids"])
    logits, _ = check_forward(findings, inputs)
    check_eager(findings, inputs, logits, {})
    check_called(findings, inputs, logits)
    attending = subject.decoder.attending
    check_edits(findings, inputs, logits, (attending[len(attending) // 2],))
    check_replay(findings, inputs)
    check_tower(findings, inputs, logits)
    check_projector(findings, inputs, logits)
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(0, -1)}
    shift = float((subject.forward(other, keep=0) - logits).abs().max())
    findings.true("another image, other logits", "model", shift > 0, shift, 0)
    findings.side = ""


def check_forward(findings: Findings, inputs: dict[str, Any], rows: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward with the proofs that each layer allows: its logits (of the last `rows` positions, 0 for all), and
    what later proofs compare.
    """
    subject, real = findings.subject, inputs["attention_mask"].bool()
    keep: dict[str, Tensor] = {}
    seen: list[int] = []

    def on_layer(layer: Layer) -> None:
        where, place = f"layer {layer.index}", len(seen)
        findings.true("every layer is seen once, in order", where, layer.index == place, layer.index, place)
        seen.append(layer.index)
        there = real.to(layer.resid_post.device)
        if layer.attends:
            check_attention(findings, layer, there, keep)
        if findings.side in ("", IMAGE):
            check_parts(findings, layer, there, keep)
        if findings.side == "":
            check_modules(findings, layer, there, keep)
        if findings.side == IMAGE and layer.attends:
            del keep[f"{layer.index}.pattern"]

    with module_outputs(subject.decoder, keep, projections=findings.side == ""), tracing(subject, on_layer):
        logits = subject.forward(inputs, keep=rows)
    findings.true("every layer is seen once, in order", "decoder", len(seen) == subject.n_layers, len(seen), 0)
    last = (real * torch.arange(real.shape[1], device=real.device)).argmax(1)  # not by the function that is proved
    place = last.to(logits.device) - (real.shape[1] - logits.shape[1])
    expected = logits[torch.arange(len(last), device=logits.device), place]
    findings.through("the last logits are the last token's", "model", subject.last_logits(inputs), expected)
    return logits, keep


def check_eager(findings: Findings, inputs: dict[str, Tensor], logits: Tensor, keep: dict[str, Tensor]) -> None:
    """Hugging Face's own eager attention gives the same logits and the same patterns."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    last = logits.shape[1]
    few = {"logits_to_keep": last} if last < real.shape[1] and subject._keeps_logits else {}
    with _eager_attention(subject):
        eager = subject.model(**subject.prepare(inputs), use_cache=False, output_attentions=bool(keep), **few)
    inner = getattr(eager, "language_model_outputs", eager)  # BLIP-2 wraps them
    shown = [pattern for pattern in inner.attentions or () if pattern is not None]  # of layers with attention
    for index, reference in zip(subject.decoder.attending, shown, strict=bool(shown)):
        rows = real[:, None].expand(-1, reference.shape[1], -1).cpu()
        found, expected = keep[f"{index}.pattern"].cpu()[rows], reference.float().cpu()[rows]
        # Two correct forwards drift apart over the layers: massive activations leave few digits for the others.
        found = _as_shown(found, expected)
        findings.close("patterns equal eager attention's", f"layer {index}", found, expected, 1.0 + index)
    there, expected = real[:, -last:].to(logits.device), eager.logits[:, -last:]
    findings.through("logits equal eager attention's", "model", logits[there], expected[there])


def _as_shown(found: Tensor, expected: Tensor) -> Tensor:
    """Pattern rows [n, k] as eager attention returns them: of some families (Granite with sinks) without the share that
    a sink takes, which z and the logits hold.
    """
    sums, shown = found.sum(-1, keepdim=True), expected.sum(-1)
    whole = float((shown - 1).abs().max()) <= TOLERANCE
    return found / sums if whole and float(sums.min()) < 1 - TOLERANCE else found


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
        shares = {name: t.chunk(len(inputs["attention_mask"]))[row] for name, t in inputs.items()}
        plain = {name: share[:, real] if name in PER_TOKEN else share for name, share in shares.items()}
        with _eager_attention(findings.subject):
            found = findings.subject.model(**plain, use_cache=False).logits
        findings.through("logits equal those of a plain call", f"prompt {row}", logits[row, real], found[0])


def check_padding(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    """The same tokens padded on the left, or not at all, give the same logits, with every layer's proofs again."""
    real = inputs["attention_mask"].bool()
    findings.side = ", padded on the left"
    left = padded_left(inputs)
    found, _ = check_forward(findings, left)
    moved = left["attention_mask"].bool()
    atol = through_limit(findings.subject.n_layers) * float(logits[real].abs().max())
    same = torch.allclose(found[moved], logits[real], rtol=0, atol=atol)
    why = "" if same else _padded_by_itself(findings.subject, inputs, left)
    findings.through("the padding side changes nothing", "model", found[moved], logits[real], why=why)
    findings.side = ", without padding"
    found, _ = check_forward(findings, inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])})
    whole = real.all(1)
    findings.through("padding changes nothing", "model", found[whole], logits[whole])
    findings.side = ""


def _padded_by_itself(subject: Subject, *batches: dict[str, Any]) -> str:
    """Whether padding moves the family's own eager logits too, for whoever is told that it does."""
    with _eager_attention(subject):
        outputs = [subject.model(**subject.prepare(one), use_cache=False).logits for one in batches]
    own = [logits[one["attention_mask"].bool()] for logits, one in zip(outputs, batches, strict=True)]
    moves = float((own[0] - own[1]).abs().max()) > through_limit(subject.n_layers) * float(own[0].abs().max())
    return "; with eager attention it changes them too: the family's own forward depends on the side" if moves else ""


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
    logits, keep = check_forward(findings, inputs, SHORT)  # all rows of a large vocabulary would be gigabytes
    check_eager(findings, inputs, logits, keep)
    findings.side = ""


def check_edits(findings: Findings, inputs: dict[str, Any], logits: Tensor, layers: Iterable[int]) -> None:
    """An edit in one of `layers` moves the logits and acts there; the identity edit, the same way, moves nothing."""
    subject, real = findings.subject, inputs["attention_mask"].bool()
    spread = float(logits[real].max() - logits[real].min())
    silent: list[int] = []

    def note(layer: Layer) -> None:
        if layer.attends and not bool(layer.attn_z.any()):
            silent.append(layer.index)

    def moved(edit: Edit, index: int) -> float:
        silent.clear()
        with tracing(subject, note, {index: edit}):
            return float((subject.forward(inputs, keep=0) - logits)[real].abs().max()) / spread

    limit = through_limit(subject.n_layers)
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
    cost = hybrid.on_all_rows(findings.subject.decoder)
    where = f"layers, or whole forwards ({base.obstacle})" if base.obstacle else f"all layers{cost and f' ({cost})'}"
    error = float("nan") if base.obstacle else replay_error(base)
    limit = through_limit(findings.subject.n_layers)
    findings.note("an edited replay equals the edited forward", where, error <= limit, error, limit)


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
        parts.append((*(layer[name] for name in PARTS if layer.stack.has(layer.index, SITES[name])), layer.resid_post))

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
