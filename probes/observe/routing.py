"""Which experts a mixture's routers choose for each token, watched; and the same forward without some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...data.errors import SubjectError, UserError
from ..model import anatomy

if TYPE_CHECKING:
    from ..model.subject import Subject

Removed = Mapping[int, Collection[int]]  # layer -> its experts


class Routed(NamedTuple):
    """What one router says of n tokens, as its experts are told. logits: before softmax or sigmoid. chosen: each
    token's experts; weights: what their outputs are multiplied with before they are added.
    """

    logits: Float[Tensor, "n expert"]
    weights: Float[Tensor, "n k"]
    chosen: Int[Tensor, "n k"]


def routers(subject: Subject) -> dict[int, nn.Module]:
    """The routers by layer, of the layers that have one. SubjectError: no layer has, with the reason of the last."""
    found: dict[int, nn.Module] = {}
    reason = ""
    for i, layer in enumerate(subject.layers):
        try:
            found[i] = anatomy.router(layer)
        except SubjectError as error:
            reason = str(error)
    if not found:
        raise SubjectError(f"{subject.family} has no experts to read: {reason}")
    return found


@contextmanager
def routing(
    subject: Subject, on_router: Callable[[int, Routed], Any] | None = None, removed: Removed | None = None
) -> Iterator[None]:
    """In the block every forward calls `on_router(layer, routed)` as each router ends, with what is used.

    removed: experts that are taken out of what was chosen, see `without`; no other expert comes in for them. Tokens are
    in the order of the batch, [b · p]. SubjectError: a model without experts. UserError: a layer without a router, or
    an expert that does not exist.
    """
    known, taken = routers(subject), dict(removed or {})
    _require(subject, known, taken)
    with ExitStack() as stack:
        for index, module in known.items():
            hook = partial(_pass, index, frozenset(taken.get(index, ())), on_router)
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def _require(subject: Subject, known: Mapping[int, nn.Module], removed: Removed) -> None:
    for layer, experts in removed.items():
        if layer not in known:
            those = ", ".join(map(str, known))
            raise UserError(f"layer {layer} of {subject.name} has no router; layers with one: {those}")
        count = n_experts(known[layer])
        wrong = [expert for expert in experts if expert not in range(count)]
        if wrong:
            raise UserError(f"no expert {wrong[0]} in layer {layer} of {subject.name}: it has 0…{count - 1}")


def n_experts(router: nn.Module) -> int:
    """How many a router chooses from: the rows of its weight."""
    return len(router.get_parameter("weight"))


def _pass(
    index: int,
    removed: frozenset[int],
    on_router: Callable[[int, Routed], Any] | None,
    module: Any,
    args: Any,
    out: Any,
) -> Any:
    if not (isinstance(out, tuple) and len(out) == 3 and out[1].shape == out[2].shape):
        raise SubjectError(f"{type(module).__name__} in layer {index} does not say which experts it chose")
    routed = Routed(*(part.reshape(-1, part.shape[-1]) for part in out))
    used = without(routed, removed) if removed else routed
    if on_router is not None:
        on_router(index, used)
    return (out[0], used.weights.reshape(out[1].shape), out[2]) if removed else None


def without(routed: Routed, removed: Collection[int]) -> Routed:
    """The weights of `removed` at 0 and those of a token's other chosen experts larger by one factor, so that their sum
    stays; 0 for tokens that had no other.
    """
    gone = torch.isin(routed.chosen, torch.tensor(sorted(removed), device=routed.chosen.device))
    left = routed.weights.masked_fill(gone, 0.0)
    factor = routed.weights.sum(-1, keepdim=True) / left.sum(-1, keepdim=True)
    scaled = (left * factor).nan_to_num(0.0, 0.0, 0.0)
    return routed._replace(weights=torch.where(gone.any(-1, keepdim=True), scaled, left))
