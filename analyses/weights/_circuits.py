"""The circuits of a subject's heads, what is known of each by itself, and the same of weights with permuted entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...data.errors import SubjectError
from ...probes.observe.gates import GateError, require_no_gate
from .. import metrics
from ..common.head_weights import Factors, score_circuit, value_circuit
from ._composed import Circuits

RANKS = ("stable rank", "effective rank", "participation ratio")  # as in metrics.Ranks
OF_HEADS = (
    "OV positive eigenvalues",
    "QK positive eigenvalues",
    "QK symmetric share",
    "QK diagonal share",
    *(f"OV {name}" for name in RANKS),
    *(f"QK {name}" for name in RANKS),
)


def circuits_of(subject: Any) -> list[Circuits]:
    """Of every layer with heads; no OV where a gate or a norm stands between values and W_O, no QK where queries or
    keys are normed.
    """
    try:
        require_no_gate(subject, "OV circuits")
        values: Callable[[Any, int], Factors] | None = value_circuit
    except GateError:
        values = None
    return [
        Circuits(layer, _had(values, subject, layer), _had(score_circuit, subject, layer))
        for layer in subject.decoder.attending
    ]


def _had(circuit: Callable[[Any, int], Factors] | None, subject: Any, layer: int) -> Factors | None:
    try:
        return None if circuit is None else circuit(subject, layer)
    except SubjectError:
        return None


def permuted(circuits: list[Circuits], draw: int) -> list[Circuits]:
    """The same with the entries of each head's matrices in another order."""
    rng = torch.Generator().manual_seed(draw)

    def mixed(matrices: Tensor) -> Tensor:
        flat = matrices.flatten(1)
        order = torch.rand(flat.shape, generator=rng).argsort(1).to(flat.device)
        return flat.gather(1, order).view_as(matrices)

    return [
        one._replace(
            ov=None if one.ov is None else (mixed(one.ov[0]), mixed(one.ov[1])),
            qk=None if one.qk is None else (mixed(one.qk[0]), mixed(one.qk[1])),
        )
        for one in circuits
    ]


def of_heads(circuits: list[Circuits], n_layers: int) -> dict[str, Tensor]:
    """OF_HEADS [layer, h], NaN where a layer has no such circuit."""
    width = max((len(part[0]) for one in circuits for part in (one.ov, one.qk) if part is not None), default=0)
    found = {name: torch.full((n_layers, width), torch.nan) for name in OF_HEADS}
    for one in circuits:
        for name, values in _of_layer(one).items():
            found[name][one.layer, : len(values)] = values.cpu()
    return found


def _of_layer(one: Circuits) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for circuit, factors in (("OV", one.ov), ("QK", one.qk)):
        if factors is not None:
            ranks = metrics.spectrum_ranks(torch.linalg.svdvals(metrics.product_core(*factors)))
            values |= {f"{circuit} {name}": rank for name, rank in zip(RANKS, ranks, strict=True)}
            values[f"{circuit} positive eigenvalues"] = metrics.positive_eigenvalue_share(*factors)
    if one.qk is not None:
        heads = list(zip(*one.qk, strict=True))
        values["QK symmetric share"] = torch.stack([metrics.symmetric_share(q, k.mT) for q, k in heads])
        values["QK diagonal share"] = torch.stack([metrics.diagonal_share(q @ k) for q, k in heads])
    return values
