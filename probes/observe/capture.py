"""One forward, chosen sites: the activation dictionary of TransformerLens, for any subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Int
from torch import Tensor

from .tracing import Layer, tracing

if TYPE_CHECKING:
    from ..model.subject import Subject
    from ..prompts.batch import Batch

# Short name -> the rest of the TransformerLens name after "blocks.<layer>.".
SITES = {
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
}
_SHORT = {long: short for short, long in SITES.items()}


def capture(
    subject: Subject,
    inputs: Mapping[str, Any] | Batch,
    sites: Sequence[str],
    *,
    queries: Int[Tensor, "b n"] | None = None,
) -> dict[str, Tensor]:
    """Run `inputs` once and keep `sites`.

    sites: short names for all layers ("z", "pattern", "resid_pre", ...) or full ones ("blocks.3.attn.hook_z").
    queries: limits patterns to those rows. Returns full name -> tensor: z, q, rot_q [b, p, h, d_head]; k, rot_k,
    v [b, p, kv, d_head]; pattern [b, h, q, k] (or [b, h, n, k]), float32; residuals and outputs [b, p, d];
    attn_out and mlp_out are what is added to the residual. Qwen3-VL adds image features behind its first layers:
    there, on image rows, resid_pre of a layer is not resid_post of the one before. KeyError: an unknown site, or one
    that the family does not have, saying why.
    """
    wanted = [parse_site(subject, site) for site in sites]
    found: dict[str, Tensor] = {}

    def keep(layer: Layer) -> None:
        for index, short in wanted:
            if index in (None, layer.index):
                value = layer.pattern(queries) if short == "pattern" else getattr(layer, short)
                found[f"blocks.{layer.index}.{SITES[short]}"] = own_storage(value.detach())

    with tracing(subject, keep):
        subject.forward(inputs)
    return found


def own_storage(tensor: Tensor) -> Tensor:
    """The tensor, copied where it is a part of a larger one that it would keep alive, such as fused projections."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def parse_site(subject: Subject, site: str) -> tuple[int | None, str]:
    """(layer, or None for all, and short name) of a site. KeyError: unknown."""
    if site in SITES:
        return None, site
    prefix, _, rest = site.partition(".")
    index, _, long = rest.partition(".")
    if prefix == "blocks" and index.isdigit() and int(index) < subject.n_layers and long in _SHORT:
        return int(index), _SHORT[long]
    raise KeyError(
        f"unknown site {site!r}: one of {', '.join(SITES)}, or blocks.<0…{subject.n_layers - 1}>.<{SITES['z']}, …>"
    )
