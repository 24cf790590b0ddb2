"""One forward, chosen sites: the activation dictionary of TransformerLens, for any subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ...data.errors import SubjectError, UserError
from ..model import anatomy
from ..model.stack import DECODER, PROJECTOR, VISION
from ..sites import BY_HOOK, SITES, Site, SiteError
from .activation_cache import ActivationCache, full_name
from .layer import Layer
from .tracing import tracing

if TYPE_CHECKING:
    from ..model.subject import Subject
    from ..prompts.batch import Batch


def capture(
    subject: Subject,
    inputs: Mapping[str, Any] | Batch,
    sites: Sequence[str],
    *,
    queries: Int[Tensor, "b n"] | None = None,
) -> ActivationCache:
    """Run `inputs` once and keep `sites` of the table in sites.py.

    sites: short names for all layers ("z", "pattern", "resid_pre", ...) or full ones ("blocks.3.attn.hook_z"); of the
    vision tower with "vision." before them ("vision.z", "vision.blocks.3.attn.hook_z"), of a projector that is an MLP
    with "projector." ("projector.mlp_post").
    In hybrids a short name of the heads' sites, or of a part, means the layers that have it.
    queries: limits patterns to those rows. Returns full name -> tensor: z, q, rot_q [b, p, h, d_head]; k, rot_k,
    v [b, p, kv, d_head]; pattern [b, h, q, k] (or [b, h, n, k]), float32; residuals and outputs [b, p, d]; mlp_pre,
    mlp_pre_linear and mlp_post [b, p, d_mlp]; attn_out and mlp_out are what is added to the residual. In a vision tower
    b counts images or tiles and p patches; Qwen-VL, GLM-V and Pixtral pack all patches into one row, b = 1. Qwen3-VL
    adds image features behind its first layers: there, on image rows, resid_pre of a layer is not resid_post of the one
    before. SiteError (a KeyError): an unknown site, or one that the family does not have, saying why. UserError: the
    vision tower of inputs without an image.
    """
    places = [parse_site(subject, site) for site in sites]
    queries = None if queries is None else queries.to(subject.device)  # once, not in every layer
    cache = ActivationCache()

    def keep(layer: Layer) -> None:
        for place in places:
            if place.layer is None and layer.lacks(place.site):
                continue
            if place.stack == layer.stack.name and place.layer in (None, layer.index):
                value = layer.pattern(queries) if place.site.name == "pattern" else layer[place.site.name]
                name = full_name(layer.stack.prefix + place.site.name, layer.index)
                cache[name] = own_storage(value.detach())

    _run(subject, inputs, keep, dict.fromkeys(place.stack for place in places))
    for stack, what in ((VISION, "vision tower"), (PROJECTOR, "projector")):
        if any(place.stack == stack for place in places) and not any(name.startswith(stack) for name in cache):
            raise UserError(f"{subject.name}: the inputs hold no image, so its {what} did not run")
    return cache


def _run(
    subject: Subject, inputs: Mapping[str, Any] | Batch, keep: Callable[[Layer], None], stacks: Iterable[str]
) -> None:
    """A forward in which `keep` sees the layers of some stacks. SubjectError: what a family never checked broke on."""
    try:
        with ExitStack() as stack:
            for name in stacks:
                stack.enter_context(tracing(subject, keep, stack=name))
            subject.forward(inputs)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        told = anatomy.first_line(error)
        raise SubjectError(f"{subject.family} ({subject.name}): capture broke a forward: {told}") from error


def own_storage(tensor: Tensor) -> Tensor:
    """The tensor, copied where it is a part of a larger one that it would keep alive, such as fused projections."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


class Place(NamedTuple):
    """A site of one stack. layer: None for all."""

    stack: str
    layer: int | None
    site: Site


def parse_site(subject: Subject, text: str) -> Place:
    """The place that a short or full name means. SiteError: unknown. UserError: no vision tower."""
    stack = next((one for one in (VISION, PROJECTOR) if text.startswith(f"{one}.")), DECODER)
    name, layers = text.removeprefix(f"{stack}."), subject.stack(stack).n_layers
    blocks, _, rest = name.partition(".")
    index, _, hook = rest.partition(".")
    found = None
    if name in SITES:
        found = Place(stack, None, SITES[name])
    elif blocks == "blocks" and index.isdigit() and int(index) < layers and hook in BY_HOOK:
        found = Place(stack, int(index), BY_HOOK[hook])
    if found is not None:
        if stack == PROJECTOR:
            subject.stack(stack).require(0, found.site)
        return found
    raise SiteError(
        f"unknown site {text!r}: one of {', '.join(SITES)}, or blocks.<0…{layers - 1}>.<{', '.join(BY_HOOK)}>; "
        "of a vision tower with vision. before it, of a projector with projector."
    )
