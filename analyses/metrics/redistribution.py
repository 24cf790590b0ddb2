"""Edits that take attention from sinks: VAR for image-centric heads, ACT for hidden sinks."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import NAN, require, require_mask, require_pattern, require_shape, widen
from .columns import attention_share


def nonsink_ratio(
    pattern: Float[Tensor, "b h q k"], image: Bool[Tensor, "b k"], sinks: Bool[Tensor, "b k"]
) -> Float[Tensor, "b h q"]:
    """Visual non-sink ratio Σ_{image∖sinks} A / Σ_{image} A, 0…1; NaN without visual mass.

    `image_centric` chooses heads by it. Source: arXiv 2503.03321. Errors: ValueError for unequal shapes.
    """
    b, _, _, k = require_pattern(pattern)
    require_mask("image", image, b, k)
    require_mask("sinks", sinks, b, k)
    visual = attention_share(pattern, image)
    ratio = attention_share(pattern, image & ~sinks) / visual
    return ratio.masked_fill(visual <= 0, NAN)


def image_centric(
    pattern: Float[Tensor, "b h q k"],
    *,
    image: Bool[Tensor, "b m"],
    sinks: Bool[Tensor, "b m"],
    rho: float | int,
    mass: float | int,
    without_visual_sinks: str = "leave",
) -> Bool[Tensor, "b h q"]:
    """The rows that VAR edits: attention on the image of at least `mass`, and a non-sink ratio of at least rho.

    image, sinks: columns; those behind m are neither. Rows without attention on the image are never chosen.
    without_visual_sinks: where no sink lies in the image, "leave" chooses no row, as the released code does; "move"
    takes the formula as it is printed, where the ratio is then 1 and the BOS's attention goes to the image.
    Source: arXiv 2503.03321, seilk/VisAttnSink logic.py. Errors: ValueError for unequal shapes or another word.
    """
    require(without_visual_sinks in ("leave", "move"), f"without_visual_sinks = {without_visual_sinks!r}")
    b, _, _, k = require_pattern(pattern)
    m = image.shape[-1]
    require(m <= k, f"image has {m} columns, pattern {k}")
    require_mask("image", image, b, m)
    require_mask("sinks", sinks, b, m)
    columns = sink_columns(image, sinks, without_visual_sinks=without_visual_sinks, dtype=widen(pattern).dtype)
    visual, nonsink = (widen(pattern)[..., :m] @ columns.read[..., :2]).unbind(-1)
    return _are_centric(visual, nonsink, columns, rho, mass)


def _are_centric(
    visual: Tensor, nonsink: Tensor, columns: "SinkColumns", rho: float | int, mass: float | int
) -> Tensor:
    enough = visual >= max(mass, torch.finfo(visual.dtype).tiny)
    return enough & (nonsink >= rho * visual) & columns.editable


TAKERS = ("image", "text", "all")


class SinkColumns(NamedTuple):
    """A prompt's columns as VAR's rows are summed over them. read: image, image without sinks, givers, takers,
    [b, 1, m, 4]; write: givers and takers, [b, 1, 2, m]; editable: Bool[b, 1, 1].
    """

    read: Float[Tensor, "b 1 m 4"]
    write: Float[Tensor, "b 1 2 m"]
    editable: Bool[Tensor, "b 1 1"]

    def of(self, examples: slice) -> "SinkColumns":
        return SinkColumns(self.read[examples], self.write[examples], self.editable[examples])


def sink_columns(
    image: Bool[Tensor, "b m"],
    sinks: Bool[Tensor, "b m"],
    givers: Bool[Tensor, "b m"] | None = None,
    *,
    to: str = "image",
    without_visual_sinks: str = "leave",
    dtype: torch.dtype = torch.float32,
) -> SinkColumns:
    """Columns for `redistribute_centric`, made once a prompt. givers: those that give, by default the sinks.

    to: who takes, of the columns that do not give: those of the "image", of the "text", or "all".
    Errors: ValueError for another word.
    """
    require(to in TAKERS, f"to = {to!r} is none of {', '.join(TAKERS)}")
    givers = sinks if givers is None else givers
    takers = {"image": image, "text": ~image, "all": torch.ones_like(image)}[to] & ~givers
    read = torch.stack([image, image & ~sinks, givers, takers], -1).to(dtype)[:, None]
    editable = (image & sinks).any(1) | (without_visual_sinks == "move")
    return SinkColumns(read, torch.stack([givers, takers], 1).to(dtype)[:, None], editable[:, None, None])


def redistribute_centric(
    pattern: Float[Tensor, "b h q k"],
    columns: SinkColumns,
    *,
    p: float | int,
    rho: float | int,
    mass: float | int,
    active: Bool[Tensor, "b q"] | None = None,
) -> Float[Tensor, "b h q k"]:
    """`redistribute_sinks` in place (float32 or float64) on the rows that `image_centric` chooses, in one walk.

    active: rows that may be chosen at all.
    """
    known = pattern[..., : columns.read.shape[2]]
    visual, nonsink, given, taken = (known @ columns.read).unbind(-1)
    heads = _are_centric(visual, nonsink, columns, rho, mass)
    heads = heads if active is None else heads & active[:, None]
    _move(known, columns, given, taken, heads, p)
    return pattern


def _move(known: Tensor, columns: SinkColumns, given: Tensor, taken: Tensor, heads: Tensor, p: float | int) -> None:
    tiny = torch.finfo(known.dtype).tiny
    give = (heads & (taken >= tiny)) * p
    gain = give * given / taken.clamp_min(tiny)
    known.addcmul_(known, torch.stack([-give, gain], -1) @ columns.write)


def redistribute_sinks(
    pattern: Float[Tensor, "b h q k"],
    *,
    image: Bool[Tensor, "b m"],
    sinks: Bool[Tensor, "b m"],
    p: float | int,
    heads: Bool[Tensor, "b h q"],
    to: str = "image",
    out: Float[Tensor, "b h q k"] | None = None,
) -> Float[Tensor, "b h q k"]:
    """VAR: sink columns × (1 − p), the freed attention to visual non-sinks in proportion to theirs.

    sinks: text and visual sink columns; columns behind m are neither image, text nor sink. heads: the rows to edit, as
    from `image_centric`. to: "image", or as the paper compares "text", or "all" that are no sinks.
    Rows keep their sum; rows without attention on those that take stay as they are; p = 0 is the identity.
    Same shape and dtype as `pattern`; out: written there, `pattern` itself for an edit in place (float32 or float64).
    Source: arXiv 2503.03321 (p is what moves; the released code's p is what stays). Slips of that code, not copied:
    NaN in rows without visual non-sink mass, sinks kept from a first image, the last layer edited as well, and the
    7B model's dimensions for the 13B.
    Errors: ValueError for unequal shapes, p outside 0…1 or another word.
    """
    b, h, q, k = require_pattern(pattern)
    m = image.shape[-1]
    require(0 <= p <= 1, f"p = {p} is outside 0…1")
    require(m <= k, f"image has {m} columns, pattern {k}")
    require_mask("image", image, b, m)
    require_mask("sinks", sinks, b, m)
    require_mask("heads", heads, b, h, q)
    new = _written(pattern, out)
    columns = sink_columns(image, sinks, to=to, dtype=new.dtype)
    given, taken = (new[..., :m] @ columns.read[..., 2:]).unbind(-1)
    _move(new[..., :m], columns, given, taken, heads, p)
    return new.to(pattern.dtype)


def calibrate_sinks(
    pattern: Float[Tensor, "b h q k"],
    sinks: Bool[Tensor, "b h m"],
    beta: float | int,
    *,
    out: Float[Tensor, "b h q k"] | None = None,
) -> Float[Tensor, "b h q k"]:
    """ACT: sink columns × β, the freed attention to the other columns in proportion to theirs.

    sinks: [b, h, m], as from `hidden_sinks`; columns behind m are none. Rows keep their sum; rows with attention on
    sinks alone stay as they are; β = 1 is the identity. Same shape and dtype as `pattern`; out: written there,
    `pattern` itself for an edit in place (float32 or float64).
    Source: arXiv 2406.15765 (β = 0.4, layers 2 … L−2). Slips of the released code, not copied: `indices[1:]` spares
    the first sink that was found, be it the first token or not; the patch of Mistral has no effect.
    Errors: ValueError for unequal shapes, β outside 0…1.
    """
    b, h, _, k = require_pattern(pattern)
    m = sinks.shape[-1]
    require(0 <= beta <= 1, f"beta = {beta} is outside 0…1")
    require(m <= k, f"sinks has {m} columns, pattern {k}")
    require_mask("sinks", sinks, b, h, m)
    new = _written(pattern, out)
    known = new[..., :m]
    on_sinks = known * sinks[:, :, None]
    known.sub_(on_sinks)
    given, rest = on_sinks.sum(-1, keepdim=True), new.sum(-1, keepdim=True)
    able = rest > 0
    new.mul_(1 + torch.where(able, (1 - beta) * given / rest.where(able, 1.0), 0.0))
    known.add_(on_sinks * torch.where(able, beta, 1.0))
    return new.to(pattern.dtype)


def _written(pattern: Tensor, out: Tensor | None) -> Tensor:
    """Where an edited pattern is written, in at least float32: a copy, or `out` with the pattern in it."""
    if out is None:
        return widen(pattern).clone() if widen(pattern) is pattern else widen(pattern)
    require_shape("out", out, *pattern.shape)
    require(out.dtype == pattern.dtype == widen(out).dtype, "an edit in place needs float32 or float64")
    return out if out is pattern else out.copy_(pattern)
