"""The proofs that one layer of a stack allows while it is watched, each against what its own modules read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...data.errors import SubjectError
from ..model import anatomy, vision_inputs
from ..model.tolerance import TOLERANCE
from ..observe.tracing import Layer, first
from ..sites import PARTS, SITES
from .findings import IMAGE, Findings

if TYPE_CHECKING:
    from ..model.stack import Stack


def check_attention(
    findings: Findings, layer: Layer, real: Tensor, keep: dict[str, Tensor], rows: Tensor | None = None
) -> None:
    """The proofs that need one layer's queries, keys, values and mask. rows: Int[b, n], the pattern's, None for all."""
    where, z, pattern = f"layer {layer.index}", layer.attn_z, layer.pattern(rows)
    heads = layer.stack.heads(layer.index)
    findings.close("z is what W_O reads", where, layer.z.flatten(2), layer.as_batch(keep[f"{layer.index}.o_in"]))
    asked = real if rows is None else real.gather(1, rows)
    sums = pattern.sum(-1)[asked[:, None].expand(-1, pattern.shape[1], -1)]
    low = 0.0 if layer.calls[0].sinks is not None else 1.0
    off = float(torch.maximum(sums - 1, low - sums).max())
    findings.true("pattern rows sum to 1", where, off <= TOLERANCE, off, TOLERANCE)
    leak = float((pattern * ~real[:, None, None, :] * asked[:, None, :, None]).abs().max())
    findings.true("padding is never read", where, leak == 0, leak, 0)
    findings.true("one pattern per head", where, pattern.shape[1] == heads, pattern.shape[1], heads)
    groups = pattern.shape[1] // layer.v.shape[2]
    mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, layer.v.float().repeat_interleave(groups, 2))
    z = z if rows is None else z[torch.arange(len(z), device=z.device)[:, None], rows]
    findings.close("pattern times v is attn_z", where, mixed[asked], z[asked].float())
    keep[f"{layer.index}.pattern"] = pattern


def check_heads(findings: Findings, layer: Layer, keep: dict[str, Tensor]) -> None:
    """z, head by head through W_O, is what the attention's output projection writes."""
    where, z, heads = f"layer {layer.index}", layer.z, layer.stack.heads(layer.index)
    weight = layer.stack.W_O(layer.index).to(z.device)
    findings.true("z has one row per head", where, z.shape[2:] == (heads, weight.shape[1]), z.shape[2], heads)
    heads_out = torch.einsum("bphd,hdm->bpm", z.float(), weight.float()) + keep[f"{layer.index}.o_bias"].to(z.device)
    written = layer.as_batch(keep[f"{layer.index}.o_out"])
    findings.close("heads through W_O sum to the attention output", where, heads_out, written)


def check_parts(findings: Findings, layer: Layer, real: Tensor, keep: dict[str, Tensor]) -> None:
    """The proofs that follow one layer's output from the heads, where it has some, to the residual."""
    where = f"layer {layer.index}"
    if layer.attends:
        check_heads(findings, layer, keep)
    parts, whole = layer.sum_of_parts()[real], layer.resid_post[real].float()
    findings.close("parts sum to the residual", where, parts, whole, why=_besides(layer))
    if f"{layer.index}.mid" in keep:
        findings.close("the MLP's side reads resid_mid", where, layer.resid_mid, keep[f"{layer.index}.mid"])
    if layer.index:
        check_between(findings, layer, keep["resid"])
    keep["resid"] = layer.resid_post


def _besides(layer: Layer) -> str:
    """What the layer has beside its known parts, for whoever is told that they do not sum to its residual."""
    module = layer.module
    known = [mixer for mixer in (anatomy.mixer_of(module), anatomy.mid_reader(module)) if mixer is not None]
    for name in filter(lambda name: has(layer, name), PARTS):
        known += [layer.stack.module(layer.index, SITES[name])]
        known += [writer for writer, _ in anatomy.earlier_writers(module, name)]
    others = [name for name, child in module.named_children() if all(child is not one for one in known)]
    return f"; beside the modules of these parts it has {', '.join(others)}" if others else ""


def check_between(findings: Findings, layer: Layer, written: Tensor) -> None:
    """A layer reads what the one before wrote; where the family adds image features between them, on other rows."""
    where, read = f"layer {layer.index}", layer.resid_pre
    if findings.side == IMAGE and vision_inputs.reads_features(findings.subject.model, layer.index):
        rows = ~findings.added.to(read.device)
        added = float((read - written)[~rows].abs().max())
        findings.true("features are added between layers on image rows", where, added > 0, added, 0)
        read, written = read[rows], written[rows]
    findings.close("a layer reads what the one before wrote", where, read, written)


def check_modules(findings: Findings, layer: Layer, real: Tensor, keep: dict[str, Tensor]) -> None:
    """The proofs of the sites in projections, where the layer has them: q, k, and the MLP's neurons.

    What lies behind the neurons is a family's own affair: those proofs are notes and refuse no subject.
    """
    where, index = f"layer {layer.index}", layer.index
    for name in filter(lambda name: has(layer, name), ("q", "k")):
        written = layer.as_batch(keep[f"{index}.{name}"])
        findings.close("the projections' outputs are q and k", f"{where} {name}", layer[name].flatten(2), written)
    if has(layer, "mlp_post"):
        read = layer.as_batch(keep[f"{index}.mlp_post"])
        findings.close("mlp_post is what W_down reads", where, layer["mlp_post"], read)
    if f"{index}.mlp_out" in keep:
        mlp_out = layer.as_batch(keep[f"{index}.mlp_out"])
        findings.likely("neurons through W_down are the MLP's output", where, mlp_out[real], layer.mlp_out[real])
    if has(layer, "mlp_pre") and has(layer, "mlp_post"):
        findings.likely("the activation of mlp_pre is mlp_post", where, _activated(layer), layer["mlp_post"])


def has(layer: Layer, name: str) -> bool:
    """Whether a layer has a site of the table."""
    return layer.stack.has(layer.index, SITES[name])


def _activated(layer: Layer) -> Tensor:
    """The activation of mlp_pre, times mlp_pre_linear where the MLP has a gate; NaN where it is not found."""
    read = layer["mlp_pre"]
    try:
        activated = anatomy.activation(layer.module)(read)
    except SubjectError:
        return torch.full_like(read, torch.nan)
    return activated * layer["mlp_pre_linear"] if has(layer, "mlp_pre_linear") else activated


@contextmanager
def module_outputs(stack: Stack, keep: dict[str, Tensor], *, projections: bool = False) -> Iterator[None]:
    """Keeps what each output projection reads and writes, by plain hooks of its own; and what the others do.

    "<layer>.mlp_out" is what the down projection leads to, through the norm behind it and times `anatomy.gain`.
    """
    with ExitStack() as hooks:
        for index, layer in enumerate(stack.layers):
            if index in stack.attending:
                hooks.callback(anatomy.output_projection(layer).register_forward_hook(_heads(keep, index)).remove)
            if (reader := anatomy.mid_reader(layer)) is not None:
                hooks.callback(reader.register_forward_pre_hook(_mid(keep, index)).remove)
            if projections:
                for name, module in _projections(layer):
                    hooks.callback(module.register_forward_hook(_kept(keep, index, name, layer)).remove)
        yield


def _projections(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, find in (
        ("q", anatomy.query_projection),
        ("k", anatomy.key_projection),
        ("mlp_post", anatomy.down_projection),
    ):
        try:
            yield name, find(layer)
        except SubjectError:
            continue


def _heads(keep: dict[str, Tensor], index: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        keep[f"{index}.o_in"] = args[0] if args[0].ndim < 3 else args[0].reshape(*args[0].shape[:2], -1)
        keep[f"{index}.o_out"] = first(output).float()
        # Read here: outside of the forward, offloaded weights are not there.
        bias = getattr(module, "bias", None)
        keep[f"{index}.o_bias"] = torch.zeros(1) if bias is None else bias.float()

    return hook


def _mid(keep: dict[str, Tensor], index: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        keep[f"{index}.mid"] = args[0]

    return hook


def _kept(keep: dict[str, Tensor], index: int, name: str, layer: nn.Module) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        keep[f"{index}.{name}"] = args[0] if name == "mlp_post" else output
        if name == "mlp_post" and not _is_mixture(layer):
            keep[f"{index}.mlp_out"] = _through(layer, output) * anatomy.gain(layer, "mlp_out")

    return hook


def _is_mixture(layer: nn.Module) -> bool:
    """Whether the MLP is a sum of experts or of several modules."""
    several = anatomy.earlier_writers(layer, "mlp_out")
    return bool(several) or any(hasattr(module, "experts") for module in (layer, anatomy.mlp_of(layer)))


def _through(layer: nn.Module, output: Tensor) -> Tensor:
    """What becomes of the down projection's output before it is added: a norm's, where the family has one there."""
    writer = anatomy.feed_forward_writer(layer)
    return output if writer is anatomy.mlp_of(layer) else writer(output)
